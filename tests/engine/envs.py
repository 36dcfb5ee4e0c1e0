"""Envs for the engine's tests, importable so that every start method can reach them."""
import os
import signal
import time

import gymnasium
import numpy as np

import fastvec
from fastvec_c.probe import Probe


def cartpole():
    return gymnasium.make("CartPole-v1")


def probe():
    return Probe(observation_size=6, num_agents=3, episode_len=17, num_actions=5)


class Scripted(gymnasium.Env):
    """Observes [seed, episode, step, sum of actions]; ends after 5 + episode steps; says so in infos."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(7)

    def __init__(self, trap=None, at=3):
        self.trap, self.at = trap, at
        self.seed, self.episode, self.calls = 0, -1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed % 1000, -1
        self.episode, self.t, self.sum = self.episode + 1, 0, 0
        if self.trap and self.at == 0:
            self.trap()
        return self.observe(), {"options": options} if options else {}

    def step(self, action):
        self.calls += 1
        self.t += 1
        self.sum += int(action)
        if self.trap and self.calls == self.at:
            self.trap()
        over = self.t >= 5 + self.episode % 3
        return self.observe(), float(self.sum), over, False, {"length": self.t} if over else {}

    def observe(self):
        return np.array([self.seed, self.episode, self.t, self.sum], np.float32)

    def double(self, x):
        return 2 * x


class Herd(fastvec.Env):
    """Many agents written in place; agent i is masked out while the step is a multiple of i + 2."""

    observation_space = fastvec.Spec((3,), "float32")
    action_space = fastvec.Spec((2,), "float32", -1.0, 1.0)
    fields = {"tag": fastvec.Spec((), "int32")}

    def __init__(self, num_agents=4):
        self.num_agents = num_agents
        self.t = 0

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.t = 0
        self.state = self.rng.random((self.num_agents, 3), np.float32)
        self.observations[:] = self.state
        self.tag[:] = -1

    def step(self, actions):
        self.t += 1
        self.state[:, :2] += actions
        self.observations[:] = self.state
        self.rewards[:] = actions.sum(1)
        self.terminations[:] = False
        self.truncations[:] = False
        self.masks[:] = self.t % (np.arange(self.num_agents) + 2) != 0
        self.tag[:] = self.t


class SlowToUnpickle:
    def __reduce__(self):
        return time.sleep, (3600,)


class Sends(Scripted):
    def step(self, action):
        return *super().step(action)[:4], {"slow": SlowToUnpickle()}


class Nest(Scripted):
    """Has a VecEnv of its own, of two envs that must do as it does; the trap is theirs."""

    def __init__(self, trap=None, at=3):
        super().__init__()
        self.inner = fastvec.make(lambda: Scripted(trap, at), 2, seed=5, start_method="fork")

    def reset(self, **kwargs):
        self.inner.reset(seed=9)
        return super().reset(**kwargs)

    def step(self, action):
        _, rewards, *_ = self.inner.step([int(action)] * 2)
        assert rewards.tolist() == [self.sum + action] * 2
        return super().step(action)

    def close(self):
        self.inner.close()


class Trapped:
    """A creator: `Scripted` with a trap in the env of this index."""

    def __init__(self, trap, at=3, env=1):
        self.trap, self.at, self.env = trap, at, env

    def __call__(self, env_index=0):
        return Scripted(self.trap if env_index == self.env else None, self.at)


def throw():
    raise KeyError("trapped")


def exit_now():
    os._exit(7)


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    import ctypes

    ctypes.string_at(0)


def sleep_long():
    time.sleep(3600)


def sleep_on(env):
    time.sleep(3600)


def loop_for_ever():
    while True:
        pass


def wait_in_c_with_the_gil():
    import ctypes

    ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)


def bad_creator():
    raise ValueError("no such world")


def dying_creator():
    os._exit(3)


def slow_creator():
    time.sleep(3600)


def announced_creator():
    print(os.getpid(), flush=True)
    time.sleep(3600)


class Cramped(Scripted):
    """Its process may take 8 MiB more than it has when the env is built; its rows need more than that."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1 << 16,), np.float32)

    def __init__(self):
        import resource

        import psutil

        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (8 << 20), -1))
        super().__init__()
