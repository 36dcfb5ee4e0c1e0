"""GPUDrive envs over a simulator that is made of drive worlds: they must do what a Drive env does, by every path."""
import numpy as np
import pytest

import fastvec
from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import SHIPPED
from fastvec.gpudrive import GPUDrive, creator

SCENES = sorted(SHIPPED.glob("*.json.gz"))
FEW = [s for s in SCENES if "junction" in s.name or "parking" in s.name]  # all types of agents, parked cars
STEPS = 130  # more than an episode

CONFIGS = {
    "defaults": {},
    "ignore": dict(collision_behavior="ignore"),
    "stop": dict(collision_behavior="stop", init_mode="all_valid"),
    "remove": dict(init_mode="all_objects", remove_non_vehicles=False),
    "bicycle": dict(dynamics_model="bicycle", action_type="continuous"),
    "delta_local": dict(dynamics_model="delta_local"),
    "state": dict(dynamics_model="state", action_type="continuous", collision_behavior="ignore"),
    "nearest roads": dict(road_obs_algorithm="k_nearest_roadpoints", obs_radius=30.0),
    "few, thin": dict(max_controlled_agents=3, polyline_reduction_threshold=0.0, remove_non_vehicles=False),
    "tracks to predict": dict(init_mode="womd_tracks_to_predict"),
    "not normalised": dict(norm_obs=False),
    "no partners": dict(partner_obs=False),
    "no roads": dict(road_map_obs=False),
    "ego only": dict(road_map_obs=False, partner_obs=False),
    "no ego": dict(ego_state=False),
    "lidar": dict(lidar_obs=True),
    "lidar only": dict(lidar_obs=True, disable_classic_obs=True),
    "sparse": dict(reward_type="sparse_on_goal_achieved", dist_to_goal_threshold=8.0),
    "weighted": dict(reward_type="weighted_combination", collision_weight=-0.5, off_road_weight=-0.25, dist_to_goal_threshold=8.0),
    "logs": dict(reward_type="distance_to_logs", collision_weight=-0.5),
    "conditioned": dict(reward_type="reward_conditioned"),
    "preset": dict(reward_type="reward_conditioned", condition_mode="preset", agent_type="cautious"),
    "replayed": dict(init_steps=7),
    "replayed by state": dict(init_steps=5, dynamics_model="state", action_type="continuous"),
    "replayed by delta": dict(init_steps=5, dynamics_model="delta_local"),
    "short": dict(episode_len=20),
}


def random_actions(rng, vec, config):
    if config.action_type == "discrete":
        return rng.integers(0, len(config.action_grid()), vec.num_rows)
    return rng.uniform(-1, 1, (vec.num_rows, *vec.action_spec.shape)).astype(np.float32)


def told(infos):
    return [{**e, "goal_rate": np.float32(e["goal_rate"])} for info in infos.values() for e in info["episodes"]]


def assert_equal(ours, theirs, step):
    for name, a, b in zip(("observations", "rewards", "terminations", "truncations"), ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=f"{name} of step {step}")


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "classical"])
@pytest.mark.parametrize("said", CONFIGS.values(), ids=CONFIGS.keys())
def test_as_drive(double, said, fast):
    """Observations, rewards, flags, masks and statistics, over several episodes."""
    config = DriveConfig(**said)
    worlds = 1 if config.init_steps else len(FEW)
    gpudrive = creator(FEW[:worlds], worlds, config, fast_observations=fast)
    with fastvec.make(gpudrive, 0) as vec, fastvec.make(lambda: Drive(FEW[:worlds], worlds, config, rows_per_world=vec.num_rows // worlds), 0) as drive:
        first = [v.reset(seed=3)[0] for v in (vec, drive)]
        assert_equal(first[:1], first[1:], 0)
        assert vec.masks.tolist() == drive.masks.tolist()
        rng, episodes = np.random.default_rng(1), 0
        for step in range(1, STEPS + 1):
            actions = random_actions(rng, vec, config)
            ours, theirs = vec.step(actions), drive.step(actions)
            assert_equal(ours, theirs, step)
            assert vec.masks.tolist() == drive.masks.tolist()
            for a, b in zip(*map(told, (ours[4], theirs[4])), strict=True):
                assert a == {k: pytest.approx(v, abs=1e-5) if isinstance(v, float) else v for k, v in b.items()}
                episodes += 1
        assert episodes >= worlds


def test_packed_rows(double):
    config = DriveConfig(observation="packed")
    with fastvec.make(creator(FEW, 2, config), 0) as vec, fastvec.make(lambda: Drive(FEW, 2, config, rows_per_world=vec.num_rows // 2), 0) as drive:
        assert vec.reset(seed=3)[0].tobytes() == drive.reset(seed=3)[0].tobytes()
        rng = np.random.default_rng(1)
        for _ in range(STEPS):
            actions = random_actions(rng, vec, config)
            assert vec.step(actions)[0].tobytes() == drive.step(actions)[0].tobytes()


def test_birds_eye_view(double):
    config = DriveConfig(bev_obs=True, partner_obs=False, road_map_obs=False, max_controlled_agents=2)
    with fastvec.make(creator(FEW[:1], 1, config, fast_observations=False), 0) as vec, fastvec.make(lambda: Drive(FEW[:1], 1, config), 0) as drive:
        assert np.array_equal(vec.reset()[0], drive.reset()[0]) and vec.observations.any()
