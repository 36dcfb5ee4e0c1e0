"""A signal that comes while a worker is forked is handled afterwards, not lost."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
import fastvec
import psutil
from fastvec_c.probe import Probe

strikes = []

def strike():
    if len(strikes) < 1:
        strikes.append(1)
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(1000):  # here it would be handled, and what its handler raises be swallowed
            pass

def slow():
    time.sleep(3600)

def leave(*_):
    raise SystemExit(77)

os.register_at_fork(after_in_parent=strike)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
signal.signal(signal.SIGTERM, leave)
handlers = [signal.getsignal(signal.SIGINT), leave]
try:
    fastvec.make(slow, 2)
except KeyboardInterrupt:
    print("interrupted")
except SystemExit as error:
    print("left", error.code)
print([signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers)
print(len(psutil.Process().children()))
with fastvec.make(Probe, 2) as vec:  # nothing is wrong with the next one
    vec.reset(seed=0)
    print(vec.num_workers)
"""


@pytest.mark.parametrize("name, said", [("SIGINT", "interrupted"), ("SIGTERM", "left 77")])
def test_signal_amid_a_fork(name, said):
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run([sys.executable, "-c", SCRIPT, name], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stdout.splitlines() == [said, "True", "0", "2"], result.stderr
    assert "gnored" not in result.stderr
