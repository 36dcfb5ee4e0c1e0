"""fastvec.puffer against PufferLib's own backends: what a step costs beside its envs.

The envs do nothing.  "Envs alone" is a loop over them in this process, with the look at `done` that PufferLib asks for; with w
workers a step takes a w-th of it at best, and what it takes beyond that is overhead.  PufferLib's backends run as its
documentation has it (zero-copy, all envs in a batch); with two workers and a trainer on two cores it wants overwork=True.
The emulated envs are PufferLib's GymnasiumPufferEnv, whose step fastvec's workers have compiled: there a step of all envs in a
worker may take less than PufferLib's envs alone, and has no overhead to compare.
"""
import sys
from functools import partial

import gymnasium
import numpy as np

try:
    import pufferlib
    import pufferlib.emulation
    import pufferlib.vector
except ImportError:
    print("vs_puffer: PufferLib is not installed (see docs/pufferlib.md)")
    sys.exit()

import fastvec.puffer

import harness

ENOUGH = {1: 5, 2: 300}  # times less overhead, by workers
THEIRS, OURS = pufferlib.vector.Multiprocessing, fastvec.puffer.Multiprocessing


class Native(pufferlib.PufferEnv):
    def __init__(self, agents, buf=None, seed=0):
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.num_agents = agents
        super().__init__(buf)

    def reset(self, seed=None):
        return self.observations, []

    def step(self, actions):
        return self.observations, self.rewards, self.terminals, self.truncations, []

    def close(self):
        pass


class NoOp(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    observation = np.zeros(4, np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation, {}

    def step(self, action):
        return self.observation, 0.0, False, False, {}


def emulated(buf=None, seed=0):
    return pufferlib.emulation.GymnasiumPufferEnv(env=NoOp(), buf=buf, seed=seed)


ENVS = {
    "native, one agent": partial(Native, 1),
    "native, 64 agents": partial(Native, 64),
    "emulated gymnasium": emulated,
}


def main():
    p = harness.parser(__doc__)
    p.add_argument("--envs", type=int, nargs="+", help="how many (default: 2 8 32)")
    args = p.parse_args()
    report = harness.Report("vs_puffer", args)
    repetitions, seconds = (2, 0.02) if args.quick else (7, 0.1)
    counts = args.envs or ((2, 8) if args.quick else (2, 8, 32))
    cells = {}
    for kind, creator in ENVS.items():
        for n in counts:
            cells[kind, n] = report.rounds.in_turn(sides(creator, n, seconds), repetitions)
        show(report, kind, {n: cell for (k, n), cell in cells.items() if k == kind})
    judge(report, cells)
    report.finish()


def sides(creator, n, seconds):
    """{side: a function that measures the µs of a step}.  Backends live for one measurement only: PufferLib's workers spin
    for half a second after their last step, which others would feel."""
    backends = {"Serial": (pufferlib.vector.Serial, {})}
    for workers in (1, 2):
        backends["PufferLib", workers] = THEIRS, dict(num_workers=workers, overwork=True)
        backends["fastvec", workers] = OURS, dict(num_workers=workers)
    return {"alone": lambda: alone(creator, n, seconds)} | {
        side: lambda backend=backend, options=options: step_of(creator, n, seconds, backend, options)
        for side, (backend, options) in backends.items()
    }


def alone(creator, n, seconds):
    envs = [creator() for _ in range(n)]
    for env in envs:
        env.reset()
    pairs = [(env, np.zeros(env.num_agents, np.int32)) for env in envs]

    def step():
        for env, actions in pairs:
            if not env.done:
                env.step(actions)

    return 1e6 * harness.seconds_per_call(step, seconds)


def step_of(creator, n, seconds, backend, options):
    vecenv = pufferlib.vector.make(creator, backend=backend, num_envs=n, **options)
    try:
        vecenv.async_reset(seed=0)
        vecenv.recv()
        actions = np.zeros(vecenv.num_agents, np.int64)  # as torch samples them

        def step():
            vecenv.send(actions)
            vecenv.recv()

        return 1e6 * harness.seconds_per_call(step, seconds)
    finally:
        vecenv.close()
        for process in getattr(vecenv, "processes", ()):
            process.join()


def overhead(measured, name, workers):
    """Of each repetition."""
    return harness.Sample(tuple(
        step - alone / workers for step, alone in zip(measured[name, workers].values, measured["alone"].values)
    ))


def times_less(measured, workers):
    """PufferLib's overhead over ours: of the medians, since single overheads come close to nothing."""
    ours = overhead(measured, "fastvec", workers).median
    return overhead(measured, "PufferLib", workers).median / ours if ours > 0 else float("inf")


def told(times):
    return "none" if times == float("inf") else f"{times:.3g}"


def show(report, kind, cells):
    columns = ["envs", "envs alone", "Serial", "PufferLib, 1 worker", "fastvec, 1 worker", "times less overhead",
               "PufferLib, 2 workers", "fastvec, 2 workers", "times less overhead"]
    rows = []
    for n, measured in cells.items():
        row = [n, measured["alone"], measured["Serial"]]
        for workers in (1, 2):
            row += [measured["PufferLib", workers], measured["fastvec", workers], told(times_less(measured, workers))]
        rows.append(row)
    report.table(f"{kind}: µs per step of all envs", columns, rows, brief=True)


def judge(report, cells):
    for workers, factor in ENOUGH.items():
        ratios = {cell: times_less(measured, workers) for cell, measured in cells.items()}
        missed = [f"{kind} × {n}: {r:.3g}" for (kind, n), r in ratios.items() if r < factor]
        finite = [r for r in ratios.values() if r < float("inf")]
        numbers = f"{told(min(ratios.values()))} to {told(max(finite, default=float('inf')))} times; no overhead in {len(ratios) - len(finite)} of {len(ratios)} cells"
        report.target(f"{harness.workers(workers)}: {factor} times less overhead than PufferLib's Multiprocessing", not missed,
                      numbers + "".join(f"; {m}" for m in missed))


if __name__ == "__main__":
    sys.exit(main())
