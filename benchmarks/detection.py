"""How long after a worker's death its WorkerError is raised; the signals come from outside, at random moments of a run.

Beside sync and asynchronous batches with each way of waiting: a trainer that is asleep in `recv` since long, and one that comes late.
"""
import os
import random
import signal
import sys
import threading
import time

import fastvec
import numpy as np
from fastvec_c.probe import Probe

import harness

LIMIT = 0.5  # seconds


def death_to_error(wait, options, work_us):
    """Seconds from the signal to the error."""
    vec = fastvec.make(lambda: Probe(work_us=work_us), 4, wait=wait, **options)
    vec.async_reset()
    victim, when = random.randrange(4), []

    def kill():
        when.append(time.perf_counter())
        os.kill(vec._workers[victim].process.pid, signal.SIGKILL)

    timer = threading.Timer(0.02 + 0.1 * random.random(), kill)
    timer.start()
    try:
        while True:
            vec.send(np.zeros(len(vec.recv().rows), np.int64))
    except fastvec.WorkerError:
        return time.perf_counter() - when[0]
    finally:
        timer.join()
        vec.close()


def main():
    args = harness.parser(__doc__).parse_args()
    report = harness.Report("detection", args)
    random.seed(0)
    rows, worst = [], 0.0
    for wait in ("spin", "yield", "park"):
        for name, options in (("all in a batch", {}), ("batches of 2", {"batch_size": 2}), ("blocks of 2", {"batch_size": 2, "zero_copy": True})):
            for work_us, envs in ((10, "10 µs"), (20_000, "20 ms"), (60_000_000, "stuck")):
                sample = harness.Sample(tuple(1e3 * death_to_error(wait, options, work_us) for _ in range(2 if args.quick else 5)))
                rows.append([f"{wait}, {name}, envs of {envs}", sample])
                worst = max(worst, *sample.values)
    report.table("ms from a worker's death to its WorkerError, the others ended", ["", "ms"], rows)
    report.target(f"within {LIMIT * 1e3:g} ms", worst <= LIMIT * 1e3, f"{worst:.0f} ms at worst")
    report.finish()


if __name__ == "__main__":
    sys.exit(main())
