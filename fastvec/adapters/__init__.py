"""From other people's envs to the one contract that workers step: one file for each kind of env."""
from __future__ import annotations

import sys
from typing import Any

from fastvec.adapters.compiled import adapt_compiled
from fastvec.adapters.gpudrive import adapt_gpudrive, is_gpudrive
from fastvec.adapters.gymnasium import adapt_gymnasium
from fastvec.adapters.pettingzoo import adapt_pettingzoo
from fastvec.adapters.puffer import Unbuilt, adapt_puffer, puffer_kinds
from fastvec.adapters.rows import adapt_rows
from fastvec.env import Env

ACCEPTED = (
    "expected a gymnasium.Env, a fastvec.Env, an env of PufferLib (PufferEnv or an emulated one), a pettingzoo.ParallelEnv, "
    "a dm_env.Environment, an object of GPUDrive's (GPUDriveTorchEnv, PufferGPUDrive, SimManager) or a compiled env (one with "
    "__fastvec_env__)"
)


def adapt(env: Any, autoreset: str = "next_step") -> Any:
    """What a worker steps, for what a creator returned.

    Args:
        env: a gymnasium.Env, a fastvec.Env, an env of PufferLib, a pettingzoo.ParallelEnv, a dm_env.Environment, a compiled
            env, or one of GPUDrive's objects.
        autoreset: "next_step", "same_step" or "disabled", for gymnasium, PettingZoo and dm_env; the others reset themselves.

    Returns:
        a `fastvec_c.pyenv.PyEnv` or `fastvec_c.env.CompiledEnv`.

    Raises:
        TypeError: the creator returned something else, or a space has no fixed size.
        ValueError: what it returned contradicts itself.
    """
    mistake = _mistake(env)
    if mistake:
        raise TypeError(f"{mistake}; {ACCEPTED}")
    if hasattr(env, "__fastvec_env__"):
        return adapt_compiled(env)
    if isinstance(env, Env):
        return adapt_rows(env)
    if is_gpudrive(env):  # before gymnasium.Env, which GPUDriveTorchEnv claims to be
        return adapt_gpudrive(env)
    if isinstance(env, (Unbuilt, *puffer_kinds())):  # before gymnasium: emulated envs derive from its Env
        return adapt_puffer(env)
    if _is(env, "gymnasium", "Env"):
        return adapt_gymnasium(env, autoreset)
    if _is(env, "pettingzoo", "ParallelEnv"):
        return adapt_pettingzoo(env, autoreset)
    if _is(env, "dm_env", "Environment"):
        from fastvec.adapters.dm_env import DmEnv  # which needs gymnasium

        return adapt_gymnasium(DmEnv(env), autoreset)
    raise TypeError(f"the creator returned an object of type {_type_name(type(env))}{_hint(env)}; {ACCEPTED}")


def _is(env, library, kind):
    """Whoever made an env of a library has imported it; nobody else should pay for it."""
    return isinstance(env, getattr(sys.modules.get(library), kind, ()))


def _mistake(env):
    """What went wrong in the creator, where its result shows it."""
    if env is None:
        return "the creator returned None: did it forget `return`"
    if isinstance(env, type):
        return f"the creator returned the class {_type_name(env)} itself: return an instance, {env.__name__}(…)"
    if isinstance(env, (list, tuple)):
        return f"the creator returned a {type(env).__name__} of {len(env)}: return one env; fastvec makes as many as asked"
    return None


def _hint(env):
    if _is(env, "gymnasium.vector", "VectorEnv"):
        return ", which is vectorized already: return a single env, and let fastvec make many"
    if _is(env, "pettingzoo", "AECEnv"):
        return ", a PettingZoo env whose agents act in turn: make it parallel with pettingzoo.utils.aec_to_parallel"
    if any(base.__module__.split(".")[0] == "gym" for base in type(env).__mro__):
        return ", from the old gym package: port it to gymnasium, or wrap it with shimmy"
    if callable(env):
        return ", a function: did the creator return it without calling it"
    if hasattr(env, "step") and hasattr(env, "reset"):
        return ", which has step and reset but no known base class: derive it from gymnasium.Env or fastvec.Env"
    return ""


def _type_name(kind):
    return f"{kind.__module__}.{kind.__qualname__}"
