"""PufferLib's GymnasiumPufferEnv with its step compiled: when it is, and what becomes of it when an env misbehaves."""
import functools

import numpy as np
import pytest

pytest.importorskip("pufferlib", reason="PufferLib is not installed (pip install --no-deps pufferlib-core)")

import gymnasium
import puffer_envs as envs
import pufferlib.vector

import fastvec
import fastvec.puffer
from fastvec.adapters.puffer import Creator, adapt_puffer
from fastvec_c.buffer_env import BufferEnv
from fastvec_c.emulated_env import EmulatedEnv

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def bound(make):
    """The adapted env, in rows of its own."""
    creator = Creator(make, [], {}, 0, None)
    env = adapt_puffer(creator())
    rows = {"observations": env.observation_spec, "actions": env.action_spec, **env.fields}
    n = env.num_agents
    fields = {name: np.zeros((n, *spec.shape), spec.dtype) for name, spec in rows.items()}
    fields |= {name: np.zeros(n, bool) for name in ("terminations", "truncations", "masks")} | {"rewards": np.zeros(n, np.float32)}
    env.bind([fields])
    return env, fields


class Scripted(gymnasium.Env):
    """Returns what it is told."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)
    result = np.ones(2, np.float32), 0.5, False, False, {}

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.action = action
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def scripted():
    env, fields = bound(functools.partial(envs.plain_creator, Scripted))
    env.reset(0, None, None)
    env.step(0, 0)  # PufferLib checks this one
    return env, fields, env.env.env


@pytest.mark.parametrize("make, kind", [
    (envs.plain_cartpole, EmulatedEnv),
    (envs.plain_pendulum, EmulatedEnv),
    (envs.cartpole, BufferEnv),  # a class derived from PufferLib's may have a step of its own
    (functools.partial(envs.plain_creator, envs.Structured), BufferEnv),  # dicts
    (envs.herd, BufferEnv),
])
def test_which_envs(make, kind):
    env, _ = bound(make)
    assert type(env) is kind
    env.close()


def test_a_step_passes_pufferlibs_by(monkeypatch):
    env, fields, inner = scripted()
    fields["actions"][:] = 2
    inner.result = np.full(2, 3, np.float32), 0.25, True, False, {"length": 7}
    monkeypatch.setattr(type(env.env), "step", None)
    assert env.step(0, 0) == {"length": 7}
    assert type(inner.action) is np.int32 and inner.action == 2
    assert fields["observations"].tolist() == [[3, 3]] and fields["rewards"].tolist() == [0.25]
    assert fields["terminations"].tolist() == [True] and fields["truncations"].tolist() == [False] and fields["masks"].tolist() == [True]
    assert env.env.done and env.env.env is inner


def test_the_step_after_the_end_resets():
    env, fields, inner = scripted()
    inner.result = np.ones(2, np.float32), 0.5, False, True, {}
    env.step(0, 0)
    assert fields["truncations"].tolist() == [True]
    env.step(0, 0)
    assert fields["observations"].tolist() == [[0, 0]] and not fields["truncations"].any() and not env.env.done


@pytest.mark.parametrize("result, error", [
    (KeyError("mine"), (KeyError, "mine")),
    ((np.ones(2), 0.0, False), (ValueError, "not enough values to unpack")),
    ((np.ones(3), 0.0, False, False, {}), (ValueError, "could not broadcast")),
    ((np.ones(2), "much", False, False, {}), (ValueError, "could not convert")),
    (None, (TypeError, "cannot unpack")),
])
def test_a_bad_step_raises_as_pufferlibs_and_leaves_the_env_whole(result, error):
    env, _, inner = scripted()
    inner.result = result
    with pytest.raises(error[0], match=error[1]):
        env.step(0, 0)
    assert env.env.env is inner
    inner.result = Scripted.result
    assert env.step(0, 0) is None


def test_the_error_of_an_env_in_a_worker():
    vecenv = pufferlib.vector.make(functools.partial(envs.plain_creator, Raising), backend=fastvec.puffer.Multiprocessing, num_envs=2, num_workers=1)
    vecenv.async_reset(seed=0)
    with pytest.raises(fastvec.WorkerError, match=r"env 0 \(worker 0\) raised KeyError \('third'\) in step\(\)"):
        for _ in range(5):
            vecenv.recv()
            vecenv.send(np.zeros(2, np.int64))
    vecenv.close()


class Raising(Scripted):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            raise KeyError("third")
        return self.result
