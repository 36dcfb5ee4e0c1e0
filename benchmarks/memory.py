"""What a pool needs of memory: the arena, and what each worker has to itself (USS).

A Probe env needs next to nothing, so its worker shows what a worker itself costs.
"""
import sys
from functools import partial
from multiprocessing import get_all_start_methods

import psutil

import fastvec
import fastvec.drive
from fastvec_c.probe import Probe

import harness

TARGET = 60  # MB of a worker, beside its env
WORKERS = 2


def main():
    p = harness.parser(__doc__)
    args = p.parse_args()
    report = harness.Report("memory", args)
    envs = {"Probe": Probe, "drive, 8 worlds": partial(fastvec.drive.creator, "shipped", 8)()}
    rows, own = [], {}
    for name, creator in envs.items():
        for method in get_all_start_methods():
            arena, trainer, workers = measure(creator, method, 91)
            rows.append([name, method, arena, trainer, workers])
            own[name, method] = workers
    report.table(f"{WORKERS} workers after 91 steps, in MB", ["env in each worker", "start method", "arrays", "USS of the trainer",
                                                           "USS of a worker"], rows)
    for (name, method), workers in own.items():
        if name == "Probe":
            report.target(f"a worker takes less than {TARGET} MB ({method})", workers.median < TARGET, f"{workers.median:.1f} MB")
    report.finish()


def measure(creator, method, steps):
    """MB: the arena's arrays, the trainer's USS, the workers'."""
    with fastvec.make(creator, WORKERS, start_method=method) as vec:
        vec.reset(seed=0)
        for _ in range(steps):
            vec.send()
            vec.recv()
        arena = sum(field.nbytes for field in vec.fields.values()) / 1e6
        workers = [psutil.Process(worker.process.pid) for worker in vec._workers]
        return arena, uss(psutil.Process()), harness.Sample(tuple(uss(p) for p in workers))


def uss(process) -> float:
    return process.memory_full_info().uss / 1e6


if __name__ == "__main__":
    sys.exit(main())
