"""The real GPUDrive as it comes, through fastvec, and fastvec's own drive, on the same scenes in one run.

Sides: GPUDriveTorchEnv and PufferGPUDrive (one process, every CPU), fastvec around GPUDrive with one and two workers,
with fast observations and with GPUDrive's own, and drive.  All write observations of every controlled agent and reset
what is over; a step counts for every agent that is still driven.  What is not installed is skipped, with a line.
What the machine allows a second worker is measured too: one and two such processes that no trainer steps.  Last, what the
adapter itself costs, around a simulator that does nothing.
"""
import gzip
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

import fastvec
import fastvec.drive
import fastvec.gpudrive
from fastvec.drive import DriveConfig
from fastvec.drive.scenes import SHIPPED
from fastvec.gpudrive.installation import diagnose
from fastvec_c.drive.rules import Rules
from fastvec_c.gpudrive.rows import SHAPES, SimulatorRows

import harness

ROOT = Path(__file__).resolve().parents[1]
sys.path.remove(str(ROOT / "benchmarks"))  # `import gpudrive` would find this file there
DATA = Path(os.environ.get("FASTVEC_TEST_DATA", ROOT.parent / "shared" / "data"))
WORLDS = 16
SAID = dict(collision_behavior="ignore", reward_type="weighted_combination")
ENOUGH, SECOND_WORKER, ADAPTER_US = 3, 0.9, 3.0


def main():
    p = harness.parser(__doc__)
    args = p.parse_args()
    report = harness.Report("gpudrive", args)
    repetitions, seconds = (2, 0.5) if args.quick else (5, 2.0)
    with tempfile.TemporaryDirectory() as folder:
        mixes = {"generated scenes": unpacked(Path(folder))}
        waymo = sorted(DATA.glob("gpudrive/scenes/*.json"))
        if waymo:
            mixes["Waymo-derived scenes"] = [str(file) for file in waymo]
        else:
            report.say(f"skipped: the Waymo-derived scenes, which are not in {DATA}")
        for name, files in mixes.items():
            # Both halves alike: what a second worker adds is not then a matter of its scenes.
            compare(report, name, [files[w % (WORLDS // 2) % len(files)] for w in range(WORLDS)], repetitions, seconds)
    adapter(report, repetitions, 20 if args.quick else 200)
    report.finish()


def unpacked(folder):
    """Our own scenes, as files that GPUDrive can read."""
    for file in sorted(SHIPPED.glob("*.json.gz")):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return [str(file) for file in sorted(folder.glob("*.json"))]


# ---- the sides -------------------------------------------------------------------------------------------------------


class Loader:
    """What GPUDrive's envs take for their scenes."""

    def __init__(self, files):
        self.dataset, self.batch_size = files, len(files)

    def __iter__(self):
        while True:
            yield self.dataset


class TorchEnv:
    """GPUDriveTorchEnv, stepped as its examples do, all worlds reset together when time is up."""

    def __init__(self, files):
        from gpudrive.env.config import EnvConfig
        from gpudrive.env.env_torch import GPUDriveTorchEnv

        self.env = GPUDriveTorchEnv(config=EnvConfig(**SAID), data_loader=Loader(files), max_cont_agents=64, device="cpu")
        self.mask, self.rng = self.env.cont_agent_mask, np.random.default_rng(0)
        self.actions = np.zeros(tuple(self.mask.shape), np.int64)
        self.begin()

    def begin(self):
        self.env.reset(self.mask)
        self.t, self.alive = 0, self.mask.numpy().copy()

    def step(self):
        import torch

        self.actions[self.mask.numpy()] = self.rng.integers(0, 91, int(self.mask.sum()))
        self.env.step_dynamics(torch.from_numpy(self.actions))
        self.env.get_obs(self.mask), self.env.get_rewards()
        count = int(self.alive.sum())
        self.alive &= self.env.get_dones().numpy() == 0
        self.t += 1
        if self.t == 91:
            self.begin()
        return count


class Puffer:
    """PufferGPUDrive, which resets worlds on its own."""

    def __init__(self, files):
        from gpudrive.env.env_puffer import PufferGPUDrive

        root = Path(importlib.import_module("gpudrive").__file__).resolve().parents[1]
        os.chdir(root)  # it changes to ../gpudrive
        self.env = PufferGPUDrive(data_loader=Loader(files), num_worlds=len(files), device="cpu")
        self.env.reset()
        self.rng = np.random.default_rng(0)

    def step(self):
        import torch

        self.env.step(torch.from_numpy(self.rng.integers(0, 91, self.env.num_agents)))
        return int(np.asarray(self.env.masks).sum())


class Vec:
    """A VecEnv, with random actions."""

    def __init__(self, make):
        self.vec, self.rng = make(), np.random.default_rng(0)
        self.vec.reset(seed=0)
        self.actions = self.rng.integers(0, 91, (64, self.vec.num_rows))
        self.t = 0

    def step(self):
        self.vec.step(self.actions[self.t % 64])
        self.t += 1
        return int(np.count_nonzero(self.vec.masks))


class Alone:
    """Processes that each step their own simulator, pinned to a CPU of their own: neither handoff nor trainer."""

    def __init__(self, creator, processes):
        cpus = sorted(os.sched_getaffinity(0))
        context = multiprocessing.get_context("fork")
        self.pipes = []
        for p in range(processes):
            ours, theirs = context.Pipe()
            context.Process(target=self._step_on_order, args=(creator, cpus[p % len(cpus)], theirs), daemon=True).start()
            self.pipes.append(ours)
        for pipe in self.pipes:
            pipe.recv()

    @staticmethod
    def _step_on_order(creator, cpu, pipe):
        os.sched_setaffinity(0, {cpu})
        it = Vec(partial(fastvec.make, creator, 0))
        pipe.send("ready")
        while True:
            pipe.send(rate(it, pipe.recv()))

    def rate(self, seconds):
        for pipe in self.pipes:
            pipe.send(seconds)
        return sum(pipe.recv() for pipe in self.pipes)


def sides(files):
    """{name: constructor} of what is to be compared, and {name: why not} of what is not."""
    def vec(creator, workers):
        return partial(Vec, partial(fastvec.make, creator, workers))

    def hosted(per_worker, **said):
        return fastvec.gpudrive.creator(files, per_worker, **SAID, **said)

    drive = partial(fastvec.drive.creator, files, config=DriveConfig(**SAID))
    possible = {f"fastvec, drive, {harness.workers(n)}": vec(drive(worlds=WORLDS // n), n) for n in (1, 2)}
    found = diagnose()
    if not found.usable:
        return possible, {"GPUDrive": found.advice}
    possible |= {"fastvec, GPUDrive, 1 worker, half of the worlds": vec(hosted(WORLDS // 2), 1),
                 "fastvec, GPUDrive, 1 worker": vec(hosted(WORLDS), 1),
                 "fastvec, GPUDrive, 2 workers": vec(hosted(WORLDS // 2), 2),
                 "GPUDrive in 1 process without a trainer": partial(Alone, hosted(WORLDS // 2), 1),
                 "GPUDrive in 2 processes without a trainer": partial(Alone, hosted(WORLDS // 2), 2),
                 "fastvec, GPUDrive, its own observations, 2 workers": vec(hosted(WORLDS // 2, fast_observations=False), 2)}
    left_out = {}
    for name, module, side in (("GPUDriveTorchEnv", "gpudrive.env.env_torch", TorchEnv), ("PufferGPUDrive", "gpudrive.env.env_puffer", Puffer)):
        try:
            importlib.import_module(module)
            possible[name] = partial(side, files)
        except ImportError as error:
            left_out[name] = str(error)
    return possible, left_out


def compare(report, name, files, repetitions, seconds):
    possible, left_out = sides(files)
    for side, why in left_out.items():
        report.say(f"skipped: {side}: {why}")
    # Those of processes of their own first: they are forked, which no simulator of this process would survive.
    running = {side: build() for side, build in possible.items()}
    try:
        rates = report.rounds.in_turn({side: partial(rate, it, seconds) for side, it in running.items()}, repetitions)
    finally:
        for it in running.values():
            if isinstance(it, Vec):
                it.vec.close()
    peer = rates.get("PufferGPUDrive")
    rows = [[side, r, harness.ratio(r, peer) if peer else None] for side, r in rates.items()]
    report.table(f"{name}: {WORLDS} worlds, controlled-agent steps/s", ["", "per second", "× PufferGPUDrive"], rows)
    two = rates.get("fastvec, GPUDrive, 2 workers")
    if two and peer:
        gain = harness.ratio(two, peer)
        report.target(f"{ENOUGH} times PufferGPUDrive with 2 workers on {name}", gain.median >= ENOUGH, str(gain))
    if two:
        gain = harness.ratio(two, rates["fastvec, GPUDrive, 1 worker, half of the worlds"])
        allowed = harness.ratio(rates["GPUDrive in 2 processes without a trainer"], rates["GPUDrive in 1 process without a trainer"])
        report.target(f"the second worker adds {SECOND_WORKER:.0%} of the first on {name}", gain.median - 1 >= SECOND_WORKER,
                      f"{gain}; without a trainer {allowed}")


def rate(it, seconds):
    """Steps of agents per second, over at least `seconds` and one whole episode."""
    if isinstance(it, Alone):
        return it.rate(seconds)
    began, count, steps = time.perf_counter(), 0, 0
    while steps < 91 or time.perf_counter() - began < seconds:
        count += it.step()
        steps += 1
    return count / (time.perf_counter() - began)


# ---- the adapter alone -----------------------------------------------------------------------------------------------


def adapter(report, repetitions, steps):
    """µs per agent-step of actions, results and fast observations, on the state of drive worlds in the simulator's place."""
    files = [str(f) for f in sorted(SHIPPED.glob("*.json.gz"))]
    config = DriveConfig(**SAID)
    drive = fastvec.drive.Drive(files, WORLDS, config)
    arrays = {name: np.ascontiguousarray(getattr(drive.sim, f"{name}_tensor")().to_numpy()).copy() for name in SHAPES if name != "bev_observation"}
    arrays["bev_observation"] = np.zeros((WORLDS, 64, 200, 200), np.float32)
    counts = (arrays["controlled_state"].reshape(WORLDS, 64) == 1).sum(1)
    rows = SimulatorRows(arrays, Rules(config), int(counts.max()), int(counts.max()) * WORLDS, False, True, False)
    rows.place([files[w % len(files)] for w in range(WORLDS)], config)
    n = rows.num_rows
    flags = [np.zeros(n, bool) for _ in range(3)]
    rewards, observations, actions = np.zeros(n, np.float32), np.zeros((n, 2984), np.float32), np.zeros(n, np.int64)
    rows.begin(range(WORLDS), flags[2])

    def once():
        began = time.perf_counter()
        for _ in range(steps):
            rows.act(actions)
            rows.judge(rewards, *flags)
            rows.observe(observations)
        return 1e6 * (time.perf_counter() - began) / steps / counts.sum()

    cost = report.rounds.in_turn({"adapter": once}, repetitions)["adapter"]
    report.table(f"the adapter alone: {counts.sum()} controlled agents in {WORLDS} worlds", ["", "µs per agent-step"], [["actions, results, fast observations", cost]])
    report.target(f"under {ADAPTER_US:g} µs per agent-step", cost.median < ADAPTER_US, str(cost))


if __name__ == "__main__":
    sys.exit(main())
