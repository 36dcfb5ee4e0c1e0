"""More workers than CPUs: what is left of the CPUs' speed, and what workers cost that have nothing to do.

The envs burn CPU time.  What all CPUs could do is their number times the serial rate, which is measured in turn: the
same env in this process.
"""
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil

import fastvec
from fastvec.machine import usable_cpus
from fastvec_c.probe import Probe

import harness

TARGETS = {1000: 0.95, 100: 0.85}  # µs of a step: share of the CPUs, at least
WORKERS = (8, 32)
IDLE = 0.01  # CPUs that idle workers may use, all of them together


def main():
    p = harness.parser(__doc__)
    p.add_argument("--wait", default="auto", type=harness.wait_policy, help=harness.WAIT_HELP)
    args = p.parse_args()
    report = harness.Report("oversubscribed", args)
    repetitions, seconds = (2, 0.1) if args.quick else (9, 0.5)
    shares = {}
    for work_us in TARGETS:
        shares |= {(work_us, *side): share for side, share in busy(report, work_us, args.wait, repetitions, seconds).items()}
    cpus = {n: harness.Sample(tuple(idle(n, args.wait, 0.5 if args.quick else 2.0) for _ in range(1 if args.quick else 3)))
            for n in WORKERS}
    report.table("idle workers after a reset, all together", ["", "% of a CPU"],
                 [[harness.workers(n), harness.Sample(tuple(100 * x for x in c.values))] for n, c in cpus.items()])
    for (work_us, n, mode), share in shares.items():
        report.target(f"{n} workers, {work_us / 1000:g} ms, {mode}: at least {TARGETS[work_us]:.0%} of the CPUs",
                      share.median >= TARGETS[work_us], f"{share.median:.1%}")
    for n, c in cpus.items():
        report.target(f"{n} idle workers use less than {IDLE:.0%} of a CPU", c.median < IDLE, f"{c.median:.2%}")
    report.finish()


def busy(report, work_us, wait, repetitions, seconds):
    """{(workers, mode): share of what the CPUs could do}."""
    creator = partial(Probe, work_us=work_us)
    vecs = {"serial": fastvec.make(creator, 0)}
    for n in WORKERS:
        vecs[n, "sync"] = fastvec.make(creator, n, wait=wait)
        vecs[n, "async, half batches"] = fastvec.make(creator, n, wait=wait, batch_size=n // 2)
    try:
        for vec in vecs.values():
            vec.async_reset(seed=0)
            vec.recv()
        sides = {side: partial(env_steps_per_second, vec, seconds) for side, vec in vecs.items()}
        measured = report.rounds.in_turn(sides, repetitions)
    finally:
        for vec in vecs.values():
            vec.close()
    serial = measured.pop("serial")
    ratios = {side: harness.ratio(rate, serial) for side, rate in measured.items()}
    shares = {side: harness.Sample(tuple(x / usable_cpus() for x in r.values)) for side, r in ratios.items()}
    rows = [["this process", "", serial, None]]
    rows += [[harness.workers(side[0]), side[1], measured[side], shares[side]] for side in measured]
    report.table(f"envs that burn {work_us / 1000:g} ms of CPU in a step", ["", "", "env-steps/s", "share of the CPUs"], rows)
    return shares


def env_steps_per_second(vec, seconds) -> float:
    actions = np.zeros(vec.batch_size, np.int64)

    def step():
        vec.send(actions)
        vec.recv()

    rate = vec.batch_size / harness.seconds_per_call(step, seconds)
    time.sleep(0.002 * vec.num_envs)  # half batches: the other half finishes before the next side begins
    return rate


def idle(workers, wait, seconds) -> float:
    """CPUs that workers use while the trainer does something else."""
    with fastvec.make(Probe, workers, wait=wait) as vec:
        vec.reset(seed=0)
        processes = psutil.Process().children()
        time.sleep(0.2)
        before, began = cpu_seconds(processes), time.monotonic()
        time.sleep(seconds)
        return (cpu_seconds(processes) - before) / (time.monotonic() - began)


def cpu_seconds(processes) -> float:
    """Of all threads, in ns where the kernel counts so finely (schedstat), else in its ticks."""
    try:
        stats = [task.read_text() for p in processes for task in Path(f"/proc/{p.pid}/task").glob("*/schedstat")]
        return sum(int(stat.split()[0]) for stat in stats) * 1e-9
    except OSError:
        return sum(t.user + t.system for t in (p.cpu_times() for p in processes))


if __name__ == "__main__":
    sys.exit(main())
