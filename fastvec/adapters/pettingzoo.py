"""PettingZoo's parallel envs: many agents, each a row, in the order of `possible_agents`."""
from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from fastvec.spaces import as_spec, describe_difference
from fastvec_c.packing import packer
from fastvec_c.pyenv import PyEnv


def adapt_pettingzoo(env: Any, autoreset: str) -> ParallelRows:
    """Wraps a pettingzoo.ParallelEnv.

    Raises:
        TypeError: it has no `possible_agents`, or a space has no fixed size.
        ValueError: it has no agents, or their spaces differ.
    """
    agents = getattr(env, "possible_agents", None)
    if agents is None:
        raise TypeError(f"{_kind(env)} has no possible_agents; list there all agents that may ever take part: each gets a row")
    if not agents:
        raise ValueError(f"possible_agents of {_kind(env)} is empty; an env has at least one agent")
    return ParallelRows(env, list(agents), _common_space(env, agents, "observation"), _common_space(env, agents, "action"), autoreset)


def _common_space(env, agents, what):
    """The observation or action space of all agents."""
    spaces = [getattr(env, f"{what}_space")(agent) for agent in agents]
    specs = [as_spec(space, f"{what}_space({agent!r})") for space, agent in zip(spaces, agents, strict=True)]
    for agent, spec in zip(agents, specs, strict=True):
        difference = describe_difference(specs[0], spec)
        if difference:
            raise ValueError(
                f"the agents {agents[0]!r} and {agent!r} of {_kind(env)} differ in their {what} space: {difference}; agents are rows of "
                "one array, so wrap the env to give all of them the same (supersuit has pad_observations_v0 and pad_action_space_v0)"
            )
    return spaces[0]


class ParallelRows(PyEnv):
    """A ParallelEnv behind the worker loop's contract.

    A row is masked 1 where its agent acted in the step, or acts in the next one; the observation of any other row is 0.  An
    episode is over when no agent is left; what comes then is for `autoreset` to say, as of gymnasium envs:
    "next_step", "same_step" (with "final_obs" and "final_info", dicts of agents) or "disabled".

    Infos are those of the env, {agent: dict}, without the empty ones.
    """

    def __init__(self, env, agents, observation_space, action_space, autoreset):
        self.env = env
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_spec, self.action_spec = (as_spec(space, "space") for space in (observation_space, action_space))
        self.num_agents = len(agents)
        self.fields = {}
        self.autoreset = autoreset
        self.row_of = {agent: row for row, agent in enumerate(agents)}
        self.live = []  # the agents that act in the next step
        self.over = False
        name = _kind(env)
        self.observation_packer = packer(observation_space, self.observation_spec.dtype, self.observation_spec.shape, f"observation of {name}")
        self.action_packer = packer(action_space, self.action_spec.dtype, self.action_spec.shape, f"action of {name}")
        self.nothing = np.zeros((), self.observation_spec.dtype)

    def bind(self, slots):
        super().bind(slots)
        self.slots = slots
        # Arrays of one row each: an index would make scalars of the rows of a Discrete or Dict space.
        self.observation_rows, self.action_rows = (
            [[fields[name][row:row + 1] for row in range(self.num_agents)] for fields in slots] for name in ("observations", "actions")
        )

    def reset(self, slot, seed, options):
        return self._begin(slot, self.env.reset(seed=seed, options=options))

    def step(self, action_slot, slot):
        if self.over:
            if self.autoreset == "disabled":
                raise RuntimeError(
                    f"step() of {_kind(self.env)} after its episode ended; with autoreset='disabled' reset it first, or choose "
                    "autoreset='next_step'"
                )
            self._blank(slot)
            return self._begin(slot, self.env.reset())
        actions = self.action_rows[action_slot]
        result = self.env.step({agent: self.action_packer.read_row(actions[self.row_of[agent]]) for agent in self.live})
        observations, rewards, terminated, truncated, infos = self._checked(result, 5, "step")
        acted, self.live = self.live, [a for a in self._agents() if not (terminated.get(a, False) or truncated.get(a, False))]
        self._blank(slot)
        for agent in acted:
            self._write_outcome(slot, agent, rewards.get(agent, 0.0), terminated.get(agent, False), truncated.get(agent, False))
        self.over = not self.live
        if self.over and self.autoreset == "same_step":
            # An env that reuses its arrays would overwrite these in its reset.
            final = {"final_obs": deepcopy(observations), "final_info": _said(infos)}
            return {**final, **(self._begin(slot, self.env.reset(), acted) or {})}
        self._write_observations(slot, observations, acted)
        return _said(infos) or None

    def _begin(self, slot, result, acted=()):
        """Writes what env.reset returned, in a step in which these agents have acted."""
        observations, infos = self._checked(result, 2, "reset")
        self.live = self._agents()
        if not self.live:
            raise RuntimeError(f"{_kind(self.env)} has no agents after reset(); its `agents` should list those that take part")
        self.over = False
        self._write_observations(slot, observations, acted)
        return _said(infos) or None

    def _blank(self, slot):
        """No rewards, no flags."""
        for name in ("rewards", "terminations", "truncations"):
            self.slots[slot][name][:] = 0

    def _write_outcome(self, slot, agent, reward, terminated, truncated):
        fields, row = self.slots[slot], self.row_of[agent]
        fields["rewards"][row] = reward
        fields["terminations"][row] = terminated
        # An agent that leaves without a word has not come to an end of its own.
        fields["truncations"][row] = truncated or not terminated and agent not in self.live

    def _write_observations(self, slot, observations, acted):
        """Observations and masks of all rows."""
        masks = self.slots[slot]["masks"]
        for agent, row in self.row_of.items():
            lives = agent in self.live
            masks[row] = lives or agent in acted
            if agent in observations and masks[row]:
                self.observation_packer.write_row(self.observation_rows[slot][row], observations[agent])
            elif lives:
                raise KeyError(f"{_kind(self.env)} gave no observation for the agent {agent!r}, which is in `agents`")
            else:
                self.observation_rows[slot][row][...] = self.nothing

    def _agents(self):
        """The env's `agents`, all of which have a row."""
        agents = list(self.env.agents)
        strangers = [agent for agent in agents if agent not in self.row_of]
        if strangers:
            raise ValueError(f"agents of {_kind(self.env)} has {strangers}, which possible_agents has not; list there all that may take part")
        return agents

    def _checked(self, result, size, method):
        """What the env returned: a tuple of so many dicts."""
        if not isinstance(result, tuple) or len(result) != size or not all(isinstance(part, dict) for part in result):
            given = f"a tuple of {[type(part).__name__ for part in result]}" if isinstance(result, tuple) else f"{result!r:.100}"
            raise TypeError(f"{method}() of {_kind(self.env)} returned {given}; expected a tuple of {size} dicts, as a ParallelEnv's")
        return result


def _said(infos):
    """Without the infos that say nothing."""
    return {agent: info for agent, info in infos.items() if not (info is None or isinstance(info, dict) and not info)}


def _kind(env):
    return type(env.unwrapped).__name__
