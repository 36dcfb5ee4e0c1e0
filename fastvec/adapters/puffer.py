"""PufferLib's envs, native and emulated: they fill buffers, their own or those that they are built with."""
from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np

from fastvec.spaces import Spec
from fastvec_c.buffer_env import NAMES, BufferEnv
from fastvec_c.emulated_env import EmulatedEnv


def puffer_kinds() -> tuple:
    """The classes of PufferLib's envs, as far as they have been imported."""
    emulation = sys.modules.get("pufferlib.emulation")
    names = ((sys.modules.get("pufferlib"), "PufferEnv"), (emulation, "GymnasiumPufferEnv"), (emulation, "PettingZooPufferEnv"))
    return tuple(getattr(module, name) for module, name in names if hasattr(module, name))


def adapt_puffer(env) -> BufferEnv:
    """Wraps an env, or an Unbuilt one.  One that is built has buffers of its own: they are copied into its rows.

    Its infos stay what they are: of native envs a list of dicts.
    """
    layout, build = (env.layout, env.build) if isinstance(env, Unbuilt) else (Layout.of(env), None)
    args = env, layout.observation_spec, layout.action_spec, layout.num_agents, layout.fields, layout.resets_itself, build
    if layout.plain and build is not None:
        import pufferlib.spaces

        return EmulatedEnv(*args, discrete=isinstance(layout.action_space, pufferlib.spaces.Discrete))
    return BufferEnv(*args)


@dataclass(frozen=True)
class Layout:
    """What must be known of an env before its rows can be."""

    observation_space: Any  # as the env declares them
    action_space: Any
    observation_spec: Spec
    action_spec: Spec
    fields: dict[str, Spec]  # of the buffers beyond the standard ones: teacher_actions, where PufferLib has them
    num_agents: int
    resets_itself: bool  # as native envs do: it is never done
    plain: bool  # a GymnasiumPufferEnv that has nothing to convert

    def __str__(self):
        return f"{self.num_agents} agents, {self.observation_space} and {self.action_space}"

    @staticmethod
    def of(env) -> Layout:
        import pufferlib

        # PufferLib itself says which buffers it hands out, and of which types: its versions differ.
        one = SimpleNamespace(
            single_observation_space=env.single_observation_space, single_action_space=env.single_action_space, num_agents=1
        )
        pufferlib.set_buffers(one)
        rows = {name: buffer[0] for name, buffer in vars(one).items() if isinstance(buffer, np.ndarray)}
        return Layout(
            env.single_observation_space,
            env.single_action_space,
            Spec(rows["observations"].shape, rows["observations"].dtype),
            Spec(rows["actions"].shape, rows["actions"].dtype, *_bounds(env, rows["actions"].shape)),
            {name: Spec(row.shape, row.dtype) for name, row in rows.items() if name not in NAMES and name != "actions"},
            int(env.num_agents),
            getattr(type(env), "done", None) is pufferlib.PufferEnv.done,
            _is_plain(env),
        )


def _is_plain(env):
    """Whether its step is PufferLib's own and does no more than hand on: action in, results out."""
    emulated = getattr(sys.modules.get("pufferlib.emulation"), "GymnasiumPufferEnv", None)
    return type(env) is emulated and "step" not in vars(env) and not (env.is_obs_emulated or env.is_atn_emulated)


def transport_action_space(env):
    """Of what one agent is sent: newer envs may take their actions in another form than they declare."""
    return getattr(env, "single_transport_action_space", env.single_action_space)


def _bounds(env, shape):
    """The least and largest values of discrete actions; None of continuous ones."""
    from pufferlib import spaces

    space = transport_action_space(env)
    if isinstance(space, spaces.Discrete):
        high = int(space.n) - 1
    elif isinstance(space, spaces.MultiDiscrete):
        high = np.asarray(space.nvec) - 1
    else:
        return None, None
    return (0, high) if np.shape(high) == shape else (None, None)


class NotAsDeclared(Exception):
    """An env turned out to have other spaces or another number of agents than its layout says."""


class Unbuilt:
    """An env that is built when its rows exist, so that it writes them in place."""

    def __init__(self, creator: Creator, layout: Layout):
        self.creator = creator
        self.layout = layout
        self.single_observation_space = layout.observation_space
        self.single_action_space = layout.action_space

    def build(self, buf: dict):
        """The env, which fills these buffers.

        Raises:
            NotAsDeclared: its rows are of another shape.
            whatever the creator raises.
        """
        try:
            env = self.creator.build(buf=buf)
        except Exception as error:  # maybe because they are
            self.compare(self.creator.probe(), error)
            raise
        try:
            self.compare(Layout.of(env))
        except NotAsDeclared:
            close_env(env)
            raise
        return env

    def compare(self, found: Layout, cause: Exception | None = None):
        if found != self.layout:
            raise NotAsDeclared(f"it has {found}, where {self.layout} was expected") from cause

    def close(self):
        pass


class Creator:
    """What a worker calls for an env that is built in PufferLib's way.

    Args:
        creator: called as `creator(*args, buf=..., seed=..., **kwargs)`.
        layout: that of the env; None builds an env, closes it, and takes its layout.
    """

    def __init__(self, creator: Callable, args: list | tuple, kwargs: dict, seed: int | None, layout: Layout | None):
        self.creator, self.args, self.kwargs, self.seed, self.layout = creator, args, kwargs, seed, layout

    def __call__(self) -> Unbuilt:
        return Unbuilt(self, self.layout or self.probe())

    def build(self, **buf):
        env = self.creator(*self.args, **buf, seed=self.seed, **self.kwargs)
        if not isinstance(env, puffer_kinds()):
            raise TypeError(f"the creator returned an object of type {type(env).__name__}; expected an env of PufferLib")
        return env

    def probe(self) -> Layout:
        env = self.build()
        layout = Layout.of(env)
        close_env(env)
        return layout


def close_env(env):
    try:
        env.close()
    except NotImplementedError:  # what PufferEnv's own does
        pass
