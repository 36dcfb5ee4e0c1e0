"""Compiled envs: objects that hand over a fastvec_env struct."""
from __future__ import annotations

from fastvec_c.env import CompiledEnv
from fastvec_c.fields import STANDARD

from fastvec.spaces import as_spec


def adapt_compiled(env) -> CompiledEnv:
    """Raises TypeError or ValueError where the object and its struct do not fit together."""
    kind = type(env).__name__
    for name in ("observation_space", "action_space", "num_agents"):
        if not hasattr(env, name):
            raise TypeError(f"{kind} has __fastvec_env__ but no {name}; see fastvec_env.h for what a compiled env needs")
    fields = {name: as_spec(spec, f"{kind}.fields[{name!r}]") for name, spec in getattr(env, "fields", {}).items()}
    taken = fields.keys() & set(STANDARD)
    if taken:
        raise ValueError(f"{kind}.fields has {sorted(taken)}, the names of standard fields; rename them")
    return CompiledEnv(
        env,
        as_spec(env.observation_space, f"{kind}.observation_space"),
        as_spec(env.action_space, f"{kind}.action_space"),
        fields,
    )
