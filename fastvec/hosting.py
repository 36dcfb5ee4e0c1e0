"""Envs on their way into a worker: built, described, compared, laid out."""
from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from fastvec_c import control
from fastvec_c import fields as field_plan
from fastvec_c.buffer_env import BufferEnv

from fastvec.adapters import adapt
from fastvec.spaces import Spec, describe_difference


def build_envs(creators: list[Callable], first_env: int, num_envs: int, autoreset: str, building: list[int]) -> list:
    """One adapted env for each creator.  `building[0]` follows the global index of the env being built."""
    envs = []
    places = {}
    for i, creator in enumerate(creators, first_env):
        building[0] = i
        env = create_env(creator, i, num_envs)
        envs.append(adapt(env, autoreset))
        first = places.setdefault(id(getattr(env, "unwrapped", env)), i)
        if first != i:
            raise ValueError(f"creator: the envs {first} and {i} are one and the same object; make a new one in each call")
    return envs


def create_env(creator: Callable, env_index: int, num_envs: int):
    """Calls a creator, with its place among all envs if it has a parameter `env_index`."""
    try:
        known = inspect.signature(creator).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        known = {}
    offer = {"env_index": env_index, "num_envs": num_envs} if "env_index" in known else {}
    return creator(**{name: value for name, value in offer.items() if name in known})


@dataclass(frozen=True)
class Description:
    """What a worker tells the trainer of one of its envs."""

    observation_spec: Spec
    action_spec: Spec
    observation_space: Any  # as the env declares it
    action_space: Any
    fields: dict[str, Spec]
    num_agents: int
    autoreset: str | None  # None: it resets itself
    resets_late: bool  # the step after the end of an episode only resets
    compiled: bool
    kind: str  # the type's name, without gymnasium's wrappers


def describe(envs: list) -> list[Description]:
    """Of each adapted env what the trainer must know."""
    return [
        Description(
            e.observation_spec, e.action_spec, *_spaces(e), e.fields, e.num_agents,
            getattr(e, "autoreset", None), _resets_late(e), hasattr(e.env, "__fastvec_env__"), type(getattr(e.env, "unwrapped", e.env)).__name__,
        )
        for e in envs
    ]


def _resets_late(adapted):
    return getattr(adapted, "autoreset", None) == "next_step" or isinstance(adapted, BufferEnv) and not adapted.resets_itself


def _spaces(adapted):
    """One agent's (observation space, action space): as the env declares them, unless that is done agent by agent."""
    if isinstance(adapted, BufferEnv):  # of PufferLib, where observation_space is that of all its agents
        return adapted.env.single_observation_space, adapted.env.single_action_space
    declared = adapted if hasattr(adapted, "observation_space") else adapted.env
    return declared.observation_space, declared.action_space


class UnlikeEnvs(ValueError):
    """The envs of one pool differ in their rows.

    Attributes:
        what: "observation" or "action" space, or something else.
    """

    def __init__(self, message, what):
        super().__init__(message)
        self.what = what


def check_alike(descriptions: list[Description]):
    """All envs of a pool share one shape of row.

    Raises:
        UnlikeEnvs: two differ; says which, and in what.
    """
    first = descriptions[0]
    for i, other in enumerate(descriptions):
        if other.compiled != first.compiled:
            raise UnlikeEnvs(
                f"creators: of env 0 ({first.kind}) and env {i} ({other.kind}) one is compiled, the other is not; "
                "make two VecEnvs of them", "kind"
            )
        for what in ("observation", "action"):
            a, b = getattr(first, f"{what}_spec"), getattr(other, f"{what}_spec")
            difference = describe_difference(a, b)
            if difference:
                raise UnlikeEnvs(
                    f"creators: env {i} ({other.kind}) and env 0 ({first.kind}) differ in their {what} space: "
                    f"{difference}; wrap them to the same spaces, or make two VecEnvs", what
                )
        if other.fields.keys() != first.fields.keys() or any(
            describe_difference(first.fields[k], other.fields[k]) for k in first.fields
        ):
            raise UnlikeEnvs(f"creators: env {i} ({other.kind}) declares fields {other.fields}, env 0 {first.fields}", "fields")


@dataclass(frozen=True)
class Hosting:
    """How the arena is laid out: what control.h has, reset table, fields."""

    num_workers: int
    slots: int
    rows: int
    rows_per_env: int
    placed: list  # fastvec_c.fields.plan
    trainer_placed: list  # likewise, of arrays that workers know nothing of
    seeds_at: int  # int64 [num_envs]
    whats_at: int  # uint8 [num_envs]: fastvec_c.worker.KEEP, RESET or RESEED
    nbytes: int


def lay_out(descriptions: list[Description], num_workers: int, slots: int, trainer_fields: dict[str, Spec]) -> Hosting:
    """The layout for envs with these descriptions.  Envs with fewer agents than others get rows that stay masked.

    Raises:
        ValueError: a trainer field has the name of another field.
    """
    first = descriptions[0]
    num_envs = len(descriptions)
    rows_per_env = max(d.num_agents for d in descriptions)
    specs = [
        ("observations", first.observation_spec.shape, first.observation_spec.dtype),
        ("actions", first.action_spec.shape, first.action_spec.dtype),
        ("rewards", (), np.float32),
        ("terminations", (), np.bool_),
        ("truncations", (), np.bool_),
        ("masks", (), np.bool_),
    ]
    specs += [(name, spec.shape, spec.dtype) for name, spec in first.fields.items()]
    for name in trainer_fields:
        if name in (taken := [name for name, *_ in specs]):
            raise ValueError(f"trainer_fields: {name!r} is a field of the envs; take another name than {', '.join(taken)}")
    seeds_at = -(-control.nbytes(num_workers) // 64) * 64
    whats_at = seeds_at + 8 * num_envs
    rows = num_envs * rows_per_env
    placed, end = field_plan.plan(specs, slots, rows, whats_at + num_envs)
    trainer_placed, nbytes = field_plan.plan([(name, spec.shape, spec.dtype) for name, spec in trainer_fields.items()], slots, rows, end)
    return Hosting(num_workers, slots, rows, rows_per_env, placed, trainer_placed, seeds_at, whats_at, nbytes)
