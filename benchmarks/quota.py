"""A container with a CPU quota: what share of the quota the envs' own work gets, the rest being handoff and waiting.

Needs root, and a cgroup hierarchy whose CPU controller may be used (v1, or v2 with `cpu` in the root's cgroup.subtree_control).
"""
import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import fastvec
import numpy as np
from fastvec_c.probe import Probe

import harness

TARGET = 0.7  # of the quota, with steps of 0.1 ms
QUOTAS = (0.25, 0.5, 1.0)
WAITS = ("auto", "park", "spin")
V1 = Path("/sys/fs/cgroup/cpu")


class Group:
    """A cgroup with a quota, for this process and the workers that it starts."""

    def __init__(self):
        self.root = V1 if V1.is_dir() else Path("/sys/fs/cgroup")
        self.path = self.root / f"fastvec-quota-{os.getpid()}"

    def __enter__(self):
        self.path.mkdir()
        (self.path / "cgroup.procs").write_text(str(os.getpid()))
        return self

    def limit(self, cpus: float):
        if self.root == V1:
            (self.path / "cpu.cfs_quota_us").write_text(str(int(cpus * 100_000)))
        else:
            (self.path / "cpu.max").write_text(f"{int(cpus * 100_000)} 100000")

    def __exit__(self, *_):
        (self.root / "cgroup.procs").write_text(str(os.getpid()))
        self.path.rmdir()


def share(vec, work_us: float, quota: float, seconds: float) -> float:
    """What the envs work, of what the quota allows."""
    actions = np.zeros(vec.num_rows, np.int64)
    steps, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        vec.step(actions)
        steps += 1
    return steps * vec.num_rows * work_us * 1e-6 / (time.monotonic() - began) / quota


def main():
    args = harness.parser(__doc__).parse_args()
    report = harness.Report("quota", args)
    rows, worst = [], 1.0
    with Group() as group:
        for quota in QUOTAS:
            group.limit(quota)
            for work_us, num_workers in ((100, 2), (1000, 2), (100, 8)):
                with ExitStack() as stack:
                    vecs = {wait: stack.enter_context(fastvec.make(partial(Probe, work_us=work_us), num_workers, wait=wait)) for wait in WAITS}
                    for vec in vecs.values():
                        vec.reset(seed=0)
                    sides = {wait: partial(share, vec, work_us, quota, 0.3 if args.quick else 1.0) for wait, vec in vecs.items()}
                    shares = report.rounds.in_turn(sides, 1 if args.quick else 5)
                rows.append([f"{quota:g} CPUs, {harness.workers(num_workers)}, {work_us / 1000:g} ms", *(
                    harness.Sample(tuple(100 * x for x in shares[wait].values)) for wait in WAITS)])
                worst = min(worst, shares["auto"].median)
    report.table("% of the quota that is the envs' work", ["", *(f"wait={wait}" for wait in WAITS)], rows)
    report.target(f"wait=auto: at least {TARGET:.0%}", worst >= TARGET, f"{worst:.0%} at worst")
    report.finish()


if __name__ == "__main__":
    sys.exit(main())
