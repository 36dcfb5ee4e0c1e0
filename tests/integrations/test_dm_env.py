"""dm_env's environments in fastvec.make."""
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dm_env", reason="needs dm_env: pip install 'fastvec[dm_env]'")
pytest.importorskip("pettingzoo", reason="parallel_envs.py needs PettingZoo: pip install 'fastvec[pettingzoo]'")

from dm_env import specs
from gymnasium import spaces
from parallel_envs import Walk

import fastvec
import fastvec.gym

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 1, 2])


@EVERYWHERE
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_episodes(num_workers, discount):
    with fastvec.make(lambda: Walk(discount=discount), num_workers, num_envs=2) as vec:
        assert vec.single_action_space == spaces.Discrete(3)
        assert vec.single_observation_space["flag"] == spaces.Box(0, 1, (), np.int32)
        vec.reset()
        for t in range(1, 12):
            observations, rewards, terminations, truncations, infos = vec.step([1, 2])
            t %= 5  # the fifth step resets
            assert observations["t"].tolist() == [[t, 1 if t else 0], [t, 2 if t else 0]]
            assert observations["flag"].tolist() == [t % 2] * 2 and observations["pair"]["f1"].tolist() == [t > 1] * 2
            assert rewards.tolist() == [t, t]
            assert terminations.tolist() == [t == 4 and discount == 0] * 2
            assert truncations.tolist() == [t == 4 and discount > 0] * 2
            seen = 0.5 if t == 2 else discount if t == 4 else 1.0
            assert infos == ({} if seen in (0, 1) else {env: {"discount": seen} for env in (0, 1)})
        assert vec.call("length") == [4, 4]


@pytest.mark.parametrize("spec, space, action", [
    (specs.BoundedArray((2,), np.float64, [-1, -2], 3), spaces.Box(np.array([-1, -2.0]), np.array([3, 3.0]), (2,), np.float64), [0.5, 1]),
    (specs.BoundedArray((), np.int32, 0, 4), spaces.Box(0, 4, (), np.int32), 3),
    (specs.Array((2,), np.float32), spaces.Box(-np.inf, np.inf, (2,), np.float32), [1, 2]),
    (specs.Array((2,), np.int16), spaces.Box(-32768, 32767, (2,), np.int16), [1, 2]),
    (specs.Array((2,), bool), spaces.MultiBinary((2,)), [1, 0]),
])
def test_actions(spec, space, action):
    with fastvec.make(lambda: Walk(action_spec=spec), 1) as vec:
        assert vec.single_action_space == space
        vec.reset()
        observations, *_ = vec.step(np.array([action], space.dtype))
        assert observations["t"].tolist() == [[1, np.sum(action)]]


def test_as_a_gymnasium_vector_env():
    envs = fastvec.gym.VectorEnv([Walk] * 2, 1, autoreset_mode="SameStep")
    observations, _ = envs.reset(seed=1)
    assert observations in envs.observation_space
    for _ in range(4):
        infos = envs.step(envs.action_space.sample())[4]
    assert infos["final_obs"][0]["t"][0] == 4
    assert envs.call("length") == (4, 4)
    envs.close()


def test_it_is_closed():
    walk = Walk()
    vec = fastvec.make(lambda: walk, 0)
    vec.close()
    assert walk.closed


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_goes_wrong(num_workers):
    with pytest.raises(fastvec.WorkerError, match=r"action_spec\(\) is StringArray.*no space is like it"):
        fastvec.make(lambda: Walk(action_spec=specs.StringArray(())), num_workers, num_envs=1)
    vec = fastvec.make(Walk, num_workers, num_envs=1)
    with pytest.raises(fastvec.WorkerError, match="takes none; leave it out"):
        vec.reset(options={"map": 1})


def test_without_gymnasium():
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import dm_env, fastvec\n"
        "class E(dm_env.Environment):\n"
        "  reset = step = observation_spec = action_spec = lambda self: None\n"
        "fastvec.make(E, 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 1 and "pip install 'fastvec[dm_env]'" in result.stderr
