"""System calls and heap allocations of a step, of the trainer and its workers together.

System calls are counted by strace, attached while both sides run; where it is missing, context switches are counted
instead.  Allocations are counted by a malloc of our own (mallocs.c, glibc only) in a Python that takes every
object from malloc (PYTHONMALLOC=malloc).
"""
import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import repeat
from pathlib import Path

import numpy as np
import psutil

import fastvec
from fastvec.machine import usable_cpus
from fastvec_c.probe import Probe

import harness

FEW = 0.01  # of a kind in a step: one in a hundred is a wait that another process has drawn out


def main():
    p = harness.parser(__doc__)
    p.add_argument("--step", nargs=2, type=int, metavar=("WORKERS", "STEPS"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.step:
        return step(*args.step)
    report = harness.Report("syscalls", args)
    repetitions = 2 if args.quick else 7
    steps = {n: (20_000 if args.quick else 200_000) // max(1, n) ** 2 for n in (0, 1, 2, 8)}  # strace makes calls slow
    with tempfile.TemporaryDirectory() as folder:
        library = build(folder)
        kinds = {n: [] for n in steps}
        sides = {n: lambda n=n: kinds[n].append(count(n, steps[n], library)) or 0.0 for n in kinds}
        report.rounds.in_turn(sides, repetitions)

    def sample(n, what):
        """Of the rounds that counted, which are the last."""
        counts = kinds[n][-repetitions:]
        return harness.Sample(tuple(c[what] / steps[n] for c in counts)) if all(what in c for c in counts) else None

    columns = ["system calls", "sched_yield", "futex", "heap allocations", "context switches"]
    columns = [what for what in columns if any(sample(n, what) for n in kinds)]
    rows = [[harness.workers(n), *(sample(n, what) for what in columns)] for n in kinds]
    report.table("in one step", ["", *columns], rows)
    for what in ("system calls", "heap allocations"):
        if (found := sample(1, what)) is None:
            report.say(f"{what} were not counted: that takes " + ("strace" if what == "system calls" else "a C compiler"))
        elif usable_cpus() >= 2:
            report.target(f"no {what} in a step of one worker (fewer than {FEW})", found.median < FEW, f"{found}")
    report.finish()


def build(folder) -> str | None:
    """The preloadable malloc; None without a C compiler."""
    if (cc := shutil.which("cc")) is None:
        return None
    library = str(Path(folder, "mallocs.so"))
    subprocess.run([cc, "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("mallocs.c")], check=True)
    return library


def count(workers, steps, library) -> dict[str, int]:
    """What the steps of one pool needed, as far as it can be counted."""
    env = dict(os.environ, PYTHONMALLOC="malloc", **({"LD_PRELOAD": library} if library else {}))
    child = subprocess.Popen([sys.executable, __file__, "--step", str(workers), str(steps)], env=env, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()  # it is ready
    pids = [child.pid, *(p.pid for p in psutil.Process(child.pid).children())]
    with tempfile.NamedTemporaryFile("r") as out:
        tracer = trace(pids, out.name)
        child.stdin.write("go\n")
        child.stdin.flush()
        counts = json.loads(child.stdout.readline())
        if tracer is not None:
            tracer.send_signal(signal.SIGINT)  # it detaches and writes
            tracer.wait()
            counts |= table_of(out.read())
            del counts["context switches"]  # most of them are strace's
    child.communicate("end\n")
    return counts


def trace(pids, path):
    """strace at work on all threads of these processes, or None."""
    if (strace := shutil.which("strace")) is None:
        return None
    tracer = subprocess.Popen([strace, "-f", "-c", "-o", path, *(f"--attach={pid}" for pid in pids)],
                              stderr=subprocess.PIPE, text=True)
    waiting = set(map(str, pids))
    for line in tracer.stderr:
        if (attached := re.search(r"Process (\d+) attached", line)) is not None:
            waiting.discard(attached[1])
        if not waiting:
            time.sleep(0.1)  # the message comes before the rest of a process's threads
            return tracer
    tracer.wait()
    return None


def table_of(text) -> dict[str, int]:
    """strace's summary: {call: count}, and "system calls" for all."""
    calls = {"sched_yield": 0, "futex": 0, "system calls": 0}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and words[3].isdigit():
            calls["system calls" if words[-1] == "total" else words[-1]] = int(words[3])
    return calls


# ---- the process that is counted -------------------------------------------------------------------------------------


def step(workers, steps):
    """Steps a pool when told to, and prints what it knows itself."""
    with fastvec.make(Probe, workers, num_envs=workers or 1) as vec:
        vec.reset(seed=0)
        actions = np.zeros(vec.num_rows, np.int64)
        run(vec, actions, 2000)
        everybody = [psutil.Process(), *psutil.Process().children()]
        print("ready", flush=True)
        sys.stdin.readline()
        mallocs = counter_of_mallocs()
        switches = switches_of(everybody)
        before = mallocs() if mallocs else 0
        run(vec, actions, steps)
        counts = {"heap allocations": mallocs() - before} if mallocs else {}
        counts["context switches"] = switches_of(everybody) - switches
        print(json.dumps(counts), flush=True)
        sys.stdin.readline()


def run(vec, actions, steps):
    send, recv = vec.send, vec.recv
    for _ in repeat(None, steps):
        send(actions)
        recv()


def switches_of(processes) -> int:
    return sum(sum(p.num_ctx_switches()) for p in processes)


def counter_of_mallocs():
    """Counts those of all processes so far; None if mallocs.c is not preloaded."""
    try:
        count = ctypes.CDLL(None).count_of_mallocs
    except AttributeError:
        return None
    count.restype = ctypes.c_long
    return count


if __name__ == "__main__":
    sys.exit(main())
