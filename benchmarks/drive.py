"""The drive world's speed: random actions, observations of every controlled agent written, resets included.

A step counts for every agent that its mask says is still driven; a world step for every world.  Two mixes of 16 worlds:
our own scenes in turn, and the Waymo-derived ones of ../shared/data (or FASTVEC_TEST_DATA) where those are.  Beside
them what the real GPUDrive did there.  Then what a second worker brings, what the parts of a step cost in instructions
(where valgrind is), and how near the writing of rows comes to memory bandwidth.
"""
import multiprocessing
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

import fastvec
import fastvec.drive
from fastvec.autotune import random_actions
from fastvec.drive import DriveConfig
from fastvec.machine import usable_cpus

import harness
import instructions

ROOT = Path(__file__).resolve().parents[1]
WORLDS = 16
CONFIG = DriveConfig(collision_behavior="ignore", reward_type="sparse_on_goal_achieved")
LAYOUTS = {"float32": CONFIG, "packed": replace(CONFIG, observation="packed")}


@dataclass(frozen=True)
class Mix:
    """Scenes that 16 worlds host in turn.

    `gpudrive`: {which build: (controlled-agent steps, world steps)} per second of the real GPUDrive on these scenes: 16
    worlds, raw step, CPU mode, two cores; measured in 2026-11 on a machine like ours, not in this run (see "What it
    costs" in the shared reference, gpudrive.md).  Stripped: built without its unused bird's-eye grid and exports.
    """

    name: str
    scenes: object
    agents: int
    gpudrive: dict
    goal: tuple  # which of the two, and how many per second, two workers should do


OURS = Mix("generated scenes", "shipped", 327, {"as shipped": (5_000, 247), "stripped": (26_500, 1_295)}, (0, 400_000))
WAYMO = Mix("Waymo-derived scenes", harness.WAYMO_SCENES, 52, {"as shipped": (890, 274), "stripped": (5_500, 1_690)}, (1, 25_000))
UNITS = ("controlled-agent steps/s", "world steps/s")


def main():
    p = harness.parser(__doc__)
    args = p.parse_args()
    report = harness.Report("drive", args)
    repetitions, seconds = (2, 0.3) if args.quick else (7, 1.0)
    mixes = [OURS]
    if WAYMO.scenes.is_dir():
        mixes.append(WAYMO)
    else:
        report.say(f"skipped: the Waymo-derived scenes, which may not be copied into this project, are not in {WAYMO.scenes}")
    for mix in mixes:
        rates(report, mix, repetitions, seconds)
    if usable_cpus() >= 2:
        for mix in mixes:
            scaling(report, mix, repetitions, seconds)
    else:
        report.say("skipped: scaling, with one CPU")
    parts(report, mixes, 100 if args.quick else 1000)
    bandwidth(report, OURS, repetitions, seconds)
    report.finish()


# ---- speed -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Same:
    """A creator whose envs all host the same worlds: an equal load for every worker."""

    creator: object

    def __call__(self, env_index=0, num_envs=1):
        return self.creator()


def pool(mix, workers, worlds, config=CONFIG, same=False, affinity=None):
    """`worlds` in all; `same`: each worker hosts those that the first one does."""
    envs = max(1, workers)
    creator = fastvec.drive.creator(mix.scenes, worlds // envs, config)
    return fastvec.make(Same(creator) if same else creator, workers, num_envs=envs, affinity=affinity)


def rates(report, mix, repetitions, seconds):
    """How many steps one and two workers do, in each layout of observations."""
    workers = [n for n in (0, 1, 2) if n <= usable_cpus()]
    vecs = {(layout, n): pool(mix, n, WORLDS, config) for layout, config in LAYOUTS.items() for n in workers}
    try:
        agents = controlled(vecs["float32", 0])
        measured = {side: (agent_steps, harness.Sample(tuple(n * WORLDS for n in steps.values)))
                    for side, (agent_steps, steps) in measure(report, vecs, repetitions, seconds).items()}
        balances = {side: balance(vec) for side, vec in vecs.items()}
    finally:
        close(vecs)
    rows = [[f"fastvec, {layout}, {harness.workers(n)}", *measured[layout, n], *times_gpudrive(mix, measured[layout, n]), balances[layout, n]]
            for layout, n in vecs]
    rows += [[f"GPUDrive {build}, measured earlier", *theirs, None, None, None] for build, theirs in mix.gpudrive.items()]
    report.table(f"{mix.name}: {WORLDS} worlds, {agents} controlled agents; times GPUDrive on 2 cores, in {UNITS[mix.goal[0]]}",
                 ["", *UNITS, *(f"× {build}" for build in mix.gpudrive), "balance"], rows, brief=True)
    if agents != mix.agents:
        report.say(f"GPUDrive's figures are of {mix.agents} controlled agents, not {agents}: other scenes?")
    if 2 in workers:
        which, goal = mix.goal
        ours = measured["float32", 2][which]
        report.target(f"{goal:,} {UNITS[which]} with 2 workers on {mix.name}", ours.median >= goal, str(ours))
        gain = harness.ratio(measured["packed", 2][which], ours)
        report.target(f"packed observations 1.5 times as fast on {mix.name}", gain.median >= 1.5, str(gain))


def times_gpudrive(mix, measured):
    """How many times as fast as each build of GPUDrive, Samples."""
    which, _ = mix.goal
    return [harness.Sample(tuple(v / theirs[which] for v in measured[which].values)) for theirs in mix.gpudrive.values()]


EQUAL, SHARED, ONE, PINNED = "equal", "shared", "1 worker, 1 CPU", "2 workers, a CPU each"


def scaling(report, mix, repetitions, seconds):
    """What a second core brings: twice the same 8 worlds, and 16 worlds shared out.

    One core: worker and trainer share a CPU; two: two workers and the trainer share two.  And what the machine itself
    gives: two processes that step these worlds and know nothing of one another, against one of them alone.
    """
    vecs = {}
    cpus = sorted(os.sched_getaffinity(0))[:2]
    alone = [Alone(mix, 8, cpu) for cpu in cpus]
    try:
        for load, worlds, same in ((EQUAL, 8, True), (SHARED, 16, False)):
            with on_cpus(cpus[:1]):
                vecs[load, ONE] = pool(mix, 1, worlds)
            with on_cpus(cpus):
                vecs[load, "1 worker, 2 CPUs"] = pool(mix, 1, worlds)
                vecs[load, "2 workers, 2 CPUs"] = pool(mix, 2, 16, same=same)
                vecs[load, PINNED] = pool(mix, 2, 16, same=same, affinity="cores")
        sides = {side: partial(rate_on, cpus[:1] if side[1] == ONE else cpus, vec, seconds) for side, vec in vecs.items()}
        sides |= {(EQUAL, f"{n} with no trainer"): partial(Alone.rate, alone[:n], seconds) for n in (1, 2)}
        measured = report.rounds.in_turn(sides, repetitions)
        balances = {side: balance(vec) for side, vec in vecs.items()}
    finally:
        close(vecs)
        for process in alone:
            process.end()
    machine = harness.ratio(measured[EQUAL, "2 with no trainer"], measured[EQUAL, "1 with no trainer"])
    times = {(load, where): harness.ratio(sample, measured[load, ONE]) for (load, where), sample in measured.items()}
    rows = [[f"{load}: {where}", sample, times[load, where], harness.ratio(times[load, where], machine) if "2 workers" in where else None,
             balances.get((load, where))] for (load, where), sample in measured.items()]
    report.table(f"{mix.name}: from one core to two (equal: the same 8 worlds in each worker; shared: 16 worlds); without a trainer {machine} times",
                 ["", UNITS[0], "times one core", "of what the machine gives", "balance"], rows)
    gain = times[EQUAL, PINNED]
    report.target(f"two cores do 1.9 times as much as one, with an equal load for each worker, on {mix.name}", gain.median >= 1.9,
                  f"{gain}; not pinned {times[EQUAL, '2 workers, 2 CPUs']}; without a trainer {machine}")


@contextmanager
def on_cpus(cpus):
    """This process, and those it starts meanwhile, on some of its CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rate_on(cpus, vec, seconds):
    """Controlled-agent steps per second with the trainer on these CPUs."""
    with on_cpus(cpus):
        return steps_per_second(vec, seconds)[0]


class Alone:
    """A process with a CPU to itself that steps worlds when it is told to, and is no worker of anybody."""

    def __init__(self, mix, worlds, cpu):
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=self.serve, args=(other, mix, worlds, cpu), daemon=True)
        self.process.start()
        other.close()

    @staticmethod
    def serve(pipe, mix, worlds, cpu):
        with on_cpus([cpu]), pool(mix, 0, worlds) as vec:
            while (seconds := pipe.recv()) is not None:
                pipe.send(steps_per_second(vec, seconds)[0])

    @staticmethod
    def rate(some, seconds):
        """Controlled-agent steps per second of some of them at the same time, in all."""
        for process in some:
            process.pipe.send(seconds)
        return sum(process.pipe.recv() for process in some)

    def end(self):
        self.pipe.send(None)
        self.process.join()


def measure(report, vecs, repetitions, seconds):
    """{side: (controlled-agent steps, steps of the pool)} per second, Samples, of these pools in turn."""
    steps = {side: [] for side in vecs}

    def agent_rate(side):
        agent_steps, all_steps = steps_per_second(vecs[side], seconds)
        steps[side].append(all_steps)
        return agent_steps

    agents = report.rounds.in_turn({side: partial(agent_rate, side) for side in vecs}, repetitions)
    return {side: (sample, harness.Sample(tuple(steps[side][-repetitions:]))) for side, sample in agents.items()}


def controlled(vec) -> int:
    vec.reset(seed=0)
    return int(vec.masks.sum())


def balance(vec) -> float | None:
    """The mean worker's busy time over the busiest one's: what is below 1 is lost to uneven worlds."""
    busy = [worker.busy for worker in vec.stats().workers]
    return sum(busy) / len(busy) / max(busy) if busy else None


def steps_per_second(vec, seconds) -> tuple[float, float]:
    """Of the agents that are driven, and of the pool; the time to draw actions and to count does not count."""
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
    return counted / took, steps / took


def close(vecs):
    for vec in vecs.values():
        vec.close()


# ---- where it goes -----------------------------------------------------------------------------------------------------


def parts(report, mixes, steps):
    """Instructions of an agent-step, by what they are for."""
    if (why := instructions.missing()) is not None:
        report.say(f"instructions were not counted: {why}")
        return
    counted = {mix.name: instructions.count(ROOT, mix.scenes, WORLDS, steps) for mix in mixes}
    table = [[part, *(c[part] for c in counted.values())] for part in instructions.PARTS]
    table.append(["in all", *(sum(c.values()) for c in counted.values())])
    report.table("instructions per controlled-agent step (callgrind; a world's others and agents that are done are included)",
                 ["", *counted], table)


def bandwidth(report, mix, repetitions, seconds):
    """Bytes of rows written in this process, beside NumPy writing as many into memory of the same size."""
    with pool(mix, 0, WORLDS) as vec:
        rows = vec.observations
        other = np.ones_like(rows)
        rng = np.random.default_rng(0)
        actions = random_actions(vec.action_spec, vec.num_rows, rng)
        vec.reset(seed=0)
        sides = {"a step of the worlds": lambda: vec.step(actions), "np.copyto": lambda: np.copyto(other, rows),
                 "fill": lambda: other.fill(1)}
        measured = report.rounds.in_turn({name: lambda call=call: rows.nbytes / harness.seconds_per_call(call, seconds) / 1e9
                                          for name, call in sides.items()}, repetitions)
    of = {name: harness.ratio(measured["a step of the worlds"], sample) for name, sample in measured.items()}
    report.table(f"{rows.nbytes / 1e6:.1f} MB of rows, {mix.name}, one core: GB written per second",
                 ["", "GB/s", "a step's share of it"], [[name, sample, of[name]] for name, sample in measured.items()])


if __name__ == "__main__":
    sys.exit(main())
