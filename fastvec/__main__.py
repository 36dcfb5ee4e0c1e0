"""`python -m fastvec`: the same as the console script `fastvec`."""
import sys

from fastvec.cli import main

sys.exit(main())
