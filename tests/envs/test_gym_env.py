"""GymEnv against gymnasium's own SyncVectorEnv, and what it does with envs that break the interface."""
import weakref
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
from env_slots import begin, bound
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

from fastvec.adapters import adapt
from fastvec.spaces import as_spec, read_sample, write_sample

MODES = {"next_step": "NextStep", "same_step": "SameStep", "disabled": "Disabled"}


class Scripted(gym.Env):
    """Episodes of 1, 2, 3, … steps that end by termination, truncation or both, with infos now and then.

    Reuses one array for its observations, as many envs do.
    """

    observation_space = spaces.Box(-1e6, 1e6, (3,), np.float32)
    action_space = spaces.Discrete(5, start=2)

    def __init__(self):
        self.episode = self.t = 0
        self.calls = []
        self.buffer = np.zeros(3, np.float32)

    def observation(self, last):
        self.buffer[:] = self.episode, self.t, last
        return self.buffer

    def reset(self, **kwargs):
        self.calls.append(kwargs)
        self.episode += 1
        self.t = 0
        return self.observation(-1), {"episode": self.episode} if self.episode % 2 else {}

    def step(self, action):
        self.t += 1
        ended = self.t >= self.episode
        info = {"t": self.t, "nested": {"action": int(action)}} if self.t % 2 else {}
        return self.observation(action), 0.1 * self.t, ended and self.episode % 3 != 1, ended and self.episode % 3 != 2, info


class Composite(Scripted):
    observation_space = spaces.Dict(
        {"where": spaces.Box(-1e6, 1e6, (2,), np.float64), "what": spaces.Tuple([spaces.Discrete(99), spaces.MultiBinary(2)])}
    )
    action_space = spaces.Dict([("push", spaces.Box(-1, 1, (2,))), ("aim", spaces.Tuple([spaces.Discrete(3)] * 2))])

    def observation(self, last):
        self.seen = last
        return {"where": np.array([self.episode, self.t]), "what": (self.t, np.array([1, self.t % 2]))}

    def step(self, action):
        self.t += 1
        self.seen = action
        return self.observation(action), self.t, self.t >= self.episode, False, {}


def single(vector_infos):
    """The info of a vector env's only env: without masks, in plain values."""
    infos = {}
    for key, value in vector_infos.items():
        if not key.startswith("_"):
            infos[key] = single(value) if isinstance(value, dict) else value[0]
    return infos


def assert_same_info(ours, theirs):
    ours = ours or {}
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_same_info(ours[key], value)
        else:
            np.testing.assert_equal(ours[key], value)


def without_alias(infos):
    """gymnasium keeps the env's own array as final_obs; Scripted's reset overwrites it."""
    return {key: value for key, value in infos.items() if key != "final_obs"}


def assert_same_row(slot, env, reference):
    observations, rewards, terminations, truncations, _ = reference
    ours = read_sample(slot["observations"][0, ...], env.observation_space)
    theirs = next(gym.vector.utils.iterate(gym.vector.utils.batch_space(env.observation_space, 1), observations))
    np.testing.assert_equal(ours, theirs)
    np.testing.assert_array_equal(slot["rewards"], np.float32(rewards))
    np.testing.assert_array_equal(slot["terminations"], terminations)
    np.testing.assert_array_equal(slot["truncations"], truncations)


def run_against_gymnasium(make, autoreset, steps, compare_info=lambda infos: infos):
    """Steps one env both ways; returns how many episodes ended.

    Every second step writes the slot it wrote before, so that what is not written anew shows.
    """
    ours, reference = adapt(make(), autoreset), SyncVectorEnv([make], autoreset_mode=gym.vector.AutoresetMode(MODES[autoreset]))
    slots = bound(ours, count=2, fill=77)
    reference.action_space.seed(7)
    episodes = 0

    def reset(slot, seed):
        begin(slots[slot])
        info = ours.reset(slot, seed, None)
        observations, infos = reference.reset(seed=seed)
        zeros = np.zeros(1)
        assert_same_row(slots[slot], ours.env, (observations, zeros, zeros, zeros, infos))
        assert_same_info(info, single(infos))

    reset(0, 42)
    for t in range(steps):
        acting, writing = t // 2 % 2, (t + 1) // 2 % 2
        now, then = slots[acting], slots[writing]
        actions = reference.action_space.sample()
        action = next(gym.vector.utils.iterate(reference.action_space, actions))
        write_sample(now["actions"][0, ...], action, ours.env.action_space)
        expected = reference.step(actions)
        info = ours.step(acting, writing)
        assert_same_row(then, ours.env, expected)
        assert_same_info(compare_info(info or {}), compare_info(single(expected[4])))
        ended = bool(expected[2][0] or expected[3][0])
        episodes += ended
        if ended and autoreset == "disabled":
            reset(writing, None)
    return episodes


@pytest.mark.parametrize("autoreset", MODES)
def test_cartpole_goes_as_in_gymnasium(autoreset):
    assert run_against_gymnasium(lambda: gym.make("CartPole-v1"), autoreset, 300) > 5


@pytest.mark.parametrize("autoreset", MODES)
def test_a_continuous_env_goes_as_in_gymnasium(autoreset):
    assert run_against_gymnasium(lambda: gym.make("Pendulum-v1", max_episode_steps=20), autoreset, 100) > 3


@pytest.mark.parametrize("autoreset", MODES)
def test_terminations_truncations_and_infos_go_as_in_gymnasium(autoreset):
    assert run_against_gymnasium(Scripted, autoreset, 120, without_alias) > 10


@pytest.mark.parametrize("autoreset", MODES)
def test_dict_observations_and_actions_go_as_in_gymnasium(autoreset):
    assert run_against_gymnasium(Composite, autoreset, 60) > 5


def test_same_step_keeps_the_final_observation_of_an_env_that_reuses_its_array():
    env = adapt(Scripted(), "same_step")
    slots = bound(env)
    env.reset(0, None, None)
    slots[0]["actions"][:] = 4
    info = env.step(0, 0)
    np.testing.assert_array_equal(info["final_obs"], [1, 1, 4])
    assert info["final_info"] == {"t": 1, "nested": {"action": 4}}
    np.testing.assert_array_equal(slots[0]["observations"], [[2, 0, -1]])


def test_reset_passes_seed_and_options_and_autoreset_passes_none():
    env = adapt(Scripted(), "next_step")
    bound(env)
    env.reset(0, 3, {"level": 1})
    env.step(0, 0)  # the first episode has one step
    env.step(0, 0)
    assert env.env.calls == [{"seed": 3, "options": {"level": 1}}, {}]


def test_a_reset_forgets_the_end_of_the_episode():
    env = adapt(Scripted(), "next_step")
    slots = bound(env)
    env.reset(0, None, None)
    env.step(0, 0)
    env.reset(0, None, None)
    env.step(0, 0)  # would be a reset otherwise
    assert len(env.env.calls) == 2
    assert slots[0]["rewards"][0] == np.float32(0.1)


def test_disabled_autoreset_wants_a_reset():
    env = adapt(Scripted(), "disabled")
    bound(env)
    env.reset(0, None, None)
    env.step(0, 0)
    with pytest.raises(RuntimeError, match="reset it first"):
        env.step(0, 0)
    env.reset(0, None, None)
    env.step(0, 0)
    assert env.env.t == 1


def test_only_the_slot_that_is_named_is_written():
    env = adapt(Scripted(), "next_step")
    slots = bound(env, count=3, fill=77)
    env.reset(1, None, None)
    slots[1]["actions"][:] = 5
    env.step(1, 2)
    assert (slots[0]["observations"] == 77).all() and slots[0]["rewards"] == 77
    np.testing.assert_array_equal(slots[1]["observations"], [[1, 0, -1]])
    np.testing.assert_array_equal(slots[2]["observations"], [[1, 1, 5]])


def test_empty_infos_are_none():
    class Quiet(Scripted):
        def step(self, action):
            return *super().step(action)[:4], {}

        def reset(self, **kwargs):
            return super().reset(**kwargs)[0], {}

    env = adapt(Quiet(), "next_step")
    bound(env)
    assert env.reset(0, None, None) is None
    assert env.step(0, 0) is None


class Returns(gym.Env):
    """Returns what it was told to."""

    observation_space = spaces.Box(-9, 9, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, step=None, reset=(np.zeros(2, np.float32), {}), space=None):
        self.to_step, self.to_reset = step, reset
        self.observation_space = space or self.observation_space
        self.actions = []

    def reset(self, **kwargs):
        return self.to_reset

    def step(self, action):
        self.actions.append(action)
        return self.to_step


OBS = np.zeros(2, np.float32)


@pytest.mark.parametrize("result, error, message", [
    ((OBS, 0.0, False, {}), TypeError, "Returns returned a tuple of 4.*old gym.*shimmy"),
    ((OBS, 0.0, False, False, {}, 1), TypeError, "a tuple of 6; expected the tuple .observation, reward"),
    (None, TypeError, r"step\(\) of Returns returned None"),
    ([OBS, 0.0, False, False, {}], TypeError, "of type list"),
    (OBS, TypeError, "of type ndarray"),
    ((None, 0.0, False, False, {}), TypeError, "observation of Returns is None"),
    ((np.zeros(3, np.float32), 0.0, False, False, {}), ValueError, r"shape \(3,\) and dtype float32; expected shape \(2,\)"),
    ((np.zeros(2, complex), 0.0, False, False, {}), TypeError, "dtype complex128, which does not cast safely; .*float32"),
    (([1, [2]], 0.0, False, False, {}), ValueError, "is no array"),
    ((OBS, None, False, False, {}), TypeError, "gave the reward None; expected a number"),
    ((OBS, np.zeros(2), False, False, {}), TypeError, "gave the reward array.*expected a number"),
    ((OBS, 0.0, None, False, {}), TypeError, "gave terminated as None"),
    ((OBS, 0.0, False, {}, False), TypeError, "gave truncated as {} of type dict"),
    ((OBS, 0.0, np.zeros(2, bool), False, {}), TypeError, "gave terminated as array.*one bool"),
    ((OBS, 0.0, False, False, None), TypeError, "info of type NoneType; expected a dict"),
    ((OBS, 0.0, False, False, [1]), TypeError, "info of type list; expected a dict"),
])
def test_steps_that_break_the_interface(result, error, message):
    env = adapt(Returns(result), "next_step")
    bound(env)
    env.reset(0, None, None)
    with pytest.raises(error, match=message):
        env.step(0, 0)


@pytest.mark.parametrize("result, error, message", [
    (OBS, TypeError, r"reset\(\) of Returns returned array.*expected the tuple .observation, info."),
    ((OBS, {}, 1), TypeError, "returned a tuple of 3"),
    (None, TypeError, "returned None"),
    ((None, {}), TypeError, "observation of Returns is None"),
    ((OBS, None), TypeError, r"reset\(\) of Returns gave an info of type NoneType"),
])
def test_resets_that_break_the_interface(result, error, message):
    env = adapt(Returns(reset=result), "next_step")
    bound(env)
    with pytest.raises(error, match=message):
        env.reset(0, None, None)


def test_an_envs_own_exception_comes_through():
    class Broken(Returns):
        def step(self, action):
            raise ZeroDivisionError("mine")

    env = adapt(Broken(), "next_step")
    bound(env)
    env.reset(0, None, None)
    with pytest.raises(ZeroDivisionError, match="mine"):
        env.step(0, 0)


@pytest.mark.parametrize("observation", [
    np.array([0.5, -1]), [0.5, -1], (0.5, np.float32(-1)), np.array([0.5, 9, -1], np.float32)[::2], np.array([0.5, -1], ">f4"),
])
def test_observations_are_cast(observation):
    env = adapt(Returns((observation, 1, np.bool_(True), 0, OrderedDict(a=1))), "next_step")
    slots = bound(env)
    env.reset(0, None, None)
    assert env.step(0, 0) == {"a": 1}
    np.testing.assert_array_equal(slots[0]["observations"], [[0.5, -1]])
    assert (slots[0]["rewards"][0], slots[0]["terminations"][0], slots[0]["truncations"][0]) == (1, True, False)


@pytest.mark.parametrize("reward", [2, 2.0, np.float64(2), np.float32(2), np.int8(2), np.array(2.0)])
def test_rewards_of_any_kind_of_number(reward):
    env = adapt(Returns((OBS, reward, False, False, {})), "next_step")
    slots = bound(env)
    env.reset(0, None, None)
    env.step(0, 0)
    assert slots[0]["rewards"][0] == 2


@pytest.mark.parametrize("space", [spaces.Discrete(9), spaces.Box(-9, 9, ()), spaces.Box(0, 9, (), np.uint8)])
@pytest.mark.parametrize("observation", [3, np.int64(3), np.array(3)])
def test_scalar_observations(space, observation):
    if np.asarray(observation).dtype != space.dtype and not isinstance(observation, int):
        observation = observation.astype(space.dtype)
    env = adapt(Returns((observation, 0, False, False, {}), (observation, {}), space), "next_step")
    slots = bound(env)
    env.reset(0, None, None)
    assert slots[0]["observations"][0] == 3
    env.step(0, 0)
    assert slots[0]["observations"][0] == 3


def test_an_env_may_keep_its_actions():
    env = adapt(Returns((OBS, 0, False, False, {})), "next_step")
    slots = bound(env)
    env.reset(0, None, None)
    for value in (0.25, 0.5):
        slots[0]["actions"][:] = value
        env.step(0, 0)
    np.testing.assert_array_equal(env.env.actions, [[0.25, 0.25], [0.5, 0.5]])
    assert env.env.actions[0].flags.owndata and env.env.actions[0].flags.writeable


def test_discrete_actions_are_numpy_scalars_in_the_spaces_dtype():
    env = adapt(Scripted(), "next_step")
    slots = bound(env)
    seen = []
    env.env.observation = lambda last: seen.append(last) or np.zeros(3, np.float32)
    env.reset(0, None, None)
    slots[0]["actions"][:] = 6
    env.step(0, 0)
    assert type(seen[-1]) is np.int64 and seen[-1] == 6


@pytest.mark.parametrize("name, value, message", [
    ("observations", np.zeros((1, 3), np.float32), r"observations has shape \(1, 3\).*expected C-contiguous \(1, 2\)"),
    ("observations", np.zeros((1, 2)), "dtype float64; expected .*float32"),
    ("observations", np.zeros((1, 4), np.float32)[:, ::2], "C-contiguous"),
    ("rewards", np.zeros(1), "rewards has shape .*float64"),
    ("terminations", np.zeros(1, np.int64), "terminations has"),
])
def test_bind_refuses_rows_of_another_layout(name, value, message):
    env = adapt(Returns(), "next_step")
    slots = bound(env)
    with pytest.raises(ValueError, match=message):
        env.bind([slots[0] | {name: value}])


def test_slots_that_are_not_bound_are_refused():
    env = adapt(Returns((OBS, 0, False, False, {})), "next_step")
    with pytest.raises(IndexError, match="bound to 0 slots"):
        env.reset(0, None, None)
    bound(env, count=2)
    env.reset(1, None, None)
    for slots in ((2, 0), (0, 2), (-1, 0), (0, -1)):
        with pytest.raises(IndexError, match="bound to 2 slots"):
            env.step(*slots)


def test_rows_stay_alive_while_bound():
    env = adapt(Returns((OBS, 0, False, False, {})), "next_step")
    rows = weakref.ref(bound(env)[0]["observations"])
    assert rows() is not None
    del env
    assert rows() is None


def test_close_closes_the_env():
    closed = []
    env = Returns()
    env.close = lambda: closed.append(True)
    adapt(env, "next_step").close()
    assert closed == [True]


def test_autoreset_is_checked():
    with pytest.raises(ValueError, match="autoreset is 'NextStep'; expected one of 'next_step'"):
        adapt(Returns(), "NextStep")


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
def test_spaces_of_no_fixed_size_are_refused_by_name(name):
    env = Returns()
    setattr(env, name, spaces.Text(4))
    with pytest.raises(TypeError, match=f"^{name} is Text"):
        adapt(env, "next_step")


def test_specs_are_the_envs_spaces():
    env = adapt(Composite(), "next_step")
    assert env.observation_spec == as_spec(Composite.observation_space, "space")
    assert env.action_spec == as_spec(Composite.action_space, "space")
    assert (env.num_agents, env.fields) == (1, {})
