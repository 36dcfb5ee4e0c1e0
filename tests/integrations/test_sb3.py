"""fastvec.sb3 against Stable-Baselines3's own vectorized envs, and under its algorithms."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install 'fastvec[sb3]'")

import gymnasium
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import fastvec
import fastvec.sb3
from fastvec_c.probe import Probe

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 1, 2])


class Rich(gymnasium.Env):
    """Dict observations, many infos; ends after 3 + (what reset drew) steps, by either flag or both."""

    observation_space = spaces.Dict({"camera": spaces.Box(0, 255, (2, 3), np.uint8), "t": spaces.Discrete(100),
                                     "sum": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, render_mode="rgb_array", trap=None):
        self.render_mode, self.trap = render_mode, trap
        self.level, self.called = 1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.sum = 0, np.zeros(2, np.float32)
        self.end = 3 + int(self.np_random.integers(3))
        if options and options.get("trap"):
            raise KeyError("trapped")
        return self.observe(), {"options": options, "end": self.end}

    def step(self, action):
        if self.trap:
            self.trap()
        self.t += 1
        self.sum += action
        info = {"t": self.t, "deep": {"sum": float(self.sum[0])}} if self.t % 2 else {}
        return self.observe(), float(self.sum[1]), self.t == self.end, self.t >= 4 and self.end < 5 or self.t > 4, info

    def observe(self):
        return {"camera": np.full((2, 3), self.t, np.uint8), "t": self.t, "sum": self.sum}  # the same array each time

    def render(self):
        return np.full((4, 4, 3), self.t, np.uint8)

    def double(self, x, plus=0):
        self.called += 1
        return 2 * x + plus

    def fail(self):
        raise ZeroDivisionError("over")


class Small(gymnasium.Wrapper):
    pass


def cartpole():
    return Monitor(gymnasium.make("CartPole-v1"))


def discrete():
    return gymnasium.make("FrozenLake-v1")


def assert_same(a, b):
    """Equal in structure, dtype and every bit; but for the seconds that Monitor writes."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            if key not in ("t", "episode") or not isinstance(a[key], (float, dict)):
                assert_same(a[key], b[key])
            elif key == "episode":
                assert (a[key]["r"], a[key]["l"]) == (b[key]["r"], b[key]["l"])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    else:
        assert a == b and type(a) is type(b)


@EVERYWHERE
@pytest.mark.parametrize("creator", [cartpole, discrete, Rich])
def test_the_same_as_dummy(num_workers, creator):
    ours, dummy = fastvec.sb3.VecEnv([creator] * 4, num_workers), DummyVecEnv([creator] * 4)
    assert ours.observation_space == dummy.observation_space and ours.action_space == dummy.action_space
    assert (ours.num_envs, ours.render_mode) == (dummy.num_envs, dummy.render_mode)
    assert ours.seed(3) == dummy.seed(3) == [3, 4, 5, 6]
    assert_same(ours.reset(), dummy.reset())
    assert_same(ours.reset_infos, dummy.reset_infos)
    ours.action_space.seed(0)
    ends, kept = 0, []
    for _ in range(100):
        actions = np.array([ours.action_space.sample() for _ in range(4)])
        a, b = ours.step(actions), dummy.step(actions)
        assert_same(a, b)
        assert_same(ours.reset_infos, dummy.reset_infos)
        kept.append((a, b))
        ends += a[2].sum()
    assert ends > 4
    for a, b in kept:  # nothing that was handed out has changed since
        assert_same(a, b)
    assert_same(ours.reset(), dummy.reset())
    ours.close(), dummy.close()


@EVERYWHERE
def test_infos_are_fresh(num_workers):
    envs = fastvec.sb3.VecEnv([discrete] * 2, num_workers)
    envs.reset()
    first = envs.step(np.array([0, 0]))[3]
    first[0]["mine"] = 1
    second = envs.step(np.array([0, 0]))[3]
    assert "mine" not in first[1] and "mine" not in second[0] and second[0] is not second[1]
    envs.close()


@EVERYWHERE
def test_seeds_and_options_are_used_once(num_workers):
    ours, dummy = (cls([Rich] * 2, *args) for cls, args in ((fastvec.sb3.VecEnv, [num_workers]), (DummyVecEnv, [])))
    for envs in (ours, dummy):
        envs.seed(7)
        envs.set_options([{"map": 1}, {}])
        envs.reset()
        assert [info["options"] for info in envs.reset_infos] == [{"map": 1}, None]
    assert_same(ours.reset_infos, dummy.reset_infos)
    for envs in (ours, dummy):
        envs.reset()
        assert [info["options"] for info in envs.reset_infos] == [None, None]
        envs.set_options({"map": 2})
        envs.reset()
        assert [info["options"] for info in envs.reset_infos] == [{"map": 2}] * 2
    assert_same(ours.reset_infos, dummy.reset_infos)
    ours.close()


@EVERYWHERE
def test_attributes_and_methods(num_workers):
    envs = fastvec.sb3.VecEnv([lambda env_index=i: Small(Rich()) if env_index else Rich() for i in range(4)], num_workers)
    envs.reset()
    assert envs.get_attr("level") == [1] * 4
    envs.set_attr("level", 3, indices=[1, 2])
    assert envs.get_attr("level") == [1, 3, 3, 1] and envs.get_attr("level", 2) == [3]
    assert envs.env_method("double", 4, plus=1) == [9] * 4
    assert envs.env_method("double", 1, indices=[3, 0]) == [2, 2] and envs.get_attr("called") == [2, 1, 1, 2]
    assert envs.env_is_wrapped(Small) == [False, True, True, True] and envs.env_is_wrapped(Monitor, [1]) == [False]
    assert envs.has_attr("level") and not envs.has_attr("nothing")
    for call in (envs.get_attr, envs.env_method):
        with pytest.raises(AttributeError, match="env 0 has no attribute 'nothing'"):
            call("nothing")
    with pytest.raises(IndexError, match="there are 4 envs"):
        envs.get_attr("level", 4)
    assert envs.get_attr("level", range(2)) == [1, 3]  # it is still there
    with pytest.raises(ZeroDivisionError, match="over"):
        envs.env_method("fail")
    envs.close()


@EVERYWHERE
def test_render(num_workers):
    envs = fastvec.sb3.VecEnv([Rich] * 4, num_workers)
    envs.reset()
    envs.step(np.zeros((4, 2), np.float32))
    assert [image.tolist() for image in envs.get_images()] == [np.ones((4, 4, 3)).tolist()] * 4
    assert envs.render().shape == (8, 8, 3)
    envs.close()
    envs = fastvec.sb3.VecEnv([lambda: Rich(None)] * 2, num_workers)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert envs.get_images() == [None, None]
    envs.close()


# ---- under Stable-Baselines3 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_wrappers(num_workers):
    def wrapped(envs):
        return VecFrameStack(VecNormalize(VecMonitor(envs)), 2)

    bare = [lambda: gymnasium.make("CartPole-v1")] * 4
    ours, dummy = wrapped(fastvec.sb3.VecEnv(bare, num_workers)), wrapped(DummyVecEnv(bare))
    ours.seed(1), dummy.seed(1)
    assert_same(ours.reset(), dummy.reset())
    rng = np.random.default_rng(0)
    episodes = 0
    for _ in range(100):
        actions = rng.integers(0, 2, 4)
        a, b = ours.step(actions), dummy.step(actions)
        assert_same(a, b)
        episodes += sum("episode" in info for info in a[3])
    assert episodes > 4
    ours.close()


@pytest.mark.parametrize("algorithm, options", [
    (PPO, {"n_steps": 64, "batch_size": 64, "n_epochs": 2}),
    (DQN, {"learning_starts": 100, "train_freq": 16, "buffer_size": 2000}),
])
def test_training_is_the_same(algorithm, options):
    """As many steps, the same weights to the last bit."""
    weights = []
    for make in (make_vec_env, fastvec.sb3.make_vec_env):
        envs = make("CartPole-v1", 4, seed=5)
        model = algorithm("MlpPolicy", envs, seed=5, device="cpu", **options)
        model.learn(600)
        weights.append([p.detach().numpy().copy() for p in model.policy.parameters()])
        assert len(model.ep_info_buffer) > 5
        envs.close()
    assert_same(*weights)


def test_ppo_learns():
    envs = fastvec.sb3.make_vec_env("CartPole-v1", 8, seed=2, num_workers=2)
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=256, n_epochs=20, gae_lambda=0.8, gamma=0.98, ent_coef=0.0,
                learning_rate=1e-3, seed=2, device="cpu")
    before, _ = evaluate_policy(model, envs, 10)
    model.learn(20_000)
    after, _ = evaluate_policy(model, envs, 10)
    assert after > 100 > before
    envs.close()


def test_make_vec_env(tmp_path):
    envs = fastvec.sb3.make_vec_env("CartPole-v1", 2, seed=1, num_workers=1, monitor_dir=str(tmp_path), wrapper_class=Small,
                                    env_kwargs={"render_mode": None}, vec_env_kwargs={"start_method": "forkserver"})
    assert envs.env_is_wrapped(Monitor) == [True] * 2 and envs.env_is_wrapped(Small) == [True] * 2
    envs.reset()
    for _ in range(60):
        envs.step(np.zeros(2, int))
    envs.close()
    assert all(len(path.read_text().splitlines()) > 4 for path in tmp_path.iterdir()) and len(list(tmp_path.iterdir())) == 2


def test_auto_workers():
    envs = fastvec.sb3.make_vec_env("CartPole-v1", 4)
    assert envs.reset().shape == (4, 4)
    envs.close()


# ---- several agents ------------------------------------------------------------------------------------------------------


@EVERYWHERE
def test_agents_are_rows(num_workers):
    pytest.importorskip("pettingzoo", reason="needs PettingZoo: pip install 'fastvec[pettingzoo]'")
    pytest.importorskip("dm_env", reason="parallel_envs.py needs dm_env")
    from parallel_envs import Relay

    envs = fastvec.sb3.VecEnv([Relay] * 2, num_workers)
    envs.seed(10)
    envs.set_options({"map": 1})
    assert envs.num_envs == 6 and envs.reset()[:, 0].tolist() == [0, 1, 2] * 2
    assert envs.get_attr("seed") == [10] * 3 + [13] * 3
    assert envs.reset_infos == [{"options": {"map": 1}}, {}, {}] * 2
    assert envs.env_method("count") == [1] * 6 and envs.env_method("count", indices=[5]) == [2]
    assert len(envs.get_images()) == 2
    for t in range(1, 19):
        observations, rewards, dones, infos = envs.step(np.array([1, 2, 3] * 2))
        t = (t - 1) % 9 + 1
        alive = [t <= 3, t <= 6, True]
        assert dones.tolist() == [t == 3, t == 6, t == 9] * 2
        assert rewards.tolist() == [1 * alive[0], 2 * alive[1], 3] * 2
        if t < 9:  # then the next episode has begun
            assert envs.masks.tolist() == alive * 2
            assert (observations[:3][~np.array(alive)] == 0).all()
        for row, info in enumerate(infos):
            agent = row % 3
            if t == 3 * (agent + 1):
                assert info.pop("terminal_observation").tolist() == [agent, observations[2, 1] - (t == 9), t, agent + 1]
                assert info == {"left": t, "TimeLimit.truncated": agent == 2}
            else:
                assert info == {"TimeLimit.truncated": False}
    assert envs.masks.all() and observations[:, 2].tolist() == [0] * 6
    envs.close()


def test_ppo_on_agents():
    pytest.importorskip("pettingzoo", reason="needs PettingZoo: pip install 'fastvec[pettingzoo]'")
    pytest.importorskip("dm_env", reason="parallel_envs.py needs dm_env")
    from parallel_envs import Relay

    envs = VecMonitor(fastvec.sb3.VecEnv([Relay] * 2, 2))
    model = PPO("MlpPolicy", envs, n_steps=128, seed=0, device="cpu", learning_rate=3e-3)
    model.learn(8000)  # action 6 pays most
    observations = envs.reset()
    assert (model.predict(observations, deterministic=True)[0] >= 5).all()
    assert len(model.ep_info_buffer) > 10
    envs.close()


@EVERYWHERE
def test_envs_that_reset_themselves(num_workers):
    envs = fastvec.sb3.VecEnv([lambda: Probe(observation_size=6, num_agents=3, episode_len=5, num_actions=5)] * 2, num_workers)
    assert envs.num_envs == 6 and envs.action_space == spaces.Discrete(5)
    envs.seed(1)
    assert envs.reset().shape == (6, 6)
    ends = 0
    for _ in range(12):
        _, _, dones, infos = envs.step(np.zeros(6, int))
        ends += dones.sum()
        assert all(info == {"TimeLimit.truncated": False} for info in infos)  # the last observation is not known
    assert ends
    with pytest.raises(ValueError, match="actions"):
        envs.step(np.full(6, 5))
    with pytest.raises(TypeError, match="compiled env and takes none"):
        envs.set_options({"map": 1})
        envs.reset()
    envs.close()


# ---- what goes wrong -----------------------------------------------------------------------------------------------------


@EVERYWHERE
def test_an_env_raises(num_workers):
    def throw():
        raise ZeroDivisionError("over")

    envs = fastvec.sb3.VecEnv([Rich, lambda: Rich(trap=throw)], num_workers)
    envs.reset()
    with pytest.raises(ZeroDivisionError, match="over") as raised:
        envs.step(np.zeros((2, 2), np.float32))
    assert isinstance(raised.value.__cause__, fastvec.WorkerError) and "throw" in str(raised.value.__cause__)
    with pytest.raises(fastvec.ClosedError, match="after close"):
        envs.reset()
    envs.close()
    envs = fastvec.sb3.VecEnv([Rich] * 2, num_workers)
    envs.set_options({"trap": True})
    with pytest.raises(KeyError, match="trapped"):
        envs.reset()
    with pytest.raises(ZeroDivisionError):
        fastvec.sb3.VecEnv([lambda: 1 / 0], num_workers and 1)


def test_a_worker_dies():
    envs = fastvec.sb3.VecEnv([Rich, lambda: Rich(trap=lambda: os.kill(os.getpid(), signal.SIGKILL))], 2)
    envs.reset()
    with pytest.raises(fastvec.WorkerError, match="worker 1 .*SIGKILL"):
        envs.step(np.zeros((2, 2), np.float32))
    envs.close()


def test_a_worker_dies_under_ppo():
    class Dying(gymnasium.Wrapper):
        steps = 0

        def step(self, action):
            self.steps += 1
            if self.steps == 50:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.env.step(action)

    envs = fastvec.sb3.make_vec_env("CartPole-v1", 2, num_workers=2, wrapper_class=Dying)
    with pytest.raises(fastvec.WorkerError, match="SIGKILL"):
        PPO("MlpPolicy", envs, n_steps=64, device="cpu").learn(1000)


def test_a_time_limit():
    envs = fastvec.sb3.VecEnv([Rich, lambda: Rich(trap=lambda: time.sleep(1))], 2, timeout=0.3)
    envs.reset()
    envs.step_async(np.zeros((2, 2), np.float32))
    with pytest.raises(fastvec.RecvTimeout):
        envs.step_wait()
    while True:  # nothing is lost
        try:
            infos = envs.step_wait()[3]
            break
        except fastvec.RecvTimeout:
            pass
    assert [info["t"] for info in infos] == [1, 1]
    envs.close()


@EVERYWHERE
def test_misuse(num_workers):
    envs = fastvec.sb3.VecEnv([cartpole] * 2, num_workers)
    with pytest.raises(RuntimeError, match="call reset"):
        envs.step(np.zeros(2, int))
    envs.reset()
    with pytest.raises(RuntimeError, match="nothing sent"):
        envs.step_wait()
    for bad, error in ((np.zeros(3, int), ValueError), (np.zeros(2), TypeError), (None, TypeError)):
        with pytest.raises(error, match="actions"):
            envs.step(bad)
    envs.step_async(np.zeros(2, int))
    with pytest.raises(RuntimeError, match="send.. twice"):
        envs.step_async(np.zeros(2, int))
    assert envs.reset().shape == (2, 4)  # drops it
    with pytest.raises(AssertionError, match="7"):
        envs.step(np.array([0, 7]))  # as the env itself says it
    envs.close()
    envs.close()


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_workers=3 does not divide"):
        fastvec.sb3.VecEnv([cartpole] * 4, 3)
    with pytest.raises(ValueError, match="empty list"):
        fastvec.sb3.VecEnv([])
    with pytest.raises(ValueError, match="differ in their observation space"):
        fastvec.sb3.VecEnv([cartpole, discrete], 0)
    with pytest.raises(AssertionError, match="render_mode mode should be the same"):  # Stable-Baselines3's own
        fastvec.sb3.VecEnv([Rich, lambda: Rich(None)], 1)
    with pytest.raises(gymnasium.error.NameNotFound):
        fastvec.sb3.make_vec_env("NoSuchEnv-v3", 2, num_workers=1)
    env = Rich()
    with pytest.raises(ValueError, match="one and the same object"):
        fastvec.sb3.VecEnv([lambda: env] * 2, 0)


SCRIPT = """
import sys

import gymnasium

class Env(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def imported(self):
        return "fastvec" in sys.modules, "torch" in sys.modules

if __name__ == "__main__":
    import fastvec.sb3

    envs = fastvec.sb3.VecEnv([Env] * 2, 1, start_method="spawn")
    envs.reset()
    assert envs.env_is_wrapped(Env) == [True, True]
    print(*envs.env_method("imported"))
    envs.close()
"""


def test_spawned_workers_do_not_import_torch(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    result = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert result.stdout == "(True, False) (True, False)\n", result.stderr


def test_without_stable_baselines3():
    code = "import sys; sys.modules['stable_baselines3'] = None; import fastvec, fastvec.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 1 and "pip install 'fastvec[sb3]'" in result.stderr
