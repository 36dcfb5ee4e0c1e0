"""Envs for the tests of fastvec.puffer, importable so that every start method can reach them."""
import functools
import os
import signal
import time

import gymnasium
import numpy as np
import pufferlib
import pufferlib.emulation
from gymnasium import spaces


class Painter:
    def paint(self, value):
        """Writes observations out of turn: who sees them at once shares their memory."""
        self.observations[:] = value


class Herd(Painter, pufferlib.PufferEnv):
    """Native: agents that walk; each is masked out now and then, and done when it is far; infos at the end of an episode."""

    def __init__(self, num_agents=3, action="discrete", trap=None, at=None, buf=None, seed=0):
        self.single_observation_space = spaces.Box(-1e6, 1e6, (2, 2), np.float32)
        self.single_action_space = {
            "discrete": spaces.Discrete(5),
            "multi": spaces.MultiDiscrete([3, 5]),
            "box": spaces.Box(-2, 2, (2,), np.float32),
        }[action]
        self.num_agents = num_agents
        self.trap, self.at, self.seed = trap, at, seed
        super().__init__(buf)
        self.rng = np.random.default_rng(seed)
        self.notified = self.steps = 0
        if at == "build" and buf is not None:
            trap()

    def reset(self, seed=None):
        if self.at == "reset":
            self.trap()
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.t = 0
        self.at_x = self.rng.normal(size=self.num_agents)
        self.write()
        return self.observations, []

    def step(self, actions):
        self.actions[:] = actions
        self.t += 1
        self.steps += 1
        if self.at == self.steps:
            self.trap()
        self.at_x += self.actions.reshape(self.num_agents, -1).sum(1) - 1 + self.rng.normal(size=self.num_agents)
        self.rewards[:] = self.at_x / 3
        self.terminals[:] = self.at_x > 20
        self.truncations[:] = self.t % 50 == 0
        self.masks[:] = self.t % (np.arange(self.num_agents) + 4) != 0
        infos = [{"far": float(self.at_x.max()), "deep": {"t": self.t}}] if self.terminals.any() else []
        self.at_x[self.terminals] = self.rng.normal(size=self.terminals.sum())
        self.write()
        return self.observations, self.rewards, self.terminals, self.truncations, infos

    def write(self):
        self.observations[:, 0, 0] = self.at_x
        self.observations[:, 0, 1] = self.t
        self.observations[:, 1] = self.seed, self.notified
        if hasattr(self, "teacher_actions"):
            self.teacher_actions[:] = self.t % 3

    def notify(self):
        self.notified += 1

    def close(self):
        if self.at == "close":
            self.trap()


class Silent(pufferlib.PufferEnv):
    """Native, without a notify and a close of its own."""

    def __init__(self, buf=None, seed=0):
        self.single_observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.num_agents = 1
        super().__init__(buf)
        self.masks[:] = False  # nobody is home, and nobody ever says so again

    def reset(self, seed=None):
        return self.observations, []

    def step(self, actions):
        self.rewards[:] = 1
        return self.observations, self.rewards, self.terminals, self.truncations, []


class Replacer(Silent):
    """Hands out new arrays instead of filling its buffers."""

    def step(self, actions):
        self.observations = self.observations + 1
        self.rewards = np.asarray(actions, np.float64)
        return self.observations, self.rewards, self.terminals, self.truncations, []


class Structured(gymnasium.Env):
    """Observes a dict of several types; acts with a dict."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (3,), np.uint8), "speed": spaces.Box(-9, 9, (2,), np.float32), "phase": spaces.Discrete(4)}
    )
    action_space = spaces.Dict({"gear": spaces.Discrete(3), "steer": spaces.Discrete(5)})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(0), {}

    def step(self, action):
        self.t += 1
        over = self.np_random.random() < 0.1
        info = {"length": self.t} if over else {}
        return self.observe(action["gear"] + 10 * action["steer"]), float(action["steer"]), over, self.t == 7, info

    def observe(self, x):
        return {
            "image": np.full(3, x, np.uint8), "speed": self.np_random.uniform(-1, 1, 2).astype(np.float32), "phase": self.t % 4
        }


def fading():
    """A PettingZoo env of four agents that leave at different times."""
    from pettingzoo import ParallelEnv

    class Fading(ParallelEnv):
        metadata = {"name": "fading"}
        possible_agents = ["a", "b", "c", "d"]

        def observation_space(self, agent):
            return spaces.Box(-9, 9, (2,), np.float32)

        def action_space(self, agent):
            return spaces.Discrete(4)

        def reset(self, seed=None, options=None):
            if seed is not None:
                self.rng = np.random.default_rng(seed)
            self.agents = list(self.possible_agents)
            self.ends = dict(zip(self.agents, self.rng.integers(1, 12, 4)))
            self.t = 0
            return self.observe(), {a: {} for a in self.agents}

        def step(self, actions):
            assert set(actions) == set(self.agents)
            self.t += 1
            rewards = {a: float(actions[a]) for a in self.agents}
            ended = {a: self.ends[a] == self.t for a in self.agents}
            out = {a: self.ends[a] + 1 == self.t for a in self.agents}
            result = self.observe(), rewards, ended, out, {a: {} for a in self.agents}
            self.agents = [a for a in self.agents if not ended[a]]
            return result

        def observe(self):
            return {a: np.array([self.t, self.rng.normal()], np.float32).clip(-9, 9) for a in self.agents}

    return Fading()


class FromGymnasium(Painter, pufferlib.emulation.GymnasiumPufferEnv):
    pass


def plain_creator(make, buf=None, seed=0):
    """PufferLib's own class, whose step fastvec has compiled."""
    return pufferlib.emulation.GymnasiumPufferEnv(env_creator=make, buf=buf, seed=seed)


class Odd(gymnasium.Env):
    """Returns what gymnasium envs should not, and PufferLib takes."""

    observation_space = spaces.Box(-9, 9, (2, 2), np.float32)
    action_space = spaces.MultiDiscrete([3, 4])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=(2, 2)).astype(np.float32).clip(-9, 9), {}

    def step(self, action):
        assert type(action) is np.ndarray and action.shape == (2,) and action.dtype == np.int32
        self.t += 1
        observation = self.np_random.normal(size=(2, 2)).clip(-9, 9)  # float64
        over = self.np_random.random() < 0.1  # of NumPy
        kind = self.t % 6
        observation = [observation, observation.tolist(), observation.astype(np.float32), observation.astype(np.float32).T, 1, observation[:1]][kind]
        reward = [int(action[0]), np.float32(0.1) * action[1], 0.1, np.float64(0.3), np.array(action[0], np.int8), True][kind]
        truncated = [self.t == 9, np.bool_(self.t == 9), int(self.t == 9), np.array(self.t == 9), False, None][kind]
        result = observation, reward, over, truncated, {"t": self.t} if kind == 2 else {}
        return list(result) if kind == 5 else result


class FromPettingZoo(Painter, pufferlib.emulation.PettingZooPufferEnv):
    pass


def gymnasium_creator(make, buf=None, seed=0):
    return FromGymnasium(env_creator=make, buf=buf, seed=seed)


def pettingzoo_creator(make, buf=None, seed=0):
    return FromPettingZoo(env_creator=make, buf=buf, seed=seed)


cartpole = functools.partial(gymnasium_creator, functools.partial(gymnasium.make, "CartPole-v1"))
structured = functools.partial(gymnasium_creator, Structured)
pettingzoo = functools.partial(pettingzoo_creator, fading)
pendulum = functools.partial(gymnasium_creator, functools.partial(gymnasium.make, "Pendulum-v1"))
plain_cartpole = functools.partial(plain_creator, functools.partial(gymnasium.make, "CartPole-v1"))
plain_pendulum = functools.partial(plain_creator, functools.partial(gymnasium.make, "Pendulum-v1"))
odd = functools.partial(plain_creator, Odd)
herd = Herd
multi = functools.partial(Herd, action="multi")
box = functools.partial(Herd, action="box")


def sized_by_seed(buf=None, seed=0):
    return Herd(num_agents=1 + seed % 3, buf=buf, seed=seed)


def trapped(trap, at, env=2, buf=None, seed=0):
    """Herds of one, of which the one with this seed, hence this index, has a trap."""
    mine = buf is not None and seed == env  # not the driver's
    return Herd(1, trap=trap if mine else None, at=at if mine else None, buf=buf, seed=seed)


def throw():
    raise KeyError("trapped")


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_long():
    time.sleep(3600)
