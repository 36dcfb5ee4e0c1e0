"""The rows that the engine would bind, in plain NumPy."""
import numpy as np


def make_slots(env, count=1, fill=0):
    """Slots for a PyEnv; `fill` is what observations, rewards and flags hold before anything is written."""

    def rows(spec):
        array = np.zeros((env.num_agents, *spec.shape), spec.dtype)
        if fill and spec.dtype.names is None:
            array[...] = fill
        return array

    return [
        {
            "observations": rows(env.observation_spec),
            "actions": np.zeros((env.num_agents, *env.action_spec.shape), env.action_spec.dtype),
            "rewards": np.full(env.num_agents, fill, np.float32),
            "terminations": np.full(env.num_agents, bool(fill)),
            "truncations": np.full(env.num_agents, bool(fill)),
            "masks": np.ones(env.num_agents, bool),
            **{name: rows(spec) for name, spec in env.fields.items()},
        }
        for _ in range(count)
    ]


def bound(env, count=1, fill=0):
    """Binds `env` to new slots and returns them."""
    slots = make_slots(env, count, fill)
    env.bind(slots)
    return slots


def begin(slot):
    """What the engine does to a slot before reset."""
    for name in ("rewards", "terminations", "truncations"):
        slot[name][:] = 0
    slot["masks"][:] = 1
