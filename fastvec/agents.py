"""Whose a row is, asked where the envs live."""
from __future__ import annotations


def agent_names(env) -> list | None:
    """The names that a PettingZoo env keys its infos by, in the order of its rows; None of other envs."""
    return list(env.possible_agents) if hasattr(env, "possible_agents") else None
