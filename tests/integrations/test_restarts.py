"""on_failure behind the interfaces of other libraries: a worker dies, and their users see an episode cut short."""
import os
import signal
import sys
from contextlib import closing
from functools import partial

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "engine"))
import envs  # noqa: E402


def kill(vec, worker):
    os.kill(vec._workers[worker].process.pid, signal.SIGKILL)
    assert vec._workers[worker].ended(10)


@pytest.fixture(autouse=True)
def always(nothing_left_behind):
    pass


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("on_failure, key", [("restart", "restarted"), ("drop", "dropped")])
def test_gymnasium(mode, on_failure, key):
    pytest.importorskip("gymnasium", "1.0", reason="needs gymnasium")
    from fastvec.gym import VectorEnv

    with closing(VectorEnv([envs.cartpole] * 4, 2, autoreset_mode=mode, on_failure=on_failure)) as vector:
        vector.reset(seed=1)
        actions = np.zeros(4, np.int64)
        vector.step(actions)
        kill(vector.vec, 1)
        observations, rewards, terminations, truncations, infos = vector.step(actions)
        assert truncations.tolist() == [False, False, True, True] and rewards.tolist() == [1, 1, 0, 0]
        assert infos[key].tolist() == infos[f"_{key}"].tolist() == [False, False, True, True]
        assert "SIGKILL" in infos["error"][2]
        truncations, infos = vector.step(actions)[3:]
        assert not truncations.any() and key not in infos
        assert vector.single_observation_space.contains(observations[3])
        vector.reset(seed=2)
        vector.step(actions)


def test_gymnasium_with_spaces_carried_in_pickles():
    gymnasium = pytest.importorskip("gymnasium", "1.0", reason="needs gymnasium")
    from fastvec.gym import VectorEnv

    class Says(gymnasium.Env):
        observation_space = gymnasium.spaces.Text(8)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return "first", {}

        def step(self, action):
            return "later", 1.0, False, False, {}

    for mode in ("NextStep", "SameStep"):
        with closing(VectorEnv([Says] * 2, 2, autoreset_mode=mode, on_failure="restart")) as vector:
            vector.reset()
            kill(vector.vec, 1)
            observations, rewards, _, truncations, _ = vector.step([0, 0])
            assert observations == ("later", "first") and truncations.tolist() == [False, True]


def test_stable_baselines3():
    sb3 = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    from stable_baselines3.common.callbacks import BaseCallback

    from fastvec.sb3 import VecEnv

    class Kill(BaseCallback):
        def _on_step(self):
            if self.n_calls in (20, 50):
                kill(self.training_env.vec, 1)
            return True

    vec_env = VecEnv([envs.cartpole] * 4, 2, on_failure="restart")
    for algorithm, options in ((sb3.PPO, {"n_steps": 32, "batch_size": 64}), (sb3.DQN, {"learning_starts": 10})):
        algorithm("MlpPolicy", vec_env, device="cpu", **options).learn(256, callback=Kill())
    vec_env.reset()
    kill(vec_env.vec, 0)
    _, rewards, dones, infos = vec_env.step(np.zeros(4, np.int64))
    assert dones.tolist() == [True, True, False, False]
    assert infos[0]["restarted"] and infos[1]["TimeLimit.truncated"] and infos[1]["terminal_observation"].shape == (4,)
    assert sum(w.restarts for w in vec_env.vec.stats().workers) == 5
    vec_env.close()


def cartpole_of_puffer(buf=None, seed=0):
    import pufferlib.emulation

    return pufferlib.emulation.GymnasiumPufferEnv(env_creator=envs.cartpole, buf=buf, seed=seed)


@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "zero_copy": False}, {"batch_size": 2, "zero_copy": True}])
def test_pufferlib(options):
    pytest.importorskip("pufferlib", reason="needs pufferlib")
    import pufferlib.vector

    from fastvec.puffer import Multiprocessing

    vecenv = pufferlib.vector.make(
        cartpole_of_puffer, backend=partial(Multiprocessing, on_failure="restart"), num_envs=4, num_workers=2, **options
    )
    vecenv.async_reset(0)
    told = []
    for t in range(200):
        observations, rewards, terminations, truncations, *_, infos, agents, masks = vecenv.recv()
        told += [info for info in infos if "restarted" in info]
        if told:
            break
        if t == 5:
            kill(vecenv._vec, 1)
        vecenv.send(np.zeros(len(agents), np.int64))
    assert "SIGKILL" in told[0]["error"] and truncations[list(agents).index(2)]
    vecenv.close()
