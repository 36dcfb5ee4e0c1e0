"""fastvec.gym against gymnasium's own vector envs."""
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", minversion="1.0", reason="needs gymnasium: pip install 'fastvec[gym]'")

from gymnasium import spaces
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, CustomSpaceError, NoAsyncCallError, ResetNeeded
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import vector as wrappers

import fastvec
import fastvec.gym
from fastvec_c.probe import Probe

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 1, 2])
MODES = ["NextStep", "SameStep", "Disabled"]
needs_modes = pytest.mark.skipif(fastvec.gym.AutoresetMode is None, reason="gymnasium 1.0 has no autoreset modes")

OBSERVATION = spaces.Dict({
    "camera": spaces.Box(0, 255, (2, 3), np.uint8),
    "inner": spaces.Tuple((spaces.Discrete(1000), spaces.Box(-np.inf, np.inf, (), np.float32), spaces.MultiBinary(3))),
})
ACTION = spaces.Dict({"turn": spaces.Discrete(3), "push": spaces.Box(-1, 1, (2,), np.float32)})


class Rich(gymnasium.Env):
    """Structured spaces and many kinds of infos; ends after 3 + (what reset drew) steps."""

    observation_space, action_space = OBSERVATION, ACTION
    metadata = {"render_modes": ["ansi"], "render_fps": 7}
    trap = None

    def __init__(self, render_mode=None, trap=None):
        self.render_mode, self.trap = render_mode, trap
        self.level = 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.sum = 0, 0.0
        self.end = 3 + int(self.np_random.integers(3))
        if options and options.get("trap"):
            raise KeyError("trapped")
        return self.observe(), {"options": str(options), "end": self.end}

    def step(self, action):
        if self.trap:
            self.trap()
        self.t += 1
        self.sum += float(action["push"].sum()) + int(action["turn"])
        over = self.t >= self.end
        info = {"t": self.t, "where": {"sum": self.sum, "name": f"step {self.t}"}} if self.t % 2 else {"vector": np.arange(3.0)}
        return self.observe(), float(np.float32(self.sum)), over, self.t == 4, info

    def observe(self):
        return {"camera": np.full((2, 3), self.t, np.uint8),
                "inner": (self.t, np.float32(self.sum), np.array([1, 0, self.t % 2], np.int8))}

    def render(self):
        return f"t={self.t}"

    def double(self, x, plus=0):
        return 2 * x + plus


class Label(spaces.Space):
    """A space that gymnasium does not know."""

    def sample(self):
        return f"label {self.np_random.integers(100)}"

    def contains(self, x):
        return isinstance(x, str)

    def __eq__(self, other):
        return isinstance(other, Label)


def odd(observation_space, action_space):
    """A creator of envs that tell what they were given."""

    class Odd(gymnasium.Env):
        def __init__(self):
            self.observation_space, self.action_space = deepcopy((observation_space, action_space))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            if seed is not None:
                self.observation_space.seed(seed)
            self.end = 3 + int(self.np_random.integers(3))
            return self.observation_space.sample(), {"options": str(options)}

        def step(self, action):
            self.end -= 1
            return self.observation_space.sample(), self.end, self.end == 0, False, {"action": str(action)} if self.end % 2 else {}

    return Odd


def box():
    return spaces.Box(-1, 1, (2,), seed=1)


odd_both = odd(spaces.Dict(graph=spaces.Graph(box(), None), plain=box(), text=spaces.Text(4)), spaces.Tuple((Label(), spaces.Discrete(3))))
odd_actions = odd(box(), spaces.Sequence(spaces.Discrete(3)))
odd_observations = odd(Label(), box())


def cartpole():
    return gymnasium.make("CartPole-v1")


def assert_same(a, b):
    """Equal in structure, dtype and every bit."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype != object:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    elif isinstance(a, np.ndarray):
        assert a.shape == b.shape
        for x, y in zip(a.ravel(), b.ravel(), strict=True):
            assert_same(x, y)
    else:
        assert a == b


def mode_of(mode):
    return {"autoreset_mode": mode} if fastvec.gym.AutoresetMode else {}


@EVERYWHERE
@pytest.mark.parametrize("creator", [cartpole, Rich, odd_both, odd_actions, odd_observations], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_the_same_as_sync(num_workers, creator, mode):
    if mode != "NextStep" and not fastvec.gym.AutoresetMode:
        pytest.skip("gymnasium 1.0 has no autoreset modes")
    sync = SyncVectorEnv([creator] * 4, **mode_of(mode))
    ours = fastvec.gym.VectorEnv([creator] * 4, num_workers, autoreset_mode=mode)
    assert ours.observation_space == sync.observation_space and ours.action_space == sync.action_space
    assert ours.single_observation_space == sync.single_observation_space
    assert ours.single_action_space == sync.single_action_space
    assert ours.num_envs == sync.num_envs and ours.render_mode == sync.render_mode
    assert {**ours.metadata, "autoreset_mode": 0} == {**sync.metadata, "autoreset_mode": 0}
    assert_same(ours.reset(seed=3), sync.reset(seed=3))
    ours.action_space.seed(0)
    ends = 0
    for _ in range(100):
        actions = ours.action_space.sample()
        a, b = ours.step(actions), sync.step(actions)
        assert_same(a, b)
        over = a[2] | a[3]
        ends += over.sum()
        if mode == "Disabled" and over.any():
            assert_same(ours.reset(options={"reset_mask": over}), sync.reset(options={"reset_mask": over}))
    assert ends > 4
    assert_same(ours.reset(seed=[5, None, 7, 5]), sync.reset(seed=[5, None, 7, 5]))
    assert_same(ours.reset(), sync.reset())
    ours.close()
    sync.close()


@EVERYWHERE
def test_what_a_creator_seeded_goes_on(num_workers):
    def seeded():
        env = cartpole()
        env.reset(seed=11)
        return env

    ours, sync = fastvec.gym.VectorEnv([seeded] * 2, num_workers), SyncVectorEnv([seeded] * 2)
    assert_same(ours.reset(), sync.reset())
    ours.close()


@EVERYWHERE
def test_options(num_workers):
    with_options = [{"map": 1}, None]
    ours = fastvec.gym.VectorEnv([Rich] * 2, num_workers)
    assert ours.reset(options={"map": 3})[1]["options"].tolist() == ["{'map': 3}"] * 2
    assert ours.reset(options=with_options)[1]["options"].tolist() == ["{'map': 1}", "None"]
    given = {"map": 5, "reset_mask": np.array([False, True])}
    infos = ours.reset(options=given)[1]
    assert infos["_options"].tolist() == [False, True] and infos["options"][1] == "{'map': 5}"
    assert set(given) == {"map", "reset_mask"}
    ours.close()


@pytest.mark.parametrize("copy", [True, False])
def test_copy(copy):
    ours = fastvec.gym.VectorEnv([Rich] * 2, 1, copy=copy)
    first, _ = ours.reset(seed=0)
    action = ours.action_space.sample()
    second, rewards, *_ = ours.step(action)
    third, later_rewards, *_ = ours.step(action)
    assert np.shares_memory(first["camera"], second["camera"]) is not copy
    assert np.shares_memory(first["inner"][0], ours.vec.fields["observations"]) is not copy
    assert first["camera"][0, 0, 0] == (0 if copy else 2)
    assert not np.shares_memory(rewards, later_rewards)
    ours.close()


@EVERYWHERE
def test_calls(num_workers):
    with_renders = [lambda: Rich(render_mode="ansi")] * 4
    ours = fastvec.gym.VectorEnv(with_renders, num_workers)
    ours.reset(seed=4)
    assert ours.render_mode == "ansi" and ours.render() == ("t=0",) * 4
    assert ours.call("double", 4, plus=1) == (9,) * 4
    ours.set_attr("level", [1, 2, 3, 4])
    assert ours.get_attr("level") == (1, 2, 3, 4)
    ours.set_attr("level", 8)
    assert ours.get_attr("level") == (8,) * 4
    assert ours.np_random_seed == (4, 5, 6, 7)
    assert len(ours.np_random) == 4
    with pytest.raises(ValueError, match="Got `2` values for 4 environments"):
        ours.set_attr("level", [1, 2])
    if num_workers:
        with pytest.raises(TypeError, match="cannot be pickled"):
            ours.set_attr("level", lambda: 0)
    for name in ("reset", "step", "close"):
        with pytest.raises(ValueError, match="go past the vector env"):
            ours.call(name)
    with pytest.raises(AttributeError):
        ours.get_attr("nothing")
    assert ours.closed


@EVERYWHERE
def test_calls_out_of_order(num_workers):
    ours = fastvec.gym.VectorEnv([cartpole] * 2, num_workers)
    actions = np.array([0, 1])
    with pytest.raises(ResetNeeded, match="call reset"):
        ours.step(actions)
    for wait in (ours.reset_wait, ours.step_wait, ours.call_wait):
        with pytest.raises(NoAsyncCallError, match="without any prior call"):
            wait()
    begin = {"reset": ours.reset_async, "step": lambda: ours.step_async(actions), "call": lambda: ours.call_async("spec")}
    end = {"reset": ours.reset_wait, "step": ours.step_wait, "call": ours.call_wait}
    for under_way, start in begin.items():
        start()
        others = [*begin.values(), lambda: ours.step(actions), ours.reset, lambda: ours.set_attr("a", 1), lambda: ours.get_attr("spec")]
        for other in others:
            with pytest.raises(AlreadyPendingCallError, match=f"pending call to `{under_way}`"):
                other()
        for name in end:
            if name != under_way:
                with pytest.raises(NoAsyncCallError):
                    end[name]()
        end[under_way]()
    ours.step_async(actions)
    with pytest.warns(UserWarning, match="pending call to `step`"):
        ours.close()
    ours.close()
    for call in (ours.reset, lambda: ours.step(actions), ours.step_wait, ours.render, lambda: ours.set_attr("a", 1)):
        with pytest.raises(ClosedEnvironmentError):
            call()


@EVERYWHERE
def test_bad_actions_leave_it_as_it_was(num_workers):
    ours, sync = fastvec.gym.VectorEnv([cartpole] * 2, num_workers), SyncVectorEnv([cartpole] * 2)
    ours.reset(seed=0), sync.reset(seed=0)
    for bad in ([0], [0, 1, 1]):
        with pytest.raises(ValueError):
            ours.step(np.array(bad))
        with pytest.raises(ValueError):
            ours.step_async(np.array(bad))
    for bad in (0, None, [0.5, 0.5], [0, 1 << 70]):
        with pytest.raises(TypeError):
            ours.step(bad)
    assert_same(ours.step([0, 1]), sync.step([0, 1]))
    ours.close()


@EVERYWHERE
def test_actions_outside_of_their_space_are_for_the_env_to_refuse(num_workers):
    ours = fastvec.gym.VectorEnv([cartpole] * 2, num_workers)
    ours.reset()
    with pytest.raises(AssertionError, match="7"):
        ours.step(np.array([0, 7]))
    with pytest.raises(ClosedEnvironmentError):
        ours.reset()


@EVERYWHERE
def test_bad_odd_actions(num_workers):
    ours = fastvec.gym.VectorEnv([odd(box(), Label())] * 2, num_workers)
    with pytest.raises(ResetNeeded):
        ours.step(("a", "b"))
    ours.reset()
    with pytest.raises(ValueError, match="actions: 3; give one for each of the 2 envs"):
        ours.step(("a", "b", "c"))
    with pytest.raises(CustomSpaceError):
        ours.step(5)
    assert len(ours.step(("a", "b"))) == 5
    ours.close()


@pytest.mark.parametrize("mode", MODES)
def test_auto_workers(mode):
    for creator in (cartpole, odd_both):
        ours = fastvec.gym.VectorEnv([creator] * 4, autoreset_mode=mode)
        ours.reset(seed=0)
        ours.step(ours.action_space.sample())
        ours.close()


def test_bad_arguments():
    with pytest.raises(ValueError, match="autoreset_mode='next'; give one of"):
        fastvec.gym.VectorEnv([cartpole], autoreset_mode="next")
    with pytest.raises(ValueError, match="Invalid `observation_mode`"):
        fastvec.gym.VectorEnv([cartpole], observation_mode="other")
    with pytest.raises(TypeError, match="to be Spaces"):
        fastvec.gym.VectorEnv([cartpole], observation_mode=(box(), None))
    with pytest.raises(ValueError, match="num_workers=3 does not divide"):
        fastvec.gym.VectorEnv([cartpole] * 4, 3)
    with pytest.raises(ValueError, match="empty list"):
        fastvec.gym.VectorEnv([])
    with pytest.raises(ValueError, match="envs with 3 agents"):
        fastvec.gym.VectorEnv([lambda: Probe(observation_size=6, num_agents=3, episode_len=17, num_actions=5)], 0)
    ours = fastvec.gym.VectorEnv([cartpole] * 2, 0)
    with pytest.raises(ValueError, match="length must match num_envs=2"):
        ours.reset(seed=[1])
    for mask in (np.array([True]), np.array([False, False])):
        with pytest.raises(ValueError, match="reset_mask"):
            ours.reset(options={"reset_mask": mask})
    for mask in ([True, False], np.array([1, 0])):
        with pytest.raises(TypeError, match="reset_mask"):
            ours.reset(options={"reset_mask": mask})
    ours.close()


def of_space(space, action_space=None):
    return odd(space, action_space or spaces.Discrete(2))


@EVERYWHERE
def test_spaces_that_differ(num_workers):
    def fails(creators, match, **options):
        with pytest.raises(RuntimeError, match=match):
            fastvec.gym.VectorEnv(creators, num_workers, **options)

    narrow, wide = spaces.Box(0, 1, (2,)), spaces.Box(0, 2, (2,))
    not_equivalent = "env 1.*high 1.* against 2.*use `observation_mode='different'`|that of env 1 is not"
    fails([of_space(narrow), of_space(wide)], not_equivalent)
    fails([of_space(spaces.Dict(a=narrow)), of_space(spaces.Dict(a=wide))], not_equivalent)
    fails([of_space(spaces.Text(3)), of_space(spaces.Text(4))], not_equivalent)
    fails([of_space(spaces.Text(3)), of_space(narrow)], "differ in their observation space")
    fails([of_space(narrow), of_space(spaces.Box(0, 1, (3,)))], "do not share a common shape", observation_mode="different")
    fails([of_space(narrow)] * 2, "do not share a common shape", observation_mode=(spaces.Box(0, 1, (2, 3)), spaces.Box(0, 1, (3,))))
    fails([of_space(narrow), of_space(narrow, spaces.Discrete(3))], "differ in their action space")
    fails([of_space(narrow, spaces.Dict(a=box())), of_space(narrow, spaces.Dict(a=narrow))], "the action space of env 1 differs")


@EVERYWHERE
@pytest.mark.parametrize("space", [spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (2,), np.int8), spaces.Discrete(3), spaces.Dict(a=box()),
                                   spaces.Text(3)], ids=str)
def test_observation_modes(num_workers, space):
    other = {spaces.Box: lambda: spaces.Box(-3, 5, (2,), space.dtype), spaces.Discrete: lambda: spaces.Discrete(7)}
    creators = [of_space(space), of_space(other.get(type(space), lambda: space)())]
    for mode in ("different", (SyncVectorEnv(creators[:1] * 2).observation_space, space)):
        if mode == "different" and isinstance(space, spaces.Text):
            continue  # which gymnasium cannot batch
        ours = fastvec.gym.VectorEnv(creators, num_workers, observation_mode=mode)
        sync = SyncVectorEnv(creators, observation_mode=mode)
        assert ours.observation_space == sync.observation_space and ours.single_observation_space == sync.single_observation_space
        assert_same(ours.reset(seed=1), sync.reset(seed=1))
        assert_same(ours.step(np.array([1, 0])), sync.step(np.array([1, 0])))
        ours.close()


@EVERYWHERE
def test_an_env_raises(num_workers):
    def throw():
        raise ZeroDivisionError("over")

    ours = fastvec.gym.VectorEnv([Rich, lambda: Rich(trap=throw)], num_workers)
    ours.reset()
    with pytest.raises(ZeroDivisionError, match="over") as raised:
        ours.step(ours.action_space.sample())
    assert isinstance(raised.value.__cause__, fastvec.WorkerError) and "throw" in str(raised.value.__cause__)
    with pytest.raises(ClosedEnvironmentError):
        ours.reset()
    ours = fastvec.gym.VectorEnv([Rich] * 2, num_workers)
    with pytest.raises(KeyError, match="trapped"):
        ours.reset(options={"trap": True})
    with pytest.raises(ZeroDivisionError):
        fastvec.gym.VectorEnv([lambda: 1 / 0], num_workers and 1)


def test_a_worker_dies():
    ours = fastvec.gym.VectorEnv([Rich, lambda: Rich(trap=lambda: os.kill(os.getpid(), signal.SIGKILL))], 2)
    ours.reset()
    with pytest.raises(fastvec.WorkerError, match="SIGKILL"):
        ours.step(ours.action_space.sample())
    assert ours.closed


def test_time_limits():
    ours = fastvec.gym.VectorEnv([Rich, lambda: Rich(trap=lambda: time.sleep(0.5))], 2)
    ours.reset()
    ours.step_async(ours.action_space.sample())
    with pytest.raises(multiprocessing.TimeoutError):
        ours.step_wait(timeout=0.05)
    assert ours.step_wait()[4]["t"].tolist() == [1, 1]  # nothing is lost
    ours.close()


def test_the_limit_of_a_step():
    ours = fastvec.gym.VectorEnv([Rich, lambda: Rich(trap=lambda: time.sleep(1))], 2, timeout=0.5)
    ours.reset()
    with pytest.raises(multiprocessing.TimeoutError):
        ours.step(ours.action_space.sample())
    assert ours.step_wait(timeout=60)[4]["t"].tolist() == [1, 1]
    ours.close()


@pytest.mark.parametrize("creator", [cartpole, odd_both])
def test_start_by_spawning(creator):
    pytest.importorskip("cloudpickle", reason="creators that are no functions of an installed module need cloudpickle")
    ours, sync = fastvec.gym.VectorEnv([creator] * 2, 2, start_method="spawn"), SyncVectorEnv([creator] * 2)
    assert_same(ours.reset(seed=1), sync.reset(seed=1))
    actions = sync.action_space.sample()
    assert_same(ours.step(actions), sync.step(actions))
    ours.close()


def test_terminate_does_not_wait():
    ours = fastvec.gym.VectorEnv([lambda: Rich(trap=lambda: time.sleep(3600))], 1)
    ours.reset()
    ours.step_async(ours.action_space.sample())
    with pytest.warns(UserWarning, match="pending call"):
        ours.close(terminate=True)


def test_compiled_envs():
    ours = fastvec.gym.VectorEnv([lambda: Probe(observation_size=6, num_agents=1, episode_len=17, num_actions=5)] * 4, 2)
    assert ours.single_action_space == spaces.Discrete(5) and ours.single_observation_space.shape == (6,)
    observations, _ = ours.reset(seed=1)
    assert observations in ours.observation_space
    observations, *_ = ours.step(ours.action_space.sample())
    assert observations.shape == (4, 6)
    ours.reset(options={"reset_mask": np.array([True, False, True, True])})
    ours.close()


@EVERYWHERE
def test_wrappers(num_workers):
    def wrapped(envs):
        return wrappers.NormalizeReward(wrappers.NormalizeObservation(wrappers.RecordEpisodeStatistics(envs)))

    ours = wrapped(fastvec.gym.VectorEnv([cartpole] * 4, num_workers))
    sync = wrapped(SyncVectorEnv([cartpole] * 4))
    assert_same(ours.reset(seed=1), sync.reset(seed=1))
    ours.action_space.seed(0)
    episodes = 0
    for _ in range(60):
        actions = ours.action_space.sample()
        a, b = ours.step(actions), sync.step(actions)
        for infos in (a[4], b[4]):
            if "episode" in infos:
                infos["episode"].pop("t")  # seconds
                episodes += 1
        assert_same(a, b)
    assert episodes
    ours.close()


def test_make_vec():
    ours = fastvec.gym.make_vec("CartPole-v1", 2, 1, max_episode_steps=3, wrappers=[gymnasium.wrappers.TimeAwareObservation])
    assert ours.spec.id == "CartPole-v1" and ours.single_observation_space.shape == (5,)
    ours.reset(seed=0)
    for _ in range(3):
        truncations = ours.step([0, 1])[3]
    assert truncations.all()
    ours.close()
    with pytest.raises(gymnasium.error.NameNotFound):
        fastvec.gym.make_vec("NoSuchEnv-v3", 2, 1)


@needs_modes
def test_gymnasium_make_vec():
    name = fastvec.gym.register("CartPole-v1")
    assert fastvec.gym.register("CartPole-v1") == name == "fastvec/CartPole-v1"
    ours = gymnasium.make_vec(name, num_envs=2, num_workers=1, vectorization_mode="vector_entry_point")
    sync = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    assert isinstance(ours, fastvec.gym.VectorEnv) and ours.spec.id == name
    assert_same(ours.reset(seed=9), sync.reset(seed=9))
    ours.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = gymnasium.make_vec(name, num_envs=2, num_workers=1, autoreset_mode="SameStep", copy=False, max_episode_steps=1)
    assert ours.metadata["autoreset_mode"] == fastvec.gym.AutoresetMode.SAME_STEP and not ours.copy
    ours.reset(seed=9)
    assert list(ours.step([0, 1])[4]) == ["final_obs", "_final_obs", "final_info", "_final_info"]
    ours.close()


def test_without_gymnasium():
    code = "import sys; sys.modules['gymnasium'] = None; import fastvec, fastvec.gym"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 1 and "pip install 'fastvec[gym]'" in result.stderr
