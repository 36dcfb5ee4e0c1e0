"""gymnasium envs with spaces that the engine does not take as they are: wrapped where they live."""
from __future__ import annotations

from copy import deepcopy

import gymnasium
import numpy as np
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from fastvec.hosting import create_env
from fastvec.spaces import UnsupportedSpace, as_spec

_OBSERVATION = "fastvec observation"  # where an info carries one


class Disguise(gymnasium.Wrapper):
    """An env that shows the engine other spaces than its own."""


class Wrapping:
    """A creator of wrapped envs; can be pickled if the creator of the bare ones can be."""

    def __init__(self, wrapper, creator):
        self.wrapper, self.creator = wrapper, creator

    def __call__(self, env_index, num_envs):
        env = create_env(self.creator, env_index, num_envs)
        return self.wrapper(env, env_index) if isinstance(env, gymnasium.Env) else env


class Unbounded(Disguise):
    """An env without the bounds of its observations, in which the envs of one VecEnv must agree."""

    def __init__(self, env, env_index):
        super().__init__(env)
        spec = as_spec(env.observation_space, "observation_space")
        if spec.dtype.names is None:  # those of structured rows are not kept anyway
            self.observation_space = unbounded_box(spec)
        self.step, self.reset = env.step, env.reset  # no layer between the engine and the env


class Carried(Disguise):
    """An env with samples of no fixed size.  Its observations travel in the infos, its actions are given before the step."""

    def __init__(self, env, env_index):
        super().__init__(env)
        self.env_index = env_index
        self.carries_observations, self.carries_actions = not fits(env.observation_space), not fits(env.action_space)
        if self.carries_observations:
            self.observation_space = gymnasium.spaces.Discrete(1)
        if self.carries_actions:
            self.action_space = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        return self.shown(*self.env.reset(seed=seed, options=options))

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(self.given if self.carries_actions else action)
        observation, info = self.shown(observation, info)
        return observation, reward, terminated, truncated, info

    def shown(self, observation, info):
        return (0, {**info, _OBSERVATION: observation}) if self.carries_observations else (observation, info)


def within(env, function, *args):
    """`function(env, *args)`, with the env as it was made."""
    return function(env.env if isinstance(env, Disguise) else env, *args)


def unbounded_box(spec):
    """The Box of all that rows of a Spec can hold."""
    kind = spec.dtype.kind
    low, high = (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max) if kind in "iu" else (0, 1) if kind == "b" else (-np.inf, np.inf)
    return gymnasium.spaces.Box(low, high, spec.shape, spec.dtype.type)


def fits(space) -> bool:
    """Whether samples of a space have a fixed size."""
    try:
        as_spec(space, "space")
    except UnsupportedSpace:
        return False
    return True


class CarryingVec:
    """The trainer's end of Carried envs: `send` and `recv` as a VecEnv has them, with the samples of the envs' spaces.

    Args:
        vec: a VecEnv of Carried envs.
        single_observation_space, action_space: an env's observations and the batched actions, as the envs declare them.
    """

    def __init__(self, vec, single_observation_space, action_space):
        self.vec = vec
        self.observation_space = single_observation_space
        self.action_space = action_space
        self.carries_observations, self.carries_actions = vec.apply(_carries, envs=[0])[0]
        self.samples = [None] * vec.num_envs  # of the observations

    def send(self, actions):
        if self.carries_actions:
            actions = list(iterate(self.action_space, actions))
            if len(actions) != self.vec.num_envs:
                raise ValueError(f"actions: {len(actions)}; give one for each of the {self.vec.num_envs} envs")
            self.vec.apply(_give, actions)
            actions = np.zeros(self.vec.num_envs, np.int64)
        self.vec.send(actions)

    def recv(self, timeout=None):
        batch = self.vec.recv(timeout)
        for env, info in batch.infos.items():
            if _OBSERVATION in info:
                self.samples[env] = info.pop(_OBSERVATION)
            final = info.get("final_info")
            if isinstance(final, dict) and _OBSERVATION in final:
                info["final_obs"] = final.pop(_OBSERVATION)
        return batch


class CarriedResults:
    """Results, with the observations that a CarryingVec received.

    Args:
        plain: the Results without them.
    """

    def __init__(self, carrying, plain):
        self.carrying, self.plain = carrying, plain

    def step(self, actions):
        self.carrying.send(actions)
        return self(self.carrying.recv().infos)

    def __call__(self, infos):
        return self.observations(), *self.plain(infos or {})[1:]

    def observations(self):
        carrying = self.carrying
        if not carrying.carries_observations:
            return self.plain.observations()
        space = carrying.observation_space
        batch = concatenate(space, carrying.samples, create_empty_array(space, len(carrying.samples)))
        return deepcopy(batch) if self.plain.copy else batch


def _carries(env):
    return env.carries_observations, env.carries_actions


def _give(env, actions):
    env.given = actions[env.env_index]
