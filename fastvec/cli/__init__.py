"""The command line: `fastvec COMMAND`, or `python -m fastvec COMMAND`.  One file a command.

The commands import what they need when they run, so that `fastvec --help` works without the extras; that is also why
this is argparse: the console script exists wherever fastvec does, and must be able to say what to install.
"""
from __future__ import annotations

import argparse
import os
import sys

from fastvec.cli import demo, doctor, eval, scenes, top, tune
from fastvec.cli.errors import INTERRUPTED, CliError

__all__ = ["main"]

COMMANDS = (demo, doctor, eval, scenes, top, tune)  # modules with add_parser(subparsers), which sets the default `run`: a function of args to exit status


def main(argv=None) -> int:
    """Runs one command; argv without the program's name, by default that of the process.  Returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args)
    except CliError as error:
        print(f"fastvec {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"fastvec {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `fastvec demo | head`: who read is gone, and nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser():
    parser = argparse.ArgumentParser(prog="fastvec", description="Many CPU simulators behind one policy.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser
