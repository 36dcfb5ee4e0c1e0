"""PettingZoo and dm_env envs for the tests, importable so that spawned workers can reach them."""
import dm_env
import gymnasium
import numpy as np
import pettingzoo
from dm_env import specs


class Relay(pettingzoo.ParallelEnv):
    """Agent i of three leaves after 3 * (i + 1) steps, the last one truncated; observes [agent, episode, step, last action]."""

    metadata = {"name": "relay", "render_modes": ["rgb_array"]}
    possible_agents = ["ann", "bob", "cid"]
    space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    actions = gymnasium.spaces.Discrete(7)

    def __init__(self, trap=None, render_mode="rgb_array"):
        self.trap, self.render_mode = trap, render_mode
        self.episode, self.level, self.seed = -1, 1, None
        self.called = 0

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.actions

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.agents = list(self.possible_agents)
        self.episode, self.t = self.episode + 1, 0
        infos = {agent: {} for agent in self.agents}
        if options:
            infos["ann"]["options"] = options
        return {agent: self.observe(agent, 0) for agent in self.agents}, infos

    def step(self, actions):
        assert list(actions) == self.agents
        if self.trap:
            self.trap()
        self.t += 1
        over = {agent: self.t == 3 * (self.possible_agents.index(agent) + 1) for agent in actions}
        results = (
            {agent: self.observe(agent, action) for agent, action in actions.items()},
            {agent: float(action) for agent, action in actions.items()},
            {agent: over[agent] and agent != "cid" for agent in actions},
            {agent: over[agent] and agent == "cid" for agent in actions},
            {agent: {"left": self.t} if over[agent] else {} for agent in actions},
        )
        self.agents = [agent for agent in self.agents if not over[agent]]
        return results

    def observe(self, agent, action):
        return np.array([self.possible_agents.index(agent), self.episode, self.t, action], np.float32)

    def render(self):
        return np.full((2, 2, 3), self.t, np.uint8)

    def count(self):
        self.called += 1
        return self.called


class Masked(Relay):
    """Observations with an action mask."""

    space = gymnasium.spaces.Dict(action_mask=gymnasium.spaces.MultiBinary(7), observation=Relay.space)

    def observe(self, agent, action):
        return {"observation": super().observe(agent, action), "action_mask": np.eye(7, dtype=np.int8)[self.t % 7]}


class Walk(dm_env.Environment):
    """Ends after `length` steps with this discount; observes the step, the last action, and a flag."""

    def __init__(self, length=4, discount=0.0, action_spec=None):
        self.length, self.discount = length, discount
        self._action_spec = action_spec or specs.DiscreteArray(3)
        self.closed = False

    def observation_spec(self):
        return {"t": specs.Array((2,), np.float64), "flag": specs.BoundedArray((), np.int32, 0, 1), "pair": [specs.Array((), bool)] * 2}

    def action_spec(self):
        return self._action_spec

    def reset(self):
        self.t = 0
        return dm_env.restart(self.observe(0))

    def step(self, action):
        self._action_spec.validate(action)
        self.t += 1
        if self.t < self.length:
            return dm_env.transition(self.t, self.observe(action), 0.5 if self.t == 2 else 1.0)
        return dm_env.TimeStep(dm_env.StepType.LAST, self.t, self.discount, self.observe(action))

    def observe(self, action):
        return {"t": np.array([self.t, np.sum(action)], np.float64), "flag": np.int32(self.t % 2), "pair": [True, self.t > 1]}

    def close(self):
        self.closed = True
