"""fastvec against everybody, in one run: the time of a step of all envs, at 1 to 128 envs.

    pip install 'fastvec[gym]' gymnasium stable-baselines3 tianshou torchrl envpool      (PufferLib: docs/pufferlib.md)

Each peer is set up as it is fastest here; what that is, the output says.  Processes of a peer that is not being measured are
stopped (SIGSTOP), since some of them spin.  Random actions, resets included where the peer makes them itself.
"""
import os
import signal
import statistics
import sys
import time
import warnings
from functools import partial
from itertools import cycle
from pathlib import Path

import fastvec
import fastvec.drive
import gymnasium
import numpy as np
import psutil

import harness
from noop import NoOp

LIMIT = 60  # seconds for a peer to start, or to be measured once
AGENTS = 8  # of a drive world
SIZES = {"no-op, 4 floats": 4, "no-op, 2984 floats": 2984}
KINDS = (*SIZES, "CartPole-v1", "drive")
CARTPOLE = Path(__file__).parents[1] / "examples" / "compiled_cartpole"

warnings.filterwarnings("ignore")


class DriveWorld(gymnasium.Env):
    """A world of drive for those who know one agent: its observations and actions are those of all agents."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (AGENTS, 2984), np.float32)
    action_space = gymnasium.spaces.MultiDiscrete([91] * AGENTS)

    def __init__(self):
        self.vec = fastvec.make(drive_creator(), 0)

    def reset(self, *, seed=None, options=None):
        return self.vec.reset(seed)[0], {}

    def step(self, actions):
        observations, rewards, *_ = self.vec.step(actions)
        return observations, float(rewards.sum()), False, False, {}


def drive_creator():
    return fastvec.drive.creator(worlds=1, max_controlled_agents=AGENTS, rows_per_world=AGENTS)


def creator_of(kind):
    """Makes the gymnasium env of a kind."""
    if kind == "drive":
        return DriveWorld
    return partial(gymnasium.make, kind) if kind not in SIZES else partial(NoOp, SIZES[kind])


def actions_of(kind, n):
    """Turns through random actions for n envs."""
    rng = np.random.default_rng(0)
    return cycle(rng.integers(0, 91, (16, n, AGENTS)) if kind == "drive" else rng.integers(0, 2, (64, n)))


# ---- the sides: each returns (a function that steps once, a function that closes) -------------------------------------------


def ours(workers):
    def make(kind, n):
        if workers != "auto" and workers and n % workers:
            raise LookupError(f"{workers} workers do not divide {n} envs")
        vec = fastvec.make(drive_creator() if kind == "drive" else creator_of(kind), workers, num_envs=n)
        actions = actions_of(kind, n)
        if kind == "drive":
            actions = cycle([next(actions).reshape(-1) for _ in range(16)])
        vec.reset(seed=0)
        return lambda: vec.step(next(actions)), vec.close
    return make


def gymnasium_vector(name, **options):
    def make(kind, n):
        vec = getattr(gymnasium.vector, name)([creator_of(kind)] * n, copy=False, **options)
        actions = actions_of(kind, n)
        vec.reset(seed=0)
        return lambda: vec.step(next(actions)), vec.close
    return make


def subproc(kind, n):
    from stable_baselines3.common.vec_env import SubprocVecEnv

    vec, actions = SubprocVecEnv([creator_of(kind)] * n, start_method="fork"), actions_of(kind, n)
    vec.reset()
    return lambda: vec.step(next(actions)), vec.close


def tianshou_shmem(kind, n):
    from tianshou.env import ShmemVectorEnv

    vec, actions = ShmemVectorEnv([creator_of(kind)] * n), actions_of(kind, n)
    vec.reset()

    def step():
        _, _, terminated, truncated, _ = vec.step(next(actions))
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            vec.reset(ended)
    return step, vec.close


def emulated(creator, buf=None, seed=0):
    import pufferlib.emulation

    return pufferlib.emulation.GymnasiumPufferEnv(env=creator(), buf=buf, seed=seed)


def puffer(backend, **options):
    def make(kind, n):
        import pufferlib.vector

        vec = pufferlib.vector.make(partial(emulated, creator_of(kind)), backend=getattr(pufferlib.vector, backend), num_envs=n, **options)
        actions = cycle([next(a).astype(np.int32) for a in [actions_of(kind, n)] for _ in range(16)])
        vec.reset(0)
        return lambda: vec.step(next(actions)), vec.close
    return make


def torchrl_envs(kind, n):
    import torch
    from torchrl.envs import GymWrapper

    torch.set_num_threads(1)
    actions = actions_of(kind, n)
    actions = cycle([torch.from_numpy(next(actions)) for _ in range(16)])
    return lambda: GymWrapper(creator_of(kind)(), categorical_action_encoding=True), actions


def torchrl_parallel(kind, n):
    from torchrl.envs import ParallelEnv

    creator, actions = torchrl_envs(kind, n)
    env = ParallelEnv(n, creator, mp_start_method="fork")
    state = [env.reset()]

    def step():
        state[0]["action"] = next(actions)
        _, state[0] = env.step_and_maybe_reset(state[0])
    return step, env.close


def torchrl_async(kind, n):
    from torchrl.envs import AsyncEnvPool

    creator, actions = torchrl_envs(kind, n)
    env = AsyncEnvPool([creator] * n, backend="threading")
    state = [env.reset()]

    def step():
        state[0]["action"] = next(actions)
        env.async_step_and_maybe_reset_send(state[0])
        _, state[0] = env.async_step_and_maybe_reset_recv(min_get=n)
    return step, env.close


PEERS = {
    "gymnasium AsyncVectorEnv": (gymnasium_vector("AsyncVectorEnv", shared_memory=True), "shared memory, no copies"),
    "gymnasium SyncVectorEnv": (gymnasium_vector("SyncVectorEnv"), "no copies"),
    "SB3 SubprocVecEnv": (subproc, "fork"),
    "tianshou ShmemVectorEnv": (tianshou_shmem, "as it is"),
    "PufferLib Multiprocessing": (puffer("Multiprocessing", num_workers=1), "zero-copy, 1 worker: two that spin starve the trainer on two cores"),
    "PufferLib Serial": (puffer("Serial"), "as it is"),
    "TorchRL ParallelEnv": (torchrl_parallel, "fork, one torch thread"),
    "TorchRL AsyncEnvPool": (torchrl_async, "threading, the faster of its backends here, one torch thread"),
}
PIP = {"stable_baselines3": "stable-baselines3", "tianshou": "tianshou", "torchrl": "torchrl", "envpool": "envpool", "pufferlib": "pufferlib-core"}
OURS = {f"fastvec, {w} worker{'s' if w != 1 else ''}": ours(w) for w in (0, 1, 2)} | {"fastvec, auto": ours("auto")}


# ---- measuring ---------------------------------------------------------------------------------------------------------------


class Side:
    """One contestant, whose processes are stopped while others are measured."""

    def __init__(self, make, *args):
        before = set(psutil.Process().children(recursive=True))
        self.step, self._close = limited(make, *args)
        for _ in range(3):
            limited(self.step)
        helpers = ("resource_tracker", "forkserver")
        self.processes = [p for p in set(psutil.Process().children(recursive=True)) - before
                          if not any(h in " ".join(p.cmdline()) for h in helpers)]
        self.signal(signal.SIGSTOP)

    def measure(self, seconds):
        """µs of a step."""
        self.signal(signal.SIGCONT)
        try:
            return 1e6 * limited(harness.seconds_per_call, self.step, seconds)
        finally:
            self.signal(signal.SIGSTOP)

    def close(self):
        self.signal(signal.SIGCONT)
        try:
            limited(self._close)
        except Exception as error:
            print(f"closing failed: {error!r}")
        for p in self.processes:
            if p.is_running():
                p.kill()

    def signal(self, number):
        for p in self.processes:
            try:
                p.send_signal(number)
            except psutil.NoSuchProcess:
                pass


def limited(call, *args):
    """The result of a call that may take LIMIT seconds."""
    def late(*_):
        raise TimeoutError(f"took longer than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    try:
        return call(*args)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def compare(report, kind, n, contestants, repetitions, seconds):
    """({name: Sample of µs}, {name: why not})"""
    sides, failed = {}, {}
    try:
        for name, make in contestants.items():
            try:
                sides[name] = Side(make, kind, n)
            except ImportError as error:
                library = str(error.name or "").split(".")[0]
                failed[name] = f"not installed: pip install {PIP.get(library, library)}"
            except Exception as error:
                failed[name] = f"{type(error).__name__}: {error}".split("\n")[0][:120]
        return report.rounds.in_turn({name: partial(side.measure, seconds) for name, side in sides.items()}, repetitions), failed
    finally:
        for side in sides.values():
            side.close()


def show(report, kind, cells, names):
    """Two tables of a kind: times, and the ratio to fastvec."""
    counts = list(cells)
    report.table(f"{kind}: µs per step of all envs", ["", *map(str, counts)],
                 [[name, *(cells[n][0].get(name) for n in counts)] for name in names], brief=True)
    rows = []
    for name in names:
        if not name.startswith("fastvec"):
            rows.append([name, *(harness.ratio(cells[n][0][name], cells[n][0]["fastvec, auto"]) if name in cells[n][0] else None for n in counts)])
    report.table(f'{kind}: time of the peer, over that of fastvec with "auto"', ["", *map(str, counts)], rows)
    for n in counts:
        for name, why in cells[n][1].items():
            if "do not divide" not in why:
                report.say(f"{name}, {n} envs: {why}")


# ---- EnvPool -----------------------------------------------------------------------------------------------------------------


def compiled_cartpole():
    """The example, built if it is not."""
    if not list(CARTPOLE.glob("cartpole.*.so")):
        import subprocess

        subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=CARTPOLE, check=True, capture_output=True)
    sys.path.insert(0, str(CARTPOLE))
    from cartpole import CartPole

    return CartPole


def our_cartpole(asynchronous):
    def make(_, n):
        pole = compiled_cartpole()
        vec = fastvec.make(partial(pole, n // 2), 2, **({"batch_size": 1, "zero_copy": True} if asynchronous else {}))
        rng = np.random.default_rng(0)
        actions = cycle(rng.integers(0, 2, (64, n // 2 if asynchronous else n)))
        if not asynchronous:
            vec.reset(seed=0)
            return lambda: vec.step(next(actions)), vec.close
        vec.async_reset(seed=0)
        vec.recv()

        def step():
            vec.send(next(actions))
            vec.recv()
        return step, vec.close
    return make


def envpool_cartpole(asynchronous):
    def make(_, n):
        import envpool

        batch = n // 2 if asynchronous else n
        env = envpool.make_gymnasium("CartPole-v1", num_envs=n, batch_size=batch, num_threads=2, seed=0)
        actions = cycle(np.random.default_rng(0).integers(0, 2, (64, batch)).astype(np.int32))
        if not asynchronous:
            env.reset()
            return lambda: env.step(next(actions)), env.close
        env.async_reset()
        ids = [env.recv()[4]["env_id"]]

        def step():
            env.send(next(actions), ids[0])
            ids[0] = env.recv()[4]["env_id"]
        return step, env.close
    return make


def against_envpool(report, counts, repetitions, seconds):
    """EnvPool's CartPole with two threads against the compiled one of examples/ in two workers."""
    rows, behind = [], []
    for mode in ("sync", "async"):
        for n in counts:
            sides = {"EnvPool": envpool_cartpole(mode == "async"), "fastvec": our_cartpole(mode == "async")}
            measured, failed = compare(report, "CartPole-v1", n, sides, repetitions, seconds)
            if failed:
                report.say("; ".join(f"{name}: {why}" for name, why in failed.items()))
                return
            ratio = harness.ratio(measured["EnvPool"], measured["fastvec"])
            rows.append([f"{mode}, {n} envs", measured["EnvPool"], measured["fastvec"], ratio])
            if ratio.median <= 1:
                behind.append(rows[-1][0])
    report.table("CartPole, µs per batch (sync: of all envs; async: of half of them)", ["", "EnvPool, 2 threads", "fastvec, 2 workers", "ratio"], rows)
    ratios = [row[3].median for row in rows]
    report.target("ahead of EnvPool on CartPole, sync and async", not behind, f"{min(ratios):.3g} to {max(ratios):.3g} times" +
                  "".join(f"; behind: {cell}" for cell in behind))


def main():
    p = harness.parser(__doc__)
    p.add_argument("--envs", type=int, nargs="+", help="how many (default: 1 2 8 32 128)")
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    p.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    args = p.parse_args()
    report = harness.Report("peers", args)
    repetitions, seconds = (2, 0.02) if args.quick else (5, 0.1)
    counts = args.envs or ((2, 8) if args.quick else (1, 2, 8, 32, 128))
    for name in args.peers:
        report.say(f"{name}: {PEERS[name][1]}")
    against_envpool(report, (8,) if args.quick else (8, 64, 512), repetitions, seconds)
    contestants = {name: PEERS[name][0] for name in args.peers} | OURS
    ahead = {}
    for kind in args.kinds:
        cells = {n: compare(report, kind, n, contestants, repetitions, seconds) for n in counts}
        show(report, kind, cells, list(contestants))
        for n, (measured, _) in cells.items():
            ahead |= {(kind, n, name): harness.ratio(s, measured["fastvec, auto"]).median for name, s in measured.items() if name in PEERS}
    behind = [f"{kind} × {n}, {name}: {r:.3g}" for (kind, n, name), r in ahead.items() if r <= 1]
    report.target('"auto" ahead of every peer in every cell', not behind,
                  f"{min(ahead.values()):.3g} to {max(ahead.values()):.3g} times, median {statistics.median(ahead.values()):.3g}"
                  + "".join(f"; {b}" for b in behind))
    report.finish()


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "disabled")
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s")
