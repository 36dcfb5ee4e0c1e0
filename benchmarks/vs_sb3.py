"""fastvec.sb3.VecEnv against Stable-Baselines3's own vectorized envs, on gymnasium envs.

All hand out copies and a dict of infos for each env.  SubprocVecEnv forks, which changes nothing but the time it takes to start.
The no-op envs show what vectorization costs; CartPole-v1, in a Monitor, what is left of that with an env that computes.
"""
import statistics
import sys
from functools import partial
from itertools import cycle

import fastvec.sb3
import gymnasium
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

import harness
from noop import NoOp

ENOUGH = 20  # times as fast as SubprocVecEnv
WORKERS = (0, 1, 2, "auto")


def cartpole():
    return Monitor(gymnasium.make("CartPole-v1"))


ENVS = {"no-op, 4 floats": partial(NoOp, 4), "no-op, 2984 floats": partial(NoOp, 2984), "CartPole-v1": cartpole}


def main():
    p = harness.parser(__doc__)
    p.add_argument("--envs", type=int, nargs="+", help="how many (default: 1 2 8 32 128)")
    args = p.parse_args()
    report = harness.Report("vs_sb3", args)
    repetitions, seconds = (2, 0.02) if args.quick else (7, 0.1)
    counts = args.envs or ((2, 8) if args.quick else (1, 2, 8, 32, 128))
    cells = {}
    for kind, creator in ENVS.items():
        for n in counts:
            cells[kind, n] = compare(report, creator, n, repetitions, seconds)
        show(report, kind, {n: cell for (k, n), cell in cells.items() if k == kind})
    judge(report, cells)
    report.finish()


def compare(report, creator, n, repetitions, seconds):
    """({side: µs per step of all n envs}, the number of workers that "auto" took)."""
    creators = [creator] * n
    envs = {"Dummy": DummyVecEnv(creators), "Subproc": SubprocVecEnv(creators, start_method="fork")}
    try:
        envs |= {w: fastvec.sb3.VecEnv(creators, w) for w in WORKERS if w in (0, "auto") or n % w == 0}
        sides = {name: stepper(e, n, seconds) for name, e in envs.items()}
        return report.rounds.in_turn(sides, repetitions), envs["auto"].vec.num_workers
    finally:
        for e in envs.values():
            e.close()


def stepper(envs, n, seconds):
    """A function that measures a step, with random actions, resets included."""
    actions = cycle(np.random.default_rng(0).integers(0, 2, (64, n)))
    envs.seed(0)
    envs.reset()
    step = envs.step
    return lambda: 1e6 * harness.seconds_per_call(lambda: step(next(actions)), seconds)


def fastest(measured):
    """The fastvec side with the least median, "auto" left out."""
    return min((w for w in measured if isinstance(w, int)), key=lambda w: measured[w].median)


def show(report, kind, cells):
    columns = ["envs", "Dummy", "Subproc", "0 workers", "1 worker", "2 workers", "auto", "auto took", "Dummy/best", "Subproc/best",
               "Dummy/auto", "Subproc/auto"]
    rows = []
    for n, (measured, took) in cells.items():
        ratios = [f"{over(measured, peer, side):.3g}" for side in (fastest(measured), "auto") for peer in ("Dummy", "Subproc")]
        rows.append([n, *(measured.get(side) for side in ("Dummy", "Subproc", *WORKERS)), took, *ratios])
    report.table(f"{kind}: µs per step of all envs", columns, rows, brief=True)


def over(measured, peer, side) -> float:
    return harness.ratio(measured[peer], measured[side]).median


def judge(report, cells):
    many = [cell for cell in cells if cell[0].startswith("no-op") and cell[1] >= 8]
    than_subproc = ("Subproc", ENOUGH, f"{ENOUGH} times as fast as SubprocVecEnv, no-op, 8 envs and more", many)
    than_dummy = ("Dummy", 1, "faster than DummyVecEnv", list(cells))
    for name, side_of in (("the best of 0, 1, 2 workers", fastest), ('"auto"', lambda measured: "auto")):
        for peer, factor, what, counted in (than_subproc, than_dummy):
            ratios = {cell: over(cells[cell][0], peer, side_of(cells[cell][0])) for cell in counted}
            if not ratios:
                continue
            missed = [f"{kind} × {n}: {r:.3g}" for (kind, n), r in ratios.items() if r <= factor]
            numbers = f"{min(ratios.values()):.3g} to {max(ratios.values()):.3g} times, median {statistics.median(ratios.values()):.3g}"
            report.target(f"{name} {what}", not missed, numbers + "".join(f"; {m}" for m in missed))


if __name__ == "__main__":
    sys.exit(main())
