"""Rows made of what the real GPUDrive exported: bit for bit from its own observations, to 1e-4 from the agents' state."""
import json

import numpy as np
import pytest

import doubles
import recordings
from compare import compare_roads, Findings
from fastvec.drive import DriveConfig
from fastvec_c.drive.rules import Rules
from fastvec_c.gpudrive.rows import SimulatorRows
from fastvec.gpudrive.simulator import exported

KINDS = "ABCDEFGHIJKLM"
EGO, PARTNERS = 6, 63 * 6


def rows_of(golden, fast):
    """A Replay of the recording, the rows' kernels on it, and room for one observation of each controlled agent."""
    said = json.loads(str(golden["params"]))
    config = DriveConfig(**{name: said[name] for name in recordings.SAME_FIELDS}, **recordings.REWARD, action_type="continuous")
    sim, n = doubles.Replay(golden), int((golden["controlled_state"] == 1).sum())
    rows = SimulatorRows(exported(sim), Rules(config), n, n, False, fast, False)
    rows.place([str(golden["scene"])], config)
    sim.reset([0])
    rows.begin([0], np.zeros(n, bool))
    return sim, rows, np.full((n, 2984), np.nan, np.float32)


def observed(golden, fast):
    """(k, row, observations) at every recorded packed_obs."""
    sim, rows, observations = rows_of(golden, fast)
    at = {int(row): k for k, row in enumerate(golden["packed_rows"])}
    for row in range(len(golden["snapshot_is_step"])):
        if row:
            sim.step()
        if row in at:
            rows.observe(observations)
            yield at[row], row, observations


@pytest.mark.parametrize("recording", recordings.cases(KINDS + "I"))
def test_classical_rows_are_packed_obs_bit_for_bit(recording):
    golden = recording.load()
    seen = 0
    for k, row, observations in observed(golden, fast=False):
        theirs = np.ascontiguousarray(golden["packed_obs"][:, k])
        assert observations.tobytes() == theirs.tobytes(), f"row {row}"
        seen += 1
    assert seen == len(golden["packed_rows"]) > 0


@pytest.mark.parametrize("recording", recordings.cases(KINDS))
def test_fast_rows_are_packed_obs(recording):
    golden, found = recording.load(), Findings(recording)
    nearest = json.loads(str(golden["params"]))["road_obs_algorithm"] != "linear"
    for k, row, observations in observed(golden, fast=True):
        theirs = np.ascontiguousarray(golden["packed_obs"][:, k])
        found.rows("ego", row, observations[:, :EGO], theirs[:, :EGO], 3)
        found.rows("partners", row, *(rows[:, EGO:EGO + PARTNERS].reshape(-1, 63, 6) for rows in (observations, theirs)), 1, 3, 1.0)
        compare_roads(found, "roads", row, *(rows[:, EGO + PARTNERS:].reshape(-1, 200, 13) for rows in (observations, theirs)), nearest, 1e-3, 1.0)
    assert found.roads[0] == 0 < found.roads[1] and set(found.errors) == {"ego", "partners", "roads"}
    assert max(error for both in found.errors.values() for error in both) <= 1e-4


@pytest.mark.parametrize("recording", recordings.cases("ABCDEGHJ"))
def test_rewards_ends_and_masks(recording):
    """Weighted rewards are the recorded ones while an agent lives; who is done, and why, follows from flags."""
    golden = recording.load()
    sim, rows, _ = rows_of(golden, fast=False)
    controlled = np.flatnonzero(golden["controlled_state"] == 1)
    ignore = json.loads(str(golden["params"]))["collision_behavior"] == "ignore"
    n = len(controlled)
    rewards = np.zeros(n, np.float32)
    terminations, truncations, masks = (np.zeros(n, bool) for _ in range(3))
    ended = np.zeros(n, bool) if ignore else golden["self_observation"][0, controlled, 6] > 0
    for row in range(1, len(golden["snapshot_is_step"])):
        sim.step()
        over = rows.judge(rewards, terminations, truncations, masks)
        assert np.array_equal(masks, ~ended)
        assert np.array_equal(rewards, np.where(masks, golden["weighted_reward"][row, controlled], 0).astype(np.float32))
        reached = golden["info"][row, controlled, 3] == 1
        collided = golden["self_observation"][row, controlled, 6] > 0
        now = reached | (collided & (not ignore))
        assert np.array_equal(terminations, masks & now)
        assert np.array_equal(truncations, masks & ~now & (golden["steps_remaining"][row, controlled] == 0))
        ended |= terminations | truncations
        assert over == ([0] if ended.all() else [])
    assert ended.all()


@pytest.mark.parametrize("recording", recordings.cases("K"))
def test_lidar(recording):
    golden = recording.load()
    controlled = np.flatnonzero(golden["controlled_state"] == 1)
    said = json.loads(str(golden["params"]))
    config = DriveConfig(**{name: said[name] for name in recordings.SAME_FIELDS}, lidar_obs=True, norm_obs=False)
    for fast in (False, True):
        sim = doubles.Replay(golden)
        rows = SimulatorRows(exported(sim), Rules(config), len(controlled), len(controlled), False, fast, False)
        rows.place([str(golden["scene"])], config)
        observations = np.empty((len(controlled), 2984 + 600), np.float32)
        rows.observe(observations)
        assert np.array_equal(observations[:, 2984:], golden["lidar"][controlled, 0].reshape(-1, 600))


def test_recordings_of_waymo_scenes_are_used_where_they_are():
    if not list(recordings.DATA.glob("gpudrive/golden/*.npz")):
        pytest.skip(f"{recordings.DATA} is not there: only the recordings of our own scenes were compared")
    scenes = {r.scene.rsplit("_")[-1] for r in recordings.find("A")}
    assert {"325", "407", "test"} <= scenes
