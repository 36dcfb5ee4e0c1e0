"""Drive behind the ABI: rows, masks, automatic resets, seeds, statistics, configuration."""
import dataclasses
import pickle

import numpy as np
import pytest

from abi import ERROR, INFO, OK, Driver
from fastvec.drive import Drive, DriveConfig, creator
from fastvec.drive.scenes import find

CONTROLLED = dict(grid=36, highway=26, junction=19, parking=8, roundabout=16, two_lane=14)
SHIPPED = find("shipped")


def play(driver, steps, seed=0):
    """Random actions; yields (return code, copies of the rows) after each step."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        code = driver.step(rng.integers(0, 91, driver.abi.num_agents))
        yield code, *(a.copy() for a in (driver.observations, driver.rewards, driver.terminations, driver.truncations, driver.masks))


def test_spaces_and_sizes():
    env = Drive(worlds=6)
    assert (env.observation_space.shape, env.observation_space.dtype) == ((2984,), np.float32)
    assert (env.action_space.shape, env.action_space.dtype, env.action_space.low, env.action_space.high) == ((), np.int64, 0, 90)
    assert env.num_agents == sum(CONTROLLED.values())
    abi = Driver(env).abi
    assert (abi.abi, abi.num_agents, abi.observation_nbytes, abi.action_nbytes) == (1, env.num_agents, 2984 * 4, 8)


def test_two_envs_host_the_scenes_in_turn():
    make = pickle.loads(pickle.dumps(creator(worlds=8)))
    envs = [make(env_index=e, num_envs=2) for e in range(2)]
    assert sum(env.num_agents for env in envs) == 327
    counts = [int(env.raw(w, ["controlled_state"])["controlled_state"].sum()) for env in envs for w in range(8)]
    assert counts == [list(CONTROLLED.values())[k % 6] for k in range(16)]


def test_creator_without_arguments_is_the_first_env():
    assert creator(worlds=3)().num_agents == creator(worlds=3)(env_index=0, num_envs=5).num_agents == 36 + 26 + 19
    with pytest.raises(ValueError, match="env_index is 2"):
        creator(worlds=3)(env_index=2, num_envs=2)


def test_worlds_share_a_parsed_scene():
    a, b = Drive(worlds=7), Drive(worlds=2)
    assert a._worlds.scene_of(0) is a._worlds.scene_of(6) is b._worlds.scene_of(0)


def test_every_row_is_written_and_masks_follow_the_living():
    driver = Driver(Drive(worlds=6, config=DriveConfig(collision_behavior="stop", reward_type="weighted_combination")))
    assert driver.reset(3) == OK
    assert np.isfinite(driver.observations).all() and driver.masks.all()
    alive, first = np.ones(driver.abi.num_agents, bool), np.cumsum([0, *CONTROLLED.values()])
    resets = died = 0
    for code, observations, rewards, terminations, truncations, masks in play(driver, 200):
        assert np.isfinite(observations).all()
        np.testing.assert_array_equal(masks, alive)
        assert not rewards[~alive].any() and not terminations[~alive].any() and not truncations[~alive].any()
        assert not (terminations & truncations).any()
        alive &= ~(terminations | truncations).astype(bool)
        ended = [w for w in range(6) if not alive[first[w]:first[w + 1]].any()]
        died += (~alive).sum()
        assert code == (INFO if ended else OK)
        if ended:
            assert [e["world"] for e in driver.env.take_infos()["episodes"]] == ended
        for w in ended:
            alive[first[w]:first[w + 1]] = True
            resets += 1
    assert resets > 6 and died > 100


def test_automatic_reset_shows_the_next_first_observation():
    driver = Driver(Drive(SHIPPED[3], 1, DriveConfig(collision_behavior="ignore", episode_len=10)))
    driver.reset(0)
    first = driver.observations.copy()
    steps = list(play(driver, 20))
    for t, (code, observations, _, terminations, truncations, masks) in enumerate(steps, 1):
        assert (code == INFO) == (t >= 10)  # nobody takes the infos
        assert np.array_equal(observations, first) == (t in (10, 20))
        np.testing.assert_array_equal(truncations, [t in (10, 20)] * 8)
        assert not terminations.any() and masks.all()
    episodes = driver.env.take_infos()["episodes"]
    assert [e["length"] for e in episodes] == [10, 10]
    assert all(e["truncation_rate"] == 1 and e["scene"] == SHIPPED[3] and e["num_agents"] == 8 for e in episodes)
    assert driver.env.take_infos() == {}


@pytest.mark.parametrize("kwargs", [{}, dict(resample_every=1, sample_with_replacement=True)])
def test_same_seed_same_bits(kwargs):
    def run(seed):
        driver = Driver(Drive(worlds=6, config=DriveConfig(collision_behavior="remove", episode_len=15), **kwargs))
        driver.reset(seed)
        return [driver.observations.copy()] + [part for step in play(driver, 40) for part in step[1:]]
    a, b = run(7), run(7)
    assert all(np.array_equal(x, y) for x, y in zip(a, b))
    if kwargs:
        assert not all(np.array_equal(x, y) for x, y in zip(a, run(8)))


def test_reseeding_begins_the_stream_anew_and_no_seed_goes_on():
    driver = Driver(Drive(worlds=4, resample_every=1, sample_with_replacement=True))
    def episodes(seed):
        driver.reset(seed)
        return [driver.env.raw(w, ["shape"])["shape"].tolist() for w in range(4)]
    drawn = episodes(5), episodes(None), episodes(None)
    again = episodes(5), episodes(None), episodes(None)
    assert drawn == again
    assert len({str(d) for d in drawn}) > 1


def test_sampling_visits_all_scenes_and_masks_padding():
    driver = Driver(Drive(worlds=3, config=DriveConfig(collision_behavior="ignore", episode_len=2), resample_every=1, sample_with_replacement=True))
    assert driver.abi.num_agents == 3 * max(CONTROLLED.values())
    driver.reset(0)
    seen, rows = set(), np.arange(36)
    hosted = lambda w: int(driver.env.raw(w, ["controlled_state"])["controlled_state"].sum())
    used = [hosted(w) for w in range(3)]
    for code, observations, rewards, terminations, truncations, masks in play(driver, 60):
        np.testing.assert_array_equal(masks.reshape(3, 36), [rows < n for n in used])
        for flags in (rewards, terminations, truncations):
            assert not flags[masks == 0].any()
        used = [hosted(w) for w in range(3)]
        np.testing.assert_array_equal(observations.reshape(3, 36, -1).any(axis=2), [rows < n for n in used])
        if code == INFO:
            seen |= {e["scene"] for e in driver.env.take_infos()["episodes"]}
    assert seen == set(SHIPPED)


def test_forced_rows_are_padding():
    driver = Driver(Drive(worlds=6, config=DriveConfig(collision_behavior="ignore"), rows_per_world=40))
    driver.reset(0)
    used = np.arange(40) < np.array(list(CONTROLLED.values()))[:, None]
    np.testing.assert_array_equal(driver.masks.reshape(6, 40), used)
    for _, observations, _, _, _, masks in play(driver, 3):
        np.testing.assert_array_equal(masks.reshape(6, 40), used)
        assert not observations.reshape(6, 40, -1)[~used].any()


def test_padding_does_not_change_what_agents_see():
    plain, padded = Driver(Drive(SHIPPED[3], 2)), Driver(Drive(SHIPPED[3], 2, rows_per_world=11))
    plain.reset(1), padded.reset(1)
    used = np.tile(np.arange(11) < 8, 2)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.integers(0, 91, 16)
        spread = np.full(22, 999)  # out of range: nobody looks at the actions of padding
        spread[used] = actions
        assert plain.step(actions) == padded.step(spread) == OK
        np.testing.assert_array_equal(plain.observations, padded.observations[used])
        np.testing.assert_array_equal(plain.rewards, padded.rewards[used])


def test_rows_may_move_between_calls():
    """With several slots the engine gives other rows each time."""
    a, b = Driver(Drive(worlds=6, config=DriveConfig(collision_behavior="stop"))), Driver(Drive(worlds=6, config=DriveConfig(collision_behavior="stop")))
    a.reset(0), b.reset(0)
    slots = [b.observations, np.full_like(b.observations, 5.0), np.full_like(b.observations, -5.0)]
    rng = np.random.default_rng(1)
    for t in range(100):
        b.observations = slots[t % 3]
        b.rows.observations = b.observations.ctypes.data
        actions = rng.integers(0, 91, a.abi.num_agents)
        a.step(actions), b.step(actions)
        np.testing.assert_array_equal(a.observations, b.observations)


@pytest.mark.parametrize("action", [-1, 91, 2**40])
def test_bad_action_is_an_error_that_names_it(action):
    driver = Driver(Drive(worlds=2))
    driver.reset(0)
    actions = np.zeros(62, np.int64)
    actions[40] = action
    assert driver.step(actions) == ERROR
    assert driver.error() == f"actions[40] is {action}: expected 0 <= action < 91"


def test_continuous_and_discrete_actions_agree():
    discrete = Driver(Drive(SHIPPED[2], 1))
    continuous = Driver(Drive(SHIPPED[2], 1, DriveConfig(action_type="continuous")))
    assert continuous.env.action_space.shape == (3,)
    discrete.reset(0), continuous.reset(0)
    rng = np.random.default_rng(2)
    accel, steer = np.linspace(-4, 4, 7).round(3), np.linspace(-np.pi, np.pi, 13).round(3)
    for _ in range(91):
        index = rng.integers(0, 91, 19)
        discrete.step(index)
        continuous.step(np.stack([accel[index // 13], steer[index % 13], np.zeros(19)], 1))
        np.testing.assert_array_equal(discrete.observations, continuous.observations)


def test_delta_local_has_the_grid_of_gpudrive():
    env = Drive(SHIPPED[2], 1, DriveConfig(dynamics_model="delta_local"), auto_reset=False)
    assert env.action_space.high == 7999
    driver = Driver(env)
    driver.reset(0)
    before = env.raw(0, ["absolute_self_observation"])["absolute_self_observation"]
    driver.step(np.full(19, 19 * 400 + 0 * 20 + 10))  # dx 2, dy -2, dyaw 0.165
    after = env.raw(0, ["absolute_self_observation"])["absolute_self_observation"]
    controlled = env.raw(0, ["controlled_state"])["controlled_state"] == 1
    moved = (after - before)[controlled]
    np.testing.assert_allclose(np.hypot(moved[:, 0], moved[:, 1]), np.sqrt(8), rtol=1e-4)
    np.testing.assert_allclose((moved[:, 7] + np.pi) % (2 * np.pi) - np.pi, 0.165, atol=1e-4)


def test_hostile_floats_do_no_harm():
    """NaN and infinity as continuous actions reach the observations, not somebody else's memory."""
    driver = Driver(Drive(SHIPPED[0], 1, DriveConfig(action_type="continuous", dynamics_model="state", collision_behavior="ignore")))
    driver.reset(0)
    for value in (np.nan, np.inf, -np.inf, 3e38, 0.0):
        assert driver.step(np.full((36, 10), value, np.float32)) == OK
    assert driver.masks.all()


@pytest.mark.parametrize("field, value, error, said", [
    ("dynamics_model", "rocket", ValueError, "dynamics_model is 'rocket': allowed: 'classic', 'bicycle', 'delta_local', 'state'"),
    ("reward_type", "distance_to_vdb_trajs", ValueError, "reward_type is 'distance_to_vdb_trajs': allowed: 'sparse_on_goal_achieved'"),
    ("init_steps", 91, ValueError, r"init_steps is 91: allowed: a finite number in \[0, 90\]"),
    ("max_controlled_agents", 65, ValueError, r"max_controlled_agents is 65: allowed: a finite number in \[1, 64\]"),
    ("max_controlled_agents", 2.5, TypeError, "max_controlled_agents is 2.5: expected a whole number"),
    ("episode_len", 92, ValueError, r"episode_len is 92: allowed: a finite number in \[1, 91\]"),
    ("obs_radius", float("nan"), ValueError, "obs_radius is nan"),
    ("obs_radius", True, TypeError, "obs_radius is True: expected a number"),
    ("remove_non_vehicles", 1, TypeError, "remove_non_vehicles is 1: expected True or False"),
    ("collision_behavior", None, ValueError, "collision_behavior is None: allowed: 'ignore', 'stop', 'remove'"),
])
def test_bad_setting_is_named(field, value, error, said):
    with pytest.raises(error, match=said):
        creator(**{field: value})


def test_config_is_frozen_and_state_dynamics_need_floats():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DriveConfig().obs_radius = 3.0
    with pytest.raises(ValueError, match="action_type is 'discrete'"):
        DriveConfig(dynamics_model="state")
    with pytest.raises(TypeError, match="obs_radios"):
        creator(obs_radios=3.0)


@pytest.mark.parametrize("kwargs, said", [
    (dict(worlds=0), "worlds is 0"), (dict(worlds=1.5), "worlds is 1.5"), (dict(worlds=True), "worlds is True"),
    (dict(worlds=6, rows_per_world=35), "rows_per_world is 35, but .*gen_grid_s0.json.gz has 36 controlled agents: give at least 36"),
])
def test_bad_argument_is_named(kwargs, said):
    with pytest.raises(ValueError, match=said):
        Drive(**kwargs)


def test_raw_names_what_it_does_not_know():
    env = Drive(worlds=1)
    with pytest.raises(ValueError, match="'radar'"):
        env.raw(0, ["radar"])
    with pytest.raises(IndexError, match="world is 1: expected 0 <= world < 1"):
        env.raw(1)


def test_episode_ring_keeps_the_last():
    driver = Driver(Drive(SHIPPED[3], 1, DriveConfig(episode_len=1, max_controlled_agents=1)))
    driver.reset(0)
    for _ in play(driver, 1100):
        pass
    assert len(driver.env.take_infos()["episodes"]) == 1024
    assert driver.env.take_infos() == {}
