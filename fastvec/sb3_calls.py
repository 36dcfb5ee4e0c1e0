"""What fastvec.sb3 runs where the envs live.  Apart from it, so that workers that do not fork need not import torch."""
from __future__ import annotations

from typing import Any


def has(env, name) -> bool:
    try:
        get(env, name)
    except AttributeError:
        return False
    return True


def get(env, name) -> Any:
    return env.get_wrapper_attr(name) if hasattr(env, "get_wrapper_attr") else getattr(env, name)


def set_(env, name, value):
    if hasattr(env, "set_wrapper_attr"):
        env.set_wrapper_attr(name, value)
    else:
        setattr(env, name, value)


def call(env, name, args, kwargs) -> Any:
    return get(env, name)(*args, **kwargs)


def is_wrapped(env, wrapper_class) -> bool:
    while not isinstance(env, wrapper_class):
        env = getattr(env, "env", None)
        if env is None:
            return False
    return True
