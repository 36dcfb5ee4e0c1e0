"""gymnasium envs: one world, one agent, `reset` and `step` that return their results."""
from __future__ import annotations

from typing import Any

from fastvec.spaces import as_spec
from fastvec_c.gym_env import GymEnv


def adapt_gymnasium(env: Any, autoreset: str) -> GymEnv:
    """Wraps a gymnasium.Env.

    Raises:
        TypeError: a space has no fixed size.
        ValueError: autoreset is none of "next_step", "same_step", "disabled".
    """
    return GymEnv(
        env,
        as_spec(env.observation_space, "observation_space"),
        as_spec(env.action_space, "action_space"),
        autoreset,
    )
