"""How agents fare: agent by agent what worlds count by themselves."""
from dataclasses import replace

import numpy as np
import pytest

import fastvec
from fastvec.drive import Drive, DriveConfig, SceneError
from fastvec.drive import scenes as scene_files
from fastvec.drive.evaluate import evaluate, keep_velocity, rates, replay_logs

CONFIG = DriveConfig()
BOTH = [str(scene_files.SHIPPED / f"gen_{kind}_s0.json.gz") for kind in ("junction", "parking")]  # with pedestrians and cyclists


def wander(seed):
    """A policy that holds random actions for a while, and begins anew where it is told to."""
    class Policy:
        def reset(self, seed):
            self.random = np.random.default_rng(seed)
            self.step = 0

        def __call__(self, observations):
            if self.step % 10 == 0:
                self.actions = self.random.integers(0, 91, len(observations))
            self.step += 1
            return self.actions

    policy = Policy()
    policy.reset(seed)
    return policy


@pytest.mark.parametrize("behavior", ["ignore", "stop", "remove"])
def test_rates_are_those_of_take_infos(behavior, nothing_left_behind):
    config = replace(CONFIG, collision_behavior=behavior, remove_non_vehicles=False)
    drive = Drive(BOTH, 2, config)
    told, policy = {}, wander(7)
    with fastvec.make(lambda: drive, 0, seed=7) as vec:
        observations, _ = vec.reset()
        while len(told) < 2:
            observations, *_, infos = vec.step(policy(observations))
            for episode in infos.get(0, {}).get("episodes", ()):
                told.setdefault(episode["scene"], episode)
    found = evaluate(wander(0), BOTH, config, seed=7)
    assert [one.scene for one in found] == BOTH
    for one in found:
        episode = told[one.scene]
        assert len(one.goal) == len(one.kinds) == episode["num_agents"]
        for name, flags in (("goal_rate", one.goal), ("collision_rate", one.collision), ("off_road_rate", one.off_road)):
            assert flags.mean() == pytest.approx(episode[name]), name
    assert any(one.off_road.any() for one in found) and any(one.collision.any() for one in found)


def test_an_evaluation_depends_on_its_seed_alone():
    first, again, other = (rates(evaluate(wander(9), BOTH, CONFIG, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_logs_reach_their_goals_unharmed():
    for behavior in ("ignore", "remove"):
        found = rates(replay_logs("shipped", replace(CONFIG, collision_behavior=behavior, remove_non_vehicles=False)))
        every = found[-1]
        assert every["scene"] == every["type"] == "all" and every["agents"] > 119
        assert every["goal"] == 1 and every["failed"] == 0


def test_going_straight_on_is_worse():
    every = rates(keep_velocity("shipped", CONFIG))[-1]
    assert every["agents"] == 119 and 0.1 < every["goal"] < 0.6
    assert every["collision"] > 0.1 and every["off_road"] > 0.1
    assert max(every["collision"], every["off_road"]) <= every["failed"] <= every["collision"] + every["off_road"]


def test_kinds():
    found = rates(replay_logs(BOTH, replace(CONFIG, remove_non_vehicles=False)))
    assert [(row["scene"], row["type"]) for row in found] == [
        *((scene, kind) for scene in ("gen_junction_s0", "gen_parking_s0", "all") for kind in ("vehicle", "pedestrian", "cyclist")), ("all", "all")]
    assert found[-1]["agents"] == sum(row["agents"] for row in found[:6])
    alone = rates(replay_logs(BOTH[:1], CONFIG))
    assert [(row["scene"], row["type"]) for row in alone] == [("gen_junction_s0", "vehicle")]


def test_steps_replayed_before_count_for_nobody():
    found = rates(replay_logs(BOTH, replace(CONFIG, init_steps=10)))[-1]
    assert found["goal"] > 0.9 and found["failed"] == 0


def test_scenes_that_are_missing():
    with pytest.raises(SceneError, match="nowhere"):
        keep_velocity("nowhere.json", CONFIG)
