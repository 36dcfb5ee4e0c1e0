"""Programs that are run to their end in a process of their own."""
import os
import subprocess
import sys

import psutil

HERE = os.path.dirname(__file__)
# A background job of a shell without job control ignores Ctrl-C, and so would whatever the tests start.
PRELUDE = f"""
import gc, os, resource, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {HERE!r})
"""
IMPORTS = "import numpy as np, psutil\nimport envs, fastvec\n"


def popen(code, *command):
    """Starts a program, under `command` (as `taskset -c 0`)."""
    return subprocess.Popen(
        [*command, sys.executable, "-c", PRELUDE + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def run(code, *command, timeout=60):
    """What a program prints that must end well."""
    process = popen(code, *command)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


def handles(line):
    """Of the processes in a line of pids; those that have ended already are left out."""
    found = []
    for pid in line.split():
        try:
            found.append(psutil.Process(int(pid)))
        except psutil.NoSuchProcess:
            pass
    return found


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not alive
