"""dm_env's environments, as gymnasium envs."""
from __future__ import annotations

import numpy as np
from dm_env import specs

try:
    import gymnasium
except ImportError as error:
    raise ImportError("fastvec takes a dm_env.Environment as a gymnasium env: pip install 'fastvec[dm_env]'") from error


class DmEnv(gymnasium.Env):
    """A dm_env.Environment as a gymnasium env; its other attributes are the environment's.

    The last step of an episode is a termination if its discount is 0, else a truncation.  A discount other than 0 and 1 is in
    the info as "discount".  dm_env has no seeds: seed the environment where it is made.

    Attributes:
        dm_env: the environment.

    Raises:
        TypeError: a spec has no space like it.
    """

    def __init__(self, env):
        self.dm_env = env
        self._action_spec = env.action_spec()
        self.observation_space = _space(env.observation_spec(), "observation_spec()")
        self.action_space = _space(self._action_spec, "action_spec()")

    def reset(self, *, seed=None, options=None):
        if options:
            raise TypeError(f"options={options!r}: reset() of {type(self.dm_env).__name__}, a dm_env.Environment, takes none; leave it out")
        return self.dm_env.reset().observation, {}

    def step(self, action):
        time_step = self.dm_env.step(_as_given(self._action_spec, action))
        last, discount = time_step.last(), time_step.discount
        terminated = last and discount is not None and not np.any(discount)
        info = {} if discount is None or np.all((discount == 0) | (discount == 1)) else {"discount": discount}
        return time_step.observation, 0.0 if time_step.reward is None else time_step.reward, terminated, last and not terminated, info

    def close(self):
        self.dm_env.close()

    def __getattr__(self, name):
        if name == "dm_env":  # not there yet
            raise AttributeError(name)
        return getattr(self.dm_env, name)


def _space(spec, what):
    spaces = gymnasium.spaces
    if isinstance(spec, dict):
        return spaces.Dict([(key, _space(part, f"{what}[{key!r}]")) for key, part in spec.items()])
    if isinstance(spec, (list, tuple)):
        return spaces.Tuple([_space(part, f"{what}[{i}]") for i, part in enumerate(spec)])
    if isinstance(spec, specs.DiscreteArray):
        return spaces.Discrete(spec.num_values)
    kind = spec.dtype.kind if isinstance(spec, specs.Array) else None
    if kind == "b":
        return spaces.MultiBinary(spec.shape)
    if kind not in ("i", "u", "f"):
        raise TypeError(f"{what} is {spec!r}, and no space is like it; expected an Array of numbers, or a dict, list or tuple of such")
    low, high = (-np.inf, np.inf) if kind == "f" else (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max)
    if isinstance(spec, specs.BoundedArray):
        low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
    return spaces.Box(low, high, spec.shape, spec.dtype.type)


def _as_given(spec, action):
    """An action of the space, in the dtypes of its spec."""
    if isinstance(spec, dict):
        return {key: _as_given(part, action[key]) for key, part in spec.items()}
    if isinstance(spec, (list, tuple)):
        return type(spec)([_as_given(part, a) for part, a in zip(spec, action, strict=True)])
    return np.asarray(action, spec.dtype)[()]
