"""Parity with GPUDrive: every recorded step of every recorded scene, flags exactly, floats to 1e-3."""
import json

import numpy as np
import pytest

from abi import INFO, OK, Driver
from fastvec.drive import Drive, DriveConfig
from recordings import WEIGHTED, actions, cases, drive, load, scene_file

TOLERANCE = 1e-3
# Which floats of a row are headings / 2 pi: +-0.5 mean the same direction, and rounding decides which one it is.
HEADING = np.zeros(2984, bool)
HEADING[6:384].reshape(63, 6)[:, 3] = True
HEADING[384:].reshape(200, 13)[:, 5] = True


def assert_close(ours, theirs, what, period=None):
    difference = np.asarray(ours, np.float64) - theirs
    if period is not None:
        difference = (difference + period / 2) % period - period / 2
    worst = np.unravel_index(np.abs(difference).argmax(), difference.shape)
    assert np.abs(difference[worst]) <= TOLERANCE, f"{what}: {np.asarray(ours)[worst]} is not {theirs[worst]} at {worst}"


def assert_rows(ours, theirs, what):
    assert_close(ours[:, ~HEADING], theirs[:, ~HEADING], what)
    assert_close(ours[:, HEADING], theirs[:, HEADING], f"{what}, headings", period=1.0)


def assert_roads_as_sets(ours, theirs, what):
    """GPUDrive gives the nearest roads in heap order, and one of several equally far ones is any of them."""
    for agent, (a, b) in enumerate(zip(ours[:, 384:].reshape(-1, 200, 13), theirs[:, 384:].reshape(-1, 200, 13))):
        far = [np.sort(np.hypot(rows[:, 0], rows[:, 1])) for rows in (a, b)]
        assert_close(*far, f"{what}, agent {agent}: distances of roads")
        apart = np.abs(a[:, None] - b[None])
        apart[..., 5] = np.abs((apart[..., 5] + 0.5) % 1 - 0.5)
        lonely = apart.max(axis=2).min(axis=1) > TOLERANCE
        assert (np.hypot(a[:, 0], a[:, 1])[lonely] > far[0][-1] - TOLERANCE).all(), f"{what}, agent {agent}: roads {np.flatnonzero(lonely)}"


@pytest.mark.parametrize("recording", cases("ABCDEFGHJ"))
def test_recorded_episode(recording):
    golden = load(recording)
    env = drive(recording, golden, auto_reset=False)
    driver = Driver(env)
    driver.reset(0)
    n, roads = golden["shape"]
    first = env.raw(0)
    assert first["shape"].tolist() == [n, roads]
    np.testing.assert_array_equal(first["controlled_state"], golden["controlled_state"][:n])
    np.testing.assert_array_equal(first["world_means"], golden["world_means"])
    assert_close(first["map_observation"], golden["map_observation"], "map_observation")
    controlled = np.flatnonzero(golden["controlled_state"])
    alive, behaviour = np.ones(len(controlled), bool), env.config.collision_behavior
    for t in range(92):
        if t:
            assert driver.step(actions(golden, t - 1, env)) == OK
        raw = env.raw(0, ("done", "info", "reward", "steps_remaining", "absolute_self_observation", "self_observation"))
        for key in ("done", "info", "reward"):
            np.testing.assert_array_equal(raw[key], golden[key][t], err_msg=f"{key} at row {t}")
        np.testing.assert_array_equal(raw["steps_remaining"], golden["steps_remaining"][t])
        ours, theirs = raw["absolute_self_observation"], golden["absolute_self_observation"][t]
        assert_close(ours[:, [0, 1, *range(8, 14)]], theirs[:, [0, 1, *range(8, 14)]], f"positions, goals, sizes at row {t}")
        np.testing.assert_array_equal(ours[:, 2], theirs[:, 2])
        assert_close(ours[:, 7], theirs[:, 7], f"yaw at row {t}", period=2 * np.pi)
        assert_close(raw["self_observation"][:, [0, 1, 2, 3, 6, 7]], golden["self_observation"][t][:, [0, 1, 2, 3, 6, 7]], f"self at row {t}")
        if t:
            reached, collided = golden["info"][t, controlled, 3], golden["self_observation"][t, controlled, 6]
            ended = (reached > 0) | ((collided > 0) & (behaviour != "ignore"))
            np.testing.assert_array_equal(driver.masks, alive)
            np.testing.assert_array_equal(driver.rewards, golden["weighted_reward"][t, controlled] * alive)
            np.testing.assert_array_equal(driver.terminations, alive & ended)
            np.testing.assert_array_equal(driver.truncations, alive & ~ended & (t == 91))
            alive &= ~ended
        for k in np.flatnonzero(golden["packed_rows"] == t):
            theirs = golden["packed_obs"][:, k]
            if env.config.road_obs_algorithm == "linear":
                assert_rows(driver.observations, theirs, f"observations at row {t}")
            else:
                padded = theirs.copy()
                padded[:, 384:] = driver.observations[:, 384:]
                assert_rows(driver.observations, padded, f"ego and partners at row {t}")
                assert_roads_as_sets(driver.observations, theirs, f"row {t}")


@pytest.mark.parametrize("recording", cases("A"))
def test_raw_roads_and_partners(recording):
    """The slow view on a world agrees with GPUDrive too."""
    golden = load(recording)
    env = drive(recording, golden, auto_reset=False)
    driver = Driver(env)
    driver.reset(0)
    for t in range(21):
        if t:
            driver.step(actions(golden, t - 1, env))
        for k in np.flatnonzero(golden["big_rows"] == t):
            raw = env.raw(0)
            for key, heading in (("partner_observations", 3), ("agent_roadmap", 5)):
                ours, theirs = raw[key], golden[key][:, k]
                plain = [c for c in range(9) if c != heading]
                scale = np.maximum(1, np.abs(theirs[..., plain]) / 1000)  # late agents stand at (-10000, -10000)
                assert_close(ours[..., plain] / scale, theirs[..., plain] / scale, f"{key} at row {t}")
                assert_close(ours[..., heading], theirs[..., heading], f"{key} headings at row {t}", period=2 * np.pi)


@pytest.mark.parametrize("recording", cases(["puffer"]))
def test_recorded_puffer_episodes(recording):
    """PufferGPUDrive: rewards, automatic resets with the next episode's first observation, episode statistics."""
    golden = load(recording)
    driver = Driver(Drive(scene_file(recording, golden), 1, DriveConfig(collision_behavior="ignore", **WEIGHTED)))
    driver.reset(0)
    assert_rows(driver.observations, golden["observations"][:, 0], "first observations")
    for t, told in enumerate(json.loads(str(golden["infos"]))):
        result = driver.step(golden["actions"][t])
        assert_rows(driver.observations, golden["observations"][:, t + 1], f"observations after step {t}")
        np.testing.assert_array_equal(driver.rewards, golden["rewards"][t])
        np.testing.assert_array_equal(driver.masks, golden["masks"][t])
        np.testing.assert_array_equal(driver.terminations | driver.truncations, golden["terminals"][t])
        assert result == (INFO if told else OK)
        if told:
            (episode,), (theirs,) = driver.env.take_infos()["episodes"], told
            assert episode["length"] == theirs["episode_length"]
            assert episode["num_agents"] == theirs["total_controlled_agents"]
            for ours, name in (("mean_return", "mean_episode_reward_per_agent"), ("goal_rate", "perc_goal_achieved"),
                               ("off_road_rate", "perc_off_road"), ("collision_rate", "perc_veh_collisions")):
                assert episode[ours] == pytest.approx(theirs[name], abs=1e-4), name
