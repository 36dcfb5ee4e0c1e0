"""fastvec.Env: envs that write their rows in place."""
from __future__ import annotations

from fastvec.env import Env
from fastvec.spaces import as_spec
from fastvec_c.rows_env import RowsEnv


def adapt_rows(env: Env) -> RowsEnv:
    """Wraps a fastvec.Env, after a look at what it declares.

    Raises:
        TypeError: a space is missing or has no fixed size, or num_agents or fields is of the wrong type.
        ValueError: num_agents is below 1, or a field's name cannot be an attribute of its own.
    """
    for name in ("observation_space", "action_space"):
        if not hasattr(env, name):
            raise TypeError(f"{type(env).__name__} has no {name}; set it to a fastvec.Spec or a gymnasium space")
    return RowsEnv(
        env,
        as_spec(env.observation_space, "observation_space"),
        as_spec(env.action_space, "action_space"),
        _num_agents(env),
        _fields(env),
    )


def _num_agents(env):
    count = env.num_agents
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise TypeError(f"num_agents of {type(env).__name__} is {count!r}; expected an integer")
    if count < 1:
        raise ValueError(f"num_agents of {type(env).__name__} is {count}; an env writes at least one row")
    return int(count)


def _fields(env):
    if not isinstance(env.fields, dict):
        raise TypeError(f"fields of {type(env).__name__} is {env.fields!r}; expected a dict {{name: Spec}}")
    for name in env.fields:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"fields of {type(env).__name__} has the name {name!r}; it becomes an attribute of the env")
        if name in RESERVED:
            raise ValueError(f"fields of {type(env).__name__} has the name {name!r}, which fastvec.Env uses; choose another")
    return {name: as_spec(space, f"fields[{name!r}]") for name, space in env.fields.items()}


RESERVED = frozenset(Env.__annotations__) | {"actions"} | {name for name in vars(Env) if not name.startswith("__")}
