"""Steps of controlled agents per second in the drive world: random actions, observations written, resets included.

A step counts for every agent that its mask says is still driven.  By default the shipped scenes, in turn.
"""
import sys
import time
from functools import partial

import numpy as np

import fastvec
import fastvec.drive
from fastvec.autotune import random_actions
from fastvec.machine import usable_cpus

import harness


def main():
    p = harness.parser(__doc__)
    p.add_argument("--scenes", default="shipped", help="a scene file or a folder of them (default: the shipped ones)")
    p.add_argument("--worlds", type=int, nargs="+", help="in all (default: 4 16 64)")
    p.add_argument("--workers", type=int, nargs="+", help="(default: 0, 1, 2, 4, ... usable CPUs)")
    args = p.parse_args()
    report = harness.Report("drive", args)
    repetitions, seconds = (2, 0.3) if args.quick else (7, 1.0)
    for worlds in args.worlds or ((16,) if args.quick else (16, 4, 64)):
        workers = [n for n in args.workers or up_to(int(usable_cpus())) if worlds % max(1, n) == 0]
        rate(report, args.scenes, worlds, workers, repetitions, seconds)
    report.finish()


def up_to(cpus) -> list[int]:
    """0, the powers of two, and all CPUs."""
    return sorted({0, cpus, *(2**k for k in range(cpus.bit_length()) if 2**k <= cpus)})


def rate(report, scenes, worlds, workers, repetitions, seconds):
    vecs = {n: fastvec.make(fastvec.drive.creator(scenes, worlds // max(1, n)), n, num_envs=max(1, n)) for n in workers}
    try:
        agents = controlled(vecs[workers[0]])
        sides = {n: partial(agent_steps_per_second, vec, seconds) for n, vec in vecs.items()}
        measured = report.rounds.in_turn(sides, repetitions)
        balances = {n: balance(vec) for n, vec in vecs.items()}
    finally:
        for vec in vecs.values():
            vec.close()
    cores = {n: min(max(1, n), usable_cpus()) for n in workers}
    rows = [[harness.workers(n), m, harness.Sample(tuple(x / cores[n] for x in m.values)), harness.ratio(m, measured[workers[0]]),
             balances[n]]
            for n, m in measured.items()]
    report.table(f"{worlds} worlds, {agents} controlled agents: their steps per second",
                 ["", "in all", "per core", f"times {harness.workers(workers[0])}", "balance"], rows)


def controlled(vec) -> int:
    vec.reset(seed=0)
    return int(vec.masks.sum())


def balance(vec) -> float | None:
    """The mean worker's busy time over the busiest one's: what is below 1 is lost to uneven worlds."""
    busy = [worker.busy for worker in vec.stats().workers]
    return sum(busy) / len(busy) / max(busy) if busy else None


def agent_steps_per_second(vec, seconds) -> float:
    """Of the agents that are driven; the time to draw actions and to count does not count."""
    rng = np.random.default_rng(0)
    actions = [random_actions(vec.action_spec, vec.num_rows, rng) for _ in range(64)]
    vec.reset(seed=0)
    for i in range(91):  # episodes of worlds that end early drift apart
        vec.step(actions[i % 64])
    counted = steps = 0
    took = 0.0
    while took < seconds:
        counted += int(vec.masks.sum())
        began = time.perf_counter()
        vec.step(actions[steps % 64])
        took += time.perf_counter() - began
        steps += 1
    return counted / took


if __name__ == "__main__":
    sys.exit(main())
