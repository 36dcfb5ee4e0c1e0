"""What DriveConfig's settings mean, beyond what recordings show."""
import numpy as np
import pytest

import fastvec
from abi import ERROR, OK, Driver
from fastvec.drive import Drive, DriveConfig, SceneError, creator
from fastvec.drive.scenes import find
from recordings import cases, drive

SHIPPED = find("shipped")
GRID, HIGHWAY, JUNCTION, PARKING = SHIPPED[:4]
IGNORE = dict(collision_behavior="ignore")
WEIGHTED = dict(reward_type="weighted_combination", collision_weight=-0.5, off_road_weight=-0.25, goal_achieved_weight=2.0)


def started(scene, worlds=1, seed=0, auto_reset=True, options={}, **config):
    driver = Driver(Drive(scene, worlds, DriveConfig(**config), auto_reset=auto_reset, **options))
    driver.reset(seed)
    return driver


def random_steps(driver, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        assert driver.step(rng.integers(0, 91, driver.abi.num_agents)) >= 0
        yield driver.env.raw(0)


def controlled(raw):
    return np.flatnonzero(raw["controlled_state"])


# ---- experts and the log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recording", cases("DEF"))
def test_expert_actions_are_those_recorded(recording):
    golden = recording.load()
    env = drive(recording, golden)
    actions, positions, velocities, yaws = (a[0] for a in env.get_expert_actions())
    n = golden["shape"][0]
    fed = golden["action"]  # before each step
    np.testing.assert_allclose(actions[:n].swapaxes(0, 1), fed[..., :actions.shape[-1]], rtol=2e-4, atol=2e-4)
    logged = golden["expert_trajectory"]
    np.testing.assert_array_equal(positions[:n], logged[:, :182].reshape(n, 91, 2))
    np.testing.assert_array_equal(velocities[:n], logged[:, 182:364].reshape(n, 91, 2))
    np.testing.assert_array_equal(yaws[:n, :, 0], logged[:, 364:455])
    assert not actions[n:].any() and not positions[n:].any()


@pytest.mark.parametrize("dynamics", ["classic", "bicycle", "delta_local", "state"])
@pytest.mark.parametrize("collisions", ["ignore", "remove"])
def test_init_steps_replay_the_expert_actions(dynamics, collisions):
    config = dict(dynamics_model=dynamics, action_type="continuous", collision_behavior=collisions)
    by_hand = started(JUNCTION, auto_reset=False, **config)
    replayed = started(JUNCTION, auto_reset=False, init_steps=10, **config)
    slots = controlled(by_hand.env.raw(0))
    expert = by_hand.env.get_expert_actions()[0][0, slots]
    for t in range(10):
        assert by_hand.step(expert[:, t]) == OK
    alive = by_hand.env.raw(0, ["done"])["done"][slots] == 0
    rng = np.random.default_rng(0)
    for t in range(10, 30):
        ours, theirs = replayed.env.raw(0), by_hand.env.raw(0)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=f"{name} after {t} steps")
        np.testing.assert_array_equal(replayed.observations, by_hand.observations)
        if t == 10:
            np.testing.assert_array_equal(replayed.masks > 0, alive | (ours["info"][slots, 3] == 0) & (collisions == "ignore"))
        actions = expert[:, t] + rng.normal(0, 0.1, expert[:, t].shape)
        replayed.step(actions), by_hand.step(actions)


def test_init_steps_count_towards_the_episode():
    driver = started(PARKING, init_steps=85, **IGNORE)
    lengths = []
    for t in range(12):
        driver.step(0)
        lengths += [e["length"] for e in driver.env.take_infos().get("episodes", [])]
        assert driver.env.raw(0, ["steps_remaining"])["steps_remaining"][0] == (6 - t % 6 - 1 or 6)
    assert lengths == [6, 6]


def test_the_log_is_followed_under_state_dynamics():
    driver = started(HIGHWAY, auto_reset=False, dynamics_model="state", action_type="continuous", **IGNORE)
    slots = controlled(driver.env.raw(0))
    actions, positions, _, _ = (a[0, slots] for a in driver.env.get_expert_actions())
    for t in range(91):
        before = driver.env.raw(0, ["done"])["done"][slots]
        driver.step(actions[:, t])
        now = driver.env.raw(0, ["absolute_self_observation"])["absolute_self_observation"][slots, :2]
        np.testing.assert_array_equal(now[before == 0], positions[before == 0, t])
    assert driver.env.raw(0, ["info"])["info"][slots, 3].mean() > 0.9  # logs lead to the goals


# ---- rewards ---------------------------------------------------------------------------------------------------------


def paid(raw, weights):
    """The weighted reward of the controlled agents, weights as (collision, goal, off road)."""
    info = raw["info"][controlled(raw)]
    return weights[..., 0] * info[:, 1:3].sum(1) + weights[..., 1] * info[:, 3] + weights[..., 2] * info[:, 0]


def test_distance_to_logs_adds_the_nearness_to_the_logged_position():
    driver = started(GRID, auto_reset=False, **IGNORE, **{**WEIGHTED, "reward_type": "distance_to_logs"})
    logged = driver.env.get_expert_actions()[1][0]
    alive = np.ones(driver.abi.num_agents, bool)
    for t, raw in enumerate(random_steps(driver, 40)):
        slots = controlled(raw)
        distance = np.linalg.norm(logged[slots, t] - raw["absolute_self_observation"][slots, :2], axis=1)
        expected = paid(raw, np.array([-0.5, 2.0, -0.25])) + 0.01 * np.exp(-distance)
        np.testing.assert_allclose(driver.rewards[alive], expected[alive], rtol=1e-5, atol=1e-7)
        alive &= ~driver.terminations.astype(bool)
    assert 0 < (driver.rewards[alive] % 0.25).max() < 0.01


@pytest.mark.parametrize("config, weights", [
    (dict(condition_mode="fixed", agent_type=[-0.3, 1.5, -0.7]), [-0.3, 1.5, -0.7]),
    (dict(condition_mode="preset", agent_type="cautious"), [-0.9, 1.4, -0.9]),
    (dict(condition_mode="preset", agent_type="aggressive"), [-0.5, 1.8, -0.6]),
    (dict(condition_mode="preset", agent_type="balanced"), [-0.5, 1.5, -0.5]),
    (dict(condition_mode="preset", agent_type="risk_taker", collision_weight_lb=-2.0), [-0.6, 2.0, -0.4]),
])
def test_conditioned_rewards_with_one_set_of_weights(config, weights):
    driver = started(GRID, auto_reset=False, reward_type="reward_conditioned", **IGNORE, **config)
    assert driver.observations.shape == (36, 2987)
    np.testing.assert_allclose(driver.observations[:, 6:9], np.broadcast_to(np.float32(weights), (36, 3)), rtol=1e-6)
    for raw in random_steps(driver, 30):
        np.testing.assert_allclose(driver.rewards[driver.masks > 0], paid(raw, np.array(weights))[driver.masks > 0], rtol=1e-6)
    assert driver.rewards.any()


def test_random_weights_are_each_agents_own_and_new_in_each_episode():
    bounds = dict(collision_weight_lb=-3.0, collision_weight_ub=-2.0, goal_achieved_weight_lb=5.0, goal_achieved_weight_ub=6.0,
                  off_road_weight_lb=0.0, off_road_weight_ub=0.0)
    a, b, other = (started(GRID, worlds=2, seed=seed, episode_len=5, reward_type="reward_conditioned", **IGNORE, **bounds) for seed in (1, 1, 2))
    weights = a.observations[:, 6:9].copy()
    assert len(np.unique(weights[:, 0])) == len(weights) and not weights[:, 2].any()
    for k, (low, high) in enumerate([(-3, -2), (5, 6), (0, 0)]):
        assert (weights[:, k] >= low).all() and (weights[:, k] <= high).all()
    assert weights[:, 0].max() - weights[:, 0].min() > 0.8
    np.testing.assert_array_equal(a.observations, b.observations)
    assert not np.array_equal(weights, other.observations[:, 6:9])
    for t, raw in enumerate(random_steps(a, 5)):
        if t < 4:
            np.testing.assert_array_equal(a.observations[:, 6:9], weights)
            np.testing.assert_allclose(a.rewards[:36][a.masks[:36] > 0], paid(raw, weights[:36])[a.masks[:36] > 0], rtol=1e-6)
    assert (a.observations[:, 6:8] != weights[:, :2]).all()


# ---- who drives ------------------------------------------------------------------------------------------------------


def test_only_the_tracks_to_predict_are_driven():
    everyone = Drive(JUNCTION, 1, DriveConfig(init_mode="all_objects")).raw(0)
    raw = Drive(JUNCTION, 1, DriveConfig(init_mode="womd_tracks_to_predict")).raw(0)
    assert raw["shape"][0] == everyone["shape"][0] > len(controlled(raw)) == 3
    np.testing.assert_array_equal(controlled(raw), [0, 1, 2])  # of which the first is the self-driving car
    capped = Drive(JUNCTION, 1, DriveConfig(init_mode="womd_tracks_to_predict", max_controlled_agents=2)).raw(0)
    np.testing.assert_array_equal(controlled(capped), [0, 1])


def test_deleted_agents_are_gone_until_the_scene_is_swapped():
    driver = started([JUNCTION, PARKING], worlds=2)
    env = driver.env
    before = [env.raw(w)["self_observation"][:, 7].astype(int).tolist() for w in range(2)]
    first, last = before[0][0], before[0][-1]
    observed = env.delete_agents({0: [first]})
    assert env.raw(0)["self_observation"][:, 7].astype(int).tolist() == before[0][1:]
    env.delete_agents({0: [last]})
    assert env.raw(0)["self_observation"][:, 7].astype(int).tolist() == before[0][1:-1]
    assert env.raw(1)["self_observation"][:, 7].astype(int).tolist() == before[1]
    assert sorted(observed) == [0, 1] and len(observed[0]) + len(observed[1]) == driver.abi.num_agents
    assert driver.step(0) == OK and driver.masks.sum() == driver.abi.num_agents - 2
    env.set_scenes([JUNCTION, PARKING])
    assert [env.raw(w)["self_observation"][:, 7].astype(int).tolist() for w in range(2)] == before
    assert driver.step(0) == OK and driver.masks.all()


def test_deleting_everybody_or_nobody_known():
    driver = started(PARKING)
    env = driver.env
    ids = env.raw(0)["self_observation"][:, 7].astype(int).tolist()
    with pytest.raises(SceneError, match="no agent to control"):
        env.delete_agents({0: ids})
    with pytest.raises(IndexError, match="worlds holds 1: expected 0 <= world < 1"):
        env.delete_agents({1: ids})
    with pytest.raises(ValueError, match=r"ids is \[1\]: expected a dict"):
        env.delete_agents([1])
    env.delete_agents({0: [123456]})
    assert env.raw(0)["self_observation"][:, 7].astype(int).tolist() == ids and driver.step(0) == OK


# ---- resets and scenes -----------------------------------------------------------------------------------------------


def test_resetting_one_world_leaves_the_others_alone():
    a, b = (started([JUNCTION, HIGHWAY], worlds=2) for _ in range(2))
    first = a.observations.copy()
    for _ in range(7):
        a.step(50), b.step(50)
    n = len(controlled(a.env.raw(0)))
    observed = a.env.reset_worlds([0])
    np.testing.assert_array_equal(observed[0], first[:n])
    assert list(observed) == [0] and a.env.raw(0, ["steps_remaining"])["steps_remaining"][0] == 91
    a.step(50), b.step(50)
    np.testing.assert_array_equal(a.observations[n:], b.observations[n:])
    assert not np.array_equal(a.observations[:n], b.observations[:n])


def test_new_scenes_need_their_rows():
    driver = started([PARKING, PARKING], worlds=2)
    env = driver.env
    for scenes, error, said in (([GRID, PARKING], ValueError, "gen_grid_s0.json.gz has 36 controlled agents, but world 0 has 8 rows: give rows_per_world=36"),
                                ([PARKING], ValueError, "scenes has 1 files: expected one for each of the 2 worlds"),
                                (["nowhere.json", PARKING], SceneError, "nowhere.json: no such file")):
        with pytest.raises(error, match=said):
            env.set_scenes(scenes)
        assert driver.step(0) == OK and driver.masks.all()
    with pytest.raises(IndexError, match="worlds holds 2"):
        env.reset_worlds([0, 2])
    roomy = started([PARKING, PARKING], worlds=2, options=dict(rows_per_world=36))
    roomy.env.set_scenes([GRID, JUNCTION])
    reference = started([GRID, JUNCTION], worlds=2, options=dict(rows_per_world=36))
    roomy.step(50), reference.step(50)
    np.testing.assert_array_equal(roomy.observations, reference.observations)
    np.testing.assert_array_equal(roomy.masks, reference.masks)


def hosted(creator, num_envs, episodes):
    """The scenes of each world's first episodes, by name; worlds of all envs in turn."""
    seen = []
    for index in range(num_envs):
        env = creator(index, num_envs)
        driver = Driver(env)
        driver.reset(3)
        mine = [[] for _ in range(env.num_worlds)]
        while min(map(len, mine)) < episodes:
            driver.step(0)
            for e in env.take_infos().get("episodes", []):
                mine[e["world"]].append(e["scene"])
        seen += [m[:episodes] for m in mine]
    return seen


def test_scenes_are_dealt_without_replacement():
    deal = hosted(creator(worlds=2, episode_len=1, resample_every=1, **IGNORE), 1, 4)
    assert deal == [[SHIPPED[k] for k in (0, 2, 4, 0)], [SHIPPED[k] for k in (1, 3, 5, 1)]]
    assert hosted(creator(worlds=1, episode_len=1, resample_every=1, **IGNORE), 2, 4) == deal  # whoever hosts the worlds
    slowly = hosted(creator(worlds=2, episode_len=1, resample_every=2, **IGNORE), 1, 4)
    assert slowly == [[SHIPPED[k] for k in (0, 0, 2, 2)], [SHIPPED[k] for k in (1, 1, 3, 3)]]
    shuffled = hosted(creator(worlds=2, episode_len=1, resample_every=1, seed=5, **IGNORE), 1, 3)
    assert sorted(shuffled[0] + shuffled[1]) == SHIPPED and shuffled != [d[:3] for d in deal]
    assert hosted(creator(worlds=2, episode_len=1, **IGNORE), 1, 3) == [[SHIPPED[0]] * 3, [SHIPPED[1]] * 3]


def test_scenes_are_drawn_with_replacement():
    draw = hosted(creator(worlds=2, episode_len=1, resample_every=1, sample_with_replacement=True, **IGNORE), 1, 40)
    assert [sorted(set(world)) for world in draw] == [SHIPPED] * 2
    assert draw[0] != draw[1] and any(a == b for a, b in zip(draw[0], draw[0][1:]))


def test_resampling_on_request_from_the_trainer():
    with fastvec.make(creator(worlds=2, resample_every=9, **IGNORE), 1) as vec:
        vec.reset(seed=0)
        (observed,) = vec.call("resample")
        vec.step(np.full(vec.num_rows, 45))
        assert sorted(observed) == [0, 1] and observed[0].shape[1] == 2984
        (raw,) = vec.call("raw", 0, ["shape"])
    np.testing.assert_array_equal(raw["shape"], Drive(SHIPPED[2]).raw(0, ["shape"])["shape"])


# ---- actions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_debug_refuses_actions_that_are_not_finite(value):
    checked = started(PARKING, action_type="continuous", debug=True)
    actions = np.zeros((8, 3), np.float32)
    assert checked.step(actions) == OK
    actions[5, 1] = value
    assert checked.step(actions) == ERROR
    assert checked.error() == f"actions[5][1] is {value}: expected a finite number"


def test_nan_under_bicycle_dynamics_is_the_upper_limit():
    hurt, fine = (started(HIGHWAY, action_type="continuous", dynamics_model="bicycle", **IGNORE) for _ in range(2))
    n = hurt.abi.num_agents
    for _ in range(3):
        hurt.step(np.full((n, 3), np.nan, np.float32)), fine.step(np.tile(np.float32([6, 3, 0]), (n, 1)))
        np.testing.assert_array_equal(hurt.observations, fine.observations)


def test_nan_elsewhere_hurts_only_who_sends_it():
    hurt, fine = (started(HIGHWAY, action_type="continuous", **IGNORE) for _ in range(2))
    actions = np.zeros((hurt.abi.num_agents, 3), np.float32)
    fine.step(actions)
    actions[0] = np.nan
    hurt.step(actions)
    assert np.isnan(hurt.observations[0]).any() and not np.isnan(hurt.observations[1:]).any()
    np.testing.assert_array_equal(hurt.masks, fine.masks)


def test_tilt_of_the_head_and_other_grids():
    env = Drive(PARKING, 1, DriveConfig(accel_actions=[-1, 1], steer_actions=np.array([0.0]), head_tilt_actions=(0, 0.5)))
    assert env.action_space.high == 3
    np.testing.assert_array_equal(env.config.action_grid(), np.float32([[-1, 0, 0], [-1, 0, 0.5], [1, 0, 0], [1, 0, 0.5]]))
