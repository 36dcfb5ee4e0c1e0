"""GPUDrive's own objects as they come: GPUDriveTorchEnv, PufferGPUDrive, a bare SimManager; here around the double."""
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

import fastvec
from fastvec.drive import DriveConfig
from fastvec.drive.scenes import SHIPPED
from fastvec.gpudrive import GPUDrive, creator, simulator
from fastvec.gpudrive.config import drive_config

SCENES = [str(s) for s in sorted(SHIPPED.glob("*.json.gz"))[:2]]


class EnvConfig(SimpleNamespace):
    """As GPUDrive's: its own types, and fields that we do not know."""

    def __init__(self, **said):
        config = DriveConfig(**said)
        known = {name: getattr(config, name) for name in ("dynamics_model", "collision_behavior", "obs_radius", "init_mode", "reward_type", "lidar_obs",
                                                         "norm_obs", "polyline_reduction_threshold", "dist_to_goal_threshold", "partner_obs")}
        super().__init__(**known, steer_actions=torch.round(torch.linspace(-torch.pi, torch.pi, 13), decimals=3),
                         agent_size_scale=float(np.float32(0.7)), something_of_its_own=3)


class TorchEnv(gymnasium.Env):
    """The parts of GPUDriveTorchEnv that fastvec looks at."""

    def __init__(self, module, **said):
        self.config, self.max_cont_agents = EnvConfig(**said), 5
        config = drive_config(self.config, max_controlled_agents=5)
        self.sim = module.SimManager(exec_mode="cpu", gpu_id=0, scenes=SCENES, params=simulator.parameters(module, config, False))
        self.data_batch, self.action_space = SCENES, gymnasium.spaces.Discrete(91)


class PufferEnv:
    def __init__(self, module, **said):
        self.env = TorchEnv(module, **said)
        self.collision_weight, self.goal_achieved_weight, self.off_road_weight = -0.75, 2.0, -0.25


def assert_same(vec, reference):
    """Over 100 steps; returns the sum of absolute rewards."""
    with vec, reference:
        assert np.array_equal(vec.reset(seed=0)[0], reference.reset(seed=0)[0])
        rng, paid, ended = np.random.default_rng(0), 0, 0
        for _ in range(100):
            actions = rng.integers(0, 91, vec.num_rows)
            ours, theirs = vec.step(actions), reference.step(actions)
            assert all(np.array_equal(a, b) for a, b in zip(ours[:4], theirs[:4])) and np.array_equal(vec.masks, reference.masks)
            paid, ended = paid + np.abs(ours[1]).sum(), ended + (ours[2] | ours[3]).sum()
        assert ended
    return paid


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_torch_env_pays_what_its_own_get_rewards_pays(double, num_workers):
    said = dict(collision_behavior="ignore", reward_type="weighted_combination", partner_obs=False, dist_to_goal_threshold=5.0)
    weights = dict(collision_weight=-0.5, goal_achieved_weight=1.0, off_road_weight=-0.5, max_controlled_agents=5)
    assert assert_same(fastvec.make(lambda: TorchEnv(double, **said), num_workers),
                       fastvec.make(creator(SCENES, 2, **said, **weights, fast_observations=False), 0))


def test_a_puffer_env_pays_by_its_own_weights(double):
    said = dict(collision_behavior="ignore", reward_type="weighted_combination", norm_obs=False, dist_to_goal_threshold=5.0)
    weights = dict(collision_weight=-0.75, goal_achieved_weight=2.0, off_road_weight=-0.25, max_controlled_agents=5)
    assert assert_same(fastvec.make(lambda: PufferEnv(double, **said), 0), fastvec.make(creator(SCENES, 2, **said, **weights, fast_observations=False), 0))


def test_a_bare_simulator_follows_the_defaults(double):
    def build():
        return double.SimManager(exec_mode="cpu", gpu_id=0, scenes=SCENES, params=simulator.parameters(double, DriveConfig(), False))

    assert_same(fastvec.make(build, 0), fastvec.make(creator(SCENES, 2, fast_observations=False), 0))


def test_a_bare_simulator_with_settings_of_its_own(double):
    config = DriveConfig(collision_behavior="ignore", reward_type="weighted_combination", off_road_weight=-1.0)

    def build():
        sim = double.SimManager(exec_mode="cpu", gpu_id=0, scenes=SCENES, params=simulator.parameters(double, config, True))
        return GPUDrive(config=config, worlds=2, sim=sim, files=SCENES)

    assert_same(fastvec.make(build, 0), fastvec.make(creator(SCENES, 2, config), 0))


def test_an_env_config_carries_over():
    config = drive_config(EnvConfig(obs_radius=20.0, dynamics_model="bicycle"), max_controlled_agents=7)
    assert (config.obs_radius, config.dynamics_model, config.max_controlled_agents) == (20.0, "bicycle", 7)
    assert config.steer_actions == pytest.approx(DriveConfig().steer_actions)
    assert drive_config(config, obs_radius=30.0).obs_radius == 30.0
    with pytest.raises(TypeError, match="config is a dict without dynamics_model, collision_behavior, obs_radius: expected a DriveConfig or GPUDrive's EnvConfig"):
        drive_config({})
    with pytest.raises(ValueError, match="obs_radius"):
        drive_config(EnvConfig(), obs_radius=-1.0)
    with pytest.raises(TypeError, match="radius"):
        drive_config(radius=3)
