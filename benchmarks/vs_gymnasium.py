"""fastvec against gymnasium's vector envs at their best (shared memory, no copies), on gymnasium envs.

fastvec.gym.VectorEnv, with the workers that "auto" takes, hands out views as those do; "copies" is its default.

The no-op envs show what vectorization costs; CartPole-v1 what is left of that with an env that computes.
"""
import statistics
import sys
from functools import partial
from itertools import cycle

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import fastvec
import fastvec.gym

import harness
from noop import NoOp

ENOUGH = 30  # times as fast as AsyncVectorEnv
OF_RAW = 0.8  # speed of fastvec.gym.VectorEnv beside that of the VecEnv underneath
WORKERS = (0, 1, 2, "auto")


ENVS = {
    "no-op, 4 floats": partial(NoOp, 4),
    "no-op, 2984 floats": partial(NoOp, 2984),
    "CartPole-v1": partial(gymnasium.make, "CartPole-v1"),
}


def main():
    p = harness.parser(__doc__)
    p.add_argument("--envs", type=int, nargs="+", help="how many (default: 1 2 8 32 128)")
    args = p.parse_args()
    report = harness.Report("vs_gymnasium", args)
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
    vecs = {"Sync": SyncVectorEnv([creator] * n, copy=False),
            "Async": AsyncVectorEnv([creator] * n, shared_memory=True, copy=False)}
    vecs |= {w: fastvec.make(creator, w, num_envs=n) for w in WORKERS if w in (0, "auto") or n % w == 0}
    for name, copy in (("VectorEnv", False), ("VectorEnv, copies", True)):
        vecs[name] = fastvec.gym.VectorEnv([creator] * n, vecs["auto"].num_workers, copy=copy)
    try:
        sides = {name: stepper(vec, n, seconds) for name, vec in vecs.items()}
        return report.rounds.in_turn(sides, repetitions), vecs["auto"].num_workers
    finally:
        for vec in vecs.values():
            vec.close()


def stepper(vec, n, seconds):
    """A function that measures a step, with random actions, resets included."""
    rng = np.random.default_rng(0)
    actions = cycle(rng.integers(0, 2, (64, n)))
    vec.reset(seed=0)
    step = vec.step
    return lambda: 1e6 * harness.seconds_per_call(lambda: step(next(actions)), seconds)


def fastest(measured):
    """The fastvec side with the least median, "auto" left out."""
    return min((w for w in measured if isinstance(w, int)), key=lambda w: measured[w].median)


def show(report, kind, cells):
    columns = ["envs", "Sync", "Async", "0 workers", "1 worker", "2 workers", "auto", "VectorEnv", "VectorEnv, copies", "auto took", "Sync/best", "Async/best",
               "Sync/auto", "Async/auto", "Async/VectorEnv", "auto/VectorEnv", "Async/copies", "auto/copies"]
    rows = []
    for n, (measured, took) in cells.items():
        best = fastest(measured)
        ratios = [f"{over(measured, peer, side):.3g}" for side in (best, "auto") for peer in ("Sync", "Async")]
        ratios += [f"{over(measured, peer, side):.3g}" for side in ("VectorEnv", "VectorEnv, copies") for peer in ("Async", "auto")]
        sides = ("Sync", "Async", *WORKERS, "VectorEnv", "VectorEnv, copies")
        rows.append([n, *(measured.get(side) for side in sides), took, *ratios])
    report.table(f"{kind}: µs per step of all envs", columns, rows, brief=True)


def over(measured, peer, side) -> float:
    return harness.ratio(measured[peer], measured[side]).median


def judge(report, cells):
    no_op = [cell for cell in cells if cell[0].startswith("no-op")]
    many = [cell for cell in no_op if cell[1] >= 8]
    than_async = ("Async", ENOUGH, f"{ENOUGH} times as fast as AsyncVectorEnv, no-op, 8 envs and more", many)
    than_sync = ("Sync", 1, "faster than SyncVectorEnv", list(cells))
    than_raw = ("auto", OF_RAW, f"{OF_RAW} times as fast as the VecEnv underneath, no-op", no_op)
    for name, side_of, peers in (
        ("the best of 0, 1, 2 workers", fastest, (than_async, than_sync)),
        ('"auto"', lambda measured: "auto", (than_async, than_sync)),
        ("fastvec.gym.VectorEnv(copy=False)", lambda measured: "VectorEnv", (than_async, than_sync, than_raw)),
        ("fastvec.gym.VectorEnv", lambda measured: "VectorEnv, copies", (than_async, than_sync)),
    ):
        for peer, factor, what, counted in peers:
            ratios = {cell: over(cells[cell][0], peer, side_of(cells[cell][0])) for cell in counted}
            if not ratios:
                continue
            missed = [f"{kind} × {n}: {r:.3g}" for (kind, n), r in ratios.items() if r <= factor]
            numbers = f"{min(ratios.values()):.3g} to {max(ratios.values()):.3g} times, median {statistics.median(ratios.values()):.3g}"
            report.target(f"{name} {what}", not missed, numbers + "".join(f"; {m}" for m in missed))


if __name__ == "__main__":
    sys.exit(main())
