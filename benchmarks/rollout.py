"""Rollouts in the arena against stepping and copying into buffers, CleanRL's way; and GAE in C against loops over time.

Both sides of the first step the same envs with the same actions and keep observations, actions, rewards, flags, log-probabilities and
values of T steps; the policy costs nothing.  (The compiled no-op env writes four floats of a row in a step: what is left is the copying.)
"One slot" is stepping alone, which keeps nothing: rows that are written where they were before lie in the caches, rows of a rollout
are on their way to memory.  GAE: as CleanRL's scripts have it, in torch with one thread, and the same in NumPy.
"""
import sys
from functools import partial

import numpy as np

import fastvec
import fastvec.drive
from fastvec_c.probe import Probe

import harness
from noop import NoOp

STEPS = 64
FIELDS = {"log_probs": ((), "float32"), "values": ((), "float32")}
ENVS = {  # name: (creator, envs)
    "no-op, 4 floats": (partial(NoOp, 4), 8),
    "compiled no-op, 4 floats": (Probe, 128),
    "compiled no-op, 2984 floats": (partial(Probe, 2984), 128),
    "drive, 8 worlds": (fastvec.drive.creator("shipped", worlds=8), 2),
    "drive, 8 worlds, packed": (fastvec.drive.creator("shipped", worlds=8, observation="packed"), 2),
}
SIZES = [(128, 8), (64, 128), (64, 1024), (91, 4096)]  # steps, rows
GAMMA, LAMBDA = 0.99, 0.95


def main():
    p = harness.parser(__doc__)
    args = p.parse_args()
    report = harness.Report("rollout", args)
    repetitions, seconds = (2, 0.02) if args.quick else (7, 0.3)
    collecting(report, repetitions, seconds)
    estimating(report, repetitions, seconds)
    report.finish()


# ---- collecting ------------------------------------------------------------------------------------------------------


def collecting(report, repetitions, seconds):
    for num_workers in (0, 2):
        rows, slower = [], []
        for name, (creator, envs) in ENVS.items():
            with (
                fastvec.make(creator, num_workers, num_envs=envs) as plain,
                fastvec.make(creator, num_workers, num_envs=envs, horizon=STEPS, trainer_fields=FIELDS) as kept,
            ):
                calls = {"one slot": stepper(plain), "copied": copier(plain), "rollout": roller(kept)}
                for call in calls.values():
                    call()  # which touches the memory
                sides = {side: partial(harness.seconds_per_call, call, seconds) for side, call in calls.items()}
                measured = report.rounds.in_turn(sides, repetitions)
                factor = harness.ratio(measured["copied"], measured["rollout"])
                rows.append([f"{name}: {kept.num_rows} rows", *(in_us(x) for x in measured.values()), factor])
                if factor.median < 1:
                    slower.append(f"{name}: {factor.median:.3g}")
        where = harness.workers(num_workers)
        report.table(f"{STEPS} steps, {where}: µs per step", ["envs", "one slot", "copied", "rollout", "copied/rollout"], rows)
        factors = [row[-1].median for row in rows]
        report.target(f"rollouts are faster than copying ({where})", not slower,
                      f"{min(factors):.3g} to {max(factors):.3g} times" + "".join(f"; {x}" for x in slower))


def in_us(measured):
    return harness.Sample(tuple(1e6 * seconds / STEPS for seconds in measured.values))


def actions_for(vec):
    rng = np.random.default_rng(0)
    return rng.integers(0, int(vec.action_spec.high) + 1, (STEPS, vec.num_rows))


def stepper(vec):
    """A function that steps only."""
    actions = actions_for(vec)
    vec.reset(seed=0)

    def step():
        for t in range(STEPS):
            vec.step(actions[t])

    return step


def copier(vec):
    """A function that steps and copies into buffers."""
    buffers = {name: np.zeros((STEPS, *array.shape[1:]), array.dtype) for name, array in vec.fields.items()}
    log_probs, values = np.zeros((2, STEPS, vec.num_rows), np.float32)
    actions, answer = actions_for(vec), np.ones(vec.num_rows, np.float32)
    current = [vec.reset(seed=0)[0]]

    def collect():
        observations = current[0]
        for t in range(STEPS):
            buffers["observations"][t] = observations
            buffers["actions"][t] = actions[t]
            log_probs[t] = answer
            values[t] = answer
            observations, rewards, terminations, truncations, _ = vec.step(actions[t])
            buffers["rewards"][t] = rewards
            buffers["terminations"][t] = terminations
            buffers["truncations"][t] = truncations
            buffers["masks"][t] = vec.masks
        current[0] = observations

    return collect


def roller(vec):
    """A function that collects a rollout."""
    actions, answer = actions_for(vec), np.ones(vec.num_rows, np.float32)
    fields = {"log_probs": answer, "values": answer}
    vec.reset(seed=0)

    def collect():
        steps = iter(actions)
        vec.rollout(lambda batch: (next(steps), fields))

    return collect


# ---- advantages ------------------------------------------------------------------------------------------------------


def estimating(report, repetitions, seconds):
    rows = []
    for size in SIZES:
        x = drawn(*size)
        sides = {"C": partial(in_c, x), "NumPy": partial(in_numpy, x)}
        if (tensors := as_tensors(x)) is not None:
            sides["torch"] = partial(in_torch, tensors)
        want = sides["C"]()
        for name, side in sides.items():
            np.testing.assert_allclose(want, np.asarray(side()), rtol=1e-4, atol=1e-4, err_msg=name)
        measured = report.rounds.in_turn({name: partial(harness.seconds_per_call, side, seconds) for name, side in sides.items()}, repetitions)
        us = [harness.Sample(tuple(1e6 * s for s in measured[name].values)) if name in measured else None for name in ("C", "NumPy", "torch")]
        rows.append(["{} × {}".format(*size), *us, *(harness.ratio(measured[name], measured["C"]) for name in measured if name != "C")])
    report.table("GAE, steps × rows: µs", ["size", "C", "NumPy", "torch", "NumPy/C", "torch/C"], rows)
    factors = [sample.median for row in rows for sample in row[4:]]
    report.target("GAE in C is faster than loops of arrays", min(factors) > 1, f"{min(factors):.3g} to {max(factors):.3g} times")


def drawn(steps, rows):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, steps, rows)).astype(np.float32)
    dones = rng.random((steps, rows)) < 0.02
    return rewards, values, rng.normal(size=rows).astype(np.float32), dones


def in_c(x):
    rewards, values, last_values, dones = x
    return fastvec.gae(rewards, values, last_values, dones, np.broadcast_to(False, dones.shape), gamma=GAMMA, gae_lambda=LAMBDA)[0]


def in_numpy(x):
    rewards, values, last_values, dones = x
    advantages, following, advantage = np.zeros_like(rewards), last_values, 0
    for t in reversed(range(len(rewards))):
        goes_on = np.float32(1) - dones[t]
        delta = rewards[t] + GAMMA * following * goes_on - values[t]
        advantages[t] = advantage = delta + GAMMA * LAMBDA * goes_on * advantage
        following = values[t]
    returns = advantages + values  # noqa: F841 - as the others
    return advantages


def as_tensors(x):
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)  # more only get in each other's way here
    return [torch.from_numpy(array) for array in x]


def in_torch(x):
    import torch

    rewards, values, last_values, dones = x
    with torch.no_grad():
        advantages, following, advantage = torch.zeros_like(rewards), last_values, 0
        for t in reversed(range(len(rewards))):
            goes_on = 1.0 - dones[t].float()
            delta = rewards[t] + GAMMA * following * goes_on - values[t]
            advantages[t] = advantage = delta + GAMMA * LAMBDA * goes_on * advantage
            following = values[t]
        returns = advantages + values  # noqa: F841
    return advantages


if __name__ == "__main__":
    sys.exit(main())
