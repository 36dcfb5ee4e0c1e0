"""Envs for the fuzzer, and twins of them that say in this process what every row must be.

Every row tells the seed of its env, the step, and a checksum of all actions since the reset.  Some actions make an env slow,
raise, or end with what is no Exception.
"""
import time
import zlib

import gymnasium
import numpy as np

import fastvec
from fastvec_c.probe import Probe

SLOW, RAISE, INTERRUPT = 4, 5, 6


class Fails(Exception):
    """In a twin: the env raises here."""


class Interrupted(Exception):
    """In a twin: the env raises KeyboardInterrupt here."""


def checksum(data, start):
    return zlib.crc32(data, start) % 1_000_003


class Scribe(gymnasium.Env):
    """Observes [seed, episode, step, checksum]; an episode lasts 2 to 4 steps and ends in one way or the other."""

    observation_space = gymnasium.spaces.Box(0, 2**62, (4,), np.int64)
    action_space = gymnasium.spaces.Discrete(7, dtype=np.int32)  # actions are given as int64

    def __init__(self, real=True, bad_close=False):
        self.real, self.bad_close = real, bad_close
        self.life, self.episode = 0, 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.life, self.episode = seed, 0
        else:
            self.episode += 1
        self.t, self.sum = 0, 0
        return self.observe(), {"options": options} if options else {}

    def step(self, action):
        if action == SLOW and self.real:
            time.sleep(0.01)
        if action == RAISE:
            raise (KeyError if self.real else Fails)("told to")
        if action == INTERRUPT:
            raise KeyboardInterrupt if self.real else Interrupted
        self.t += 1
        self.sum = checksum(bytes([action]), self.sum)
        over, kind = self.t >= 2 + (self.life + self.episode) % 3, (self.life + self.episode) % 2
        return self.observe(), float(self.sum % 1000), over and kind == 0, over and kind == 1, {"length": self.t} if over else {}

    def observe(self):
        return np.array([self.life, self.episode, self.t, self.sum], np.int64)

    def peek(self, factor=1):
        return [factor * self.life, self.episode, getattr(self, "t", -1), getattr(self, "sum", -1)]

    def close(self):
        if self.bad_close:
            raise OSError("the door is stuck")


class Choir(fastvec.Env):
    """Agents that write in place: observe [seed, step, checksum]; who sings changes with the step."""

    observation_space = fastvec.Spec((3,), "int64")
    action_space = fastvec.Spec((2,), "float32", -1.0, 1.0)
    fields = {"tag": fastvec.Spec((2,), "int32")}

    def __init__(self, num_agents, real=True, bad_close=False):
        self.num_agents, self.real, self.bad_close = num_agents, real, bad_close
        self.life = 0
        self.t, self.sums = -1, [-1] * num_agents

    def reset(self, seed=None, options=None):
        self.life = self.life + 1 if seed is None else seed
        self.begin()
        return {"options": options} if options else None

    def begin(self):
        self.t, self.sums = 0, [0] * self.num_agents
        self.write()

    def step(self, actions):
        if (actions[:, 0] == 100 + SLOW).any() and self.real:
            time.sleep(0.01)
        if (actions[:, 0] == 100 + RAISE).any():
            raise (KeyError if self.real else Fails)("told to")
        if (actions[:, 0] == 100 + INTERRUPT).any():
            raise KeyboardInterrupt if self.real else Interrupted
        self.t += 1
        self.sums = [checksum(a.tobytes(), s) for a, s in zip(actions, self.sums)]
        over = self.t >= 3 + self.life % 3
        self.rewards[:] = self.t
        self.terminations[:] = over
        self.truncations[:] = False
        self.masks[:] = self.t % (np.arange(self.num_agents) + 2) != 0
        t = self.t
        if over:
            self.life += 1
            self.begin()
        self.write()
        return {"length": t} if over else None

    def write(self):
        self.observations[:] = [(self.life, self.t, s) for s in self.sums]
        self.tag[:] = self.t, self.life % 1000

    def peek(self, factor=1):
        return [factor * self.life, self.t, *self.sums]

    def close(self):
        if self.bad_close:
            raise OSError("the door is stuck")


# ---- twins -----------------------------------------------------------------------------------------------------------


class Rows:
    """What an env's rows must be.  `info`: {} where it has nothing to say."""

    NAMES = ("observations", "rewards", "terminations", "truncations", "masks")

    def __init__(self, observations, info=None):
        n = len(observations)
        self.observations = np.array(observations)
        self.rewards = np.zeros(n, np.float32)
        self.terminations, self.truncations = np.zeros((2, n), bool)
        self.masks = np.ones(n, bool)
        self.info = info or {}


class ScribeTwin:
    def __init__(self, autoreset):
        self.env, self.autoreset, self.ended = Scribe(real=False), autoreset, False

    def reset(self, seed, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        self.ended = False
        return Rows([observation], info)

    def step(self, actions):
        if self.ended:
            if self.autoreset == "disabled":
                raise Fails
            return self.reset(None)
        observation, reward, terminated, truncated, info = self.env.step(int(actions[0]))
        over = terminated or truncated
        if over and self.autoreset == "same_step":
            info = {"final_obs": observation.copy(), "final_info": info}
            observation, _ = self.env.reset()
        else:
            self.ended = over
        rows = Rows([observation], info)
        rows.rewards[0], rows.terminations[0], rows.truncations[0] = reward, terminated, truncated
        return rows

    def peek(self, factor):
        return self.env.peek(factor)


class ChoirTwin:
    def __init__(self, num_agents):
        self.env = Choir(num_agents, real=False)

    def show(self):
        n = self.env.num_agents
        rows = Rows(np.zeros((n, 3), np.int64))
        rows.tag = np.zeros((n, 2), np.int32)
        for name in (*Rows.NAMES, "tag"):
            setattr(self.env, name, getattr(rows, name))
        return rows

    def reset(self, seed, options=None):
        rows = self.show()
        rows.info = self.env.reset(seed, options) or {}
        return rows

    def step(self, actions):
        rows = self.show()
        rows.info = self.env.step(actions) or {}
        return rows

    def peek(self, factor):
        return self.env.peek(factor)


class ProbeTwin:
    """fastvec_c/probe.pyx says what a Probe does."""

    AGENTS, EPISODE = 2, 4

    def __init__(self, fail_at):
        self.fail_at, self.steps, self.seed = fail_at, 0, 0

    def begin(self):
        self.t = 0
        self.hashes = [(self.seed * 7919 + r) & 0xFFFFFF for r in range(self.AGENTS)]

    def rows(self):
        return Rows(np.array([(self.t, h, r, 0) for r, h in enumerate(self.hashes)], np.float32))

    def reset(self, seed, options=None):
        self.seed = self.seed if seed is None else seed
        self.begin()
        return self.rows()

    def step(self, actions):
        self.steps += 1
        self.t += 1
        if self.steps == self.fail_at:
            raise Fails
        self.hashes = [(h * 31 + int(a) + 1) & 0xFFFFFF for h, a in zip(self.hashes, actions)]
        over = self.t == self.EPISODE
        if over:
            self.seed += 1
            self.begin()
        rows = self.rows()
        rows.rewards[:] = actions
        rows.truncations[:] = over
        return rows


# ---- the kinds -------------------------------------------------------------------------------------------------------


class Gymnasium:
    """A kind of env: creators, twins, and actions for it."""

    compiled, agents = False, staticmethod(lambda env: 1)

    def __init__(self, autoreset, bad_close, fail_at):
        self.autoreset, self.bad_close = autoreset, bad_close

    def creator(self, env_index):
        return Scribe(bad_close=self.bad_close)

    def twin(self, env):
        return ScribeTwin(self.autoreset)

    def actions(self, codes):
        return np.array(codes, np.int64)


class InPlace:
    compiled, agents = False, staticmethod(lambda env: 1 + (env + 1) % 3)

    def __init__(self, autoreset, bad_close, fail_at):
        self.bad_close = bad_close

    def creator(self, env_index):
        return Choir(self.agents(env_index), bad_close=self.bad_close)

    def twin(self, env):
        return ChoirTwin(self.agents(env))

    def actions(self, codes):
        plain = {0: 0.0, 1: -1.0, 2: 0.5, 3: np.nan}
        return np.array([(plain.get(c, 100.0 + c), c) for c in codes], np.float32)


class Compiled:
    compiled, agents = True, staticmethod(lambda env: ProbeTwin.AGENTS)

    def __init__(self, autoreset, bad_close, fail_at):
        self.fail_at = fail_at

    def fails_at(self, env):
        return self.fail_at if env == 0 else 0

    def creator(self, env_index):
        return Probe(4, ProbeTwin.AGENTS, ProbeTwin.EPISODE, 7, fail_at=self.fails_at(env_index))

    def twin(self, env):
        return ProbeTwin(self.fails_at(env))

    def actions(self, codes):
        return np.array(codes, np.int64)


KINDS = {"gymnasium": Gymnasium, "in_place": InPlace, "compiled": Compiled}


