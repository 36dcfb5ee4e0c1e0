"""Stand-ins for GPUDrive's compiled module, with its interface, shapes, dtypes and habits.

`module()` is a whole `madrona_gpudrive`, whose simulator is made of drive worlds.  `Replay` is a simulator that plays a
recording of the real one.
"""
import os
import signal
import time
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

from abi import Driver
from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import find
from fastvec.gpudrive.simulator import COLLISIONS, DYNAMICS, ROADS

CLASSICAL = ("partner_observations", "agent_roadmap", "bev_observation")
EXPORTED = ("reward", "done", "info", "self_observation", "absolute_self_observation", "expert_trajectory", "controlled_state",
            "steps_remaining", "map_observation", "shape", "response_type", "lidar", *CLASSICAL)


def module():
    """A `madrona_gpudrive`."""
    fake = ModuleType("madrona_gpudrive")
    fake.madrona = SimpleNamespace(ExecMode=SimpleNamespace(CPU="cpu", CUDA="cuda"))
    fake.Parameters = Parameters
    fake.RewardParams = SimpleNamespace
    fake.RewardType = SimpleNamespace(OnGoalAchieved="OnGoalAchieved")
    fake.CollisionBehaviour = SimpleNamespace(**{v: v for v in COLLISIONS.values()})
    fake.DynamicsModel = SimpleNamespace(**{v: v for v in DYNAMICS.values()})
    fake.FindRoadObservationsWith = SimpleNamespace(**{v: v for v in ROADS.values()})
    fake.SimManager = SimManager
    fake.kMaxAgentCount, fake.episodeLen = 64, 91
    return fake


class Parameters(SimpleNamespace):
    """As nanobind's class: only the names that there are, with the simulator's own defaults."""

    NAMES = ("polylineReductionThreshold", "observationRadius", "rewardParams", "collisionBehaviour", "maxNumControlledAgents",
             "IgnoreNonVehicles", "roadObservationAlgorithm", "initOnlyValidAgentsAtFirstStep", "dynamicsModel", "enableLidar",
             "disableClassicalObs", "isStaticAgentControlled", "readFromTracksToPredict")

    def __init__(self):
        super().__init__(readFromTracksToPredict=False, enableLidar=False, disableClassicalObs=False)

    def __setattr__(self, name, value):
        assert name in self.NAMES, name
        super().__setattr__(name, value)


def _drive_config(params):
    """The DriveConfig whose worlds do what these parameters ask of GPUDrive."""
    def key(table, value):
        return next(k for k, v in table.items() if v == value)

    if params.readFromTracksToPredict:
        init_mode = "womd_tracks_to_predict"
    elif not params.initOnlyValidAgentsAtFirstStep:
        init_mode = "all_objects"
    else:
        init_mode = "all_valid" if params.isStaticAgentControlled else "all_non_trivial"
    return DriveConfig(
        dynamics_model=key(DYNAMICS, params.dynamicsModel), action_type="continuous", init_mode=init_mode,
        collision_behavior=key(COLLISIONS, params.collisionBehaviour), road_obs_algorithm=key(ROADS, params.roadObservationAlgorithm),
        remove_non_vehicles=getattr(params, "IgnoreNonVehicles", True), obs_radius=params.observationRadius,
        polyline_reduction_threshold=params.polylineReductionThreshold, max_controlled_agents=params.maxNumControlledAgents,
        dist_to_goal_threshold=params.rewardParams.distanceToGoalThreshold)


class Tensor:
    def __init__(self, array):
        self.array = array

    def to_torch(self):
        return torch.from_numpy(self.array)


class SimManager:
    """GPUDrive's simulator, made of drive worlds.

    Class attributes make it misbehave: `crash_builds`, a file with the number of times that building still kills the
    process; `crash_at` and `hang_at`, the step at which it kills the process or hangs; `move_tensors`, after set_maps.
    """

    crash_builds = None
    crash_at = hang_at = None
    move_tensors = False

    def __init__(self, exec_mode, gpu_id, scenes, params, enable_batch_renderer=False):
        assert exec_mode == "cpu"
        self._maybe_crash()
        self.pid, self.threads = os.getpid(), len(os.sched_getaffinity(0))
        self.params, self.steps, self.resets = params, 0, []
        self._host(scenes)
        self.action = np.zeros((len(scenes), 64, 10), np.float32)
        self._names = [n for n in EXPORTED if not (params.disableClassicalObs and n in CLASSICAL) and (params.enableLidar or n != "lidar")]
        self._arrays = {n: np.zeros_like(self._fresh(n)) for n in EXPORTED}
        for name in set(EXPORTED) - set(self._names):
            self._arrays[name][:] = np.nan  # nobody may read what is switched off
        self._export()
        self._arrays["action"] = self.action
        for name in self._arrays:
            setattr(self, f"{name}_tensor", lambda name=name: Tensor(self._arrays[name]))

    def _maybe_crash(self):
        if self.crash_builds and (left := int(self.crash_builds.read_text())) > 0:
            self.crash_builds.write_text(str(left - 1))
            os.kill(os.getpid(), signal.SIGSEGV)

    def _host(self, scenes):
        self.scenes = find([str(s) for s in scenes])
        self._driver = Driver(Drive(self.scenes, len(scenes), _drive_config(self.params), rows_per_world=64, auto_reset=False))
        self._driver.reset(0)

    def _fresh(self, name):
        return getattr(self._driver.env.sim, f"{name}_tensor")().to_numpy()

    def _export(self):
        for name in self._names:
            self._arrays[name][...] = self._fresh(name)
        for w, (agents, _) in enumerate(self._arrays["shape"]):
            self._arrays["absolute_self_observation"][w, agents:] = np.nan  # rubbish in GPUDrive

    def step(self):
        assert os.getpid() == self.pid, "a simulator that crosses a fork hangs"
        if self.steps == self.crash_at:
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.steps == self.hang_at:
            time.sleep(3600)
        self.steps += 1
        actions = self._driver.actions.reshape(len(self.scenes), 64, -1)
        for w, controlled in enumerate(self._arrays["controlled_state"][..., 0] == 1):
            actions[w, :controlled.sum()] = self.action[w, controlled, :actions.shape[-1]]
        self._driver.step(actions.reshape(self._driver.actions.shape))
        self._export()

    def reset(self, worlds):
        assert isinstance(worlds, list)
        self.resets.append(worlds)
        self._driver.env.reset_worlds(worlds)
        self.action[worlds] = 0
        self._export()

    def set_maps(self, scenes):
        assert len(scenes) == len(self.scenes)
        self._host(scenes)
        self.action[:] = 0
        if self.move_tensors:
            self._arrays["info"] = self._arrays["info"].copy()
        self._export()

    def map_name_tensor(self):
        return self._driver.env.sim.map_name_tensor()


class Replay:
    """Plays one recording: its tensors are those of recorded row t after t steps.  Big arrays only where recorded."""

    def __init__(self, golden):
        self.golden, self.row = golden, 0
        self.n, self.r = golden["shape"]
        self.arrays = {name: np.zeros((1, *shape), dtype) for name, shape, dtype in (
            ("action", (64, 10), np.float32), ("reward", (64, 1), np.float32), ("done", (64, 1), np.int32), ("info", (64, 5), np.int32),
            ("self_observation", (64, 8), np.float32), ("absolute_self_observation", (64, 14), np.float32),
            ("partner_observations", (64, 63, 9), np.float32), ("agent_roadmap", (64, 200, 9), np.float32),
            ("lidar", (64, 3, 50, 4), np.float32), ("bev_observation", (64, 200, 200, 1), np.float32),
            ("expert_trajectory", (64, 1456), np.float32), ("controlled_state", (64, 1), np.int32), ("response_type", (64, 1), np.int32),
            ("steps_remaining", (64, 1), np.int32), ("map_observation", (10000, 9), np.float32), ("shape", (2,), np.int32))}
        a = self.arrays
        a["absolute_self_observation"][:, self.n:] = np.nan  # padding is rubbish
        a["controlled_state"][0, :, 0], a["shape"][0] = golden["controlled_state"], golden["shape"]
        a["expert_trajectory"][0, :self.n], a["map_observation"][0, :self.r] = golden["expert_trajectory"], golden["map_observation"]
        a["done"][0, self.n:] = 1
        self._show()
        for name in a:
            setattr(self, f"{name}_tensor", lambda name=name: Tensor(a[name]))

    def _show(self):
        for name in ("reward", "done", "info", "self_observation", "absolute_self_observation", "steps_remaining"):
            here = self.arrays[name][0, :self.n]
            here[...] = self.golden[name][self.row].reshape(here.shape)
        for k in np.flatnonzero(self.golden["big_rows"] == self.row):
            for name in ("partner_observations", "agent_roadmap", "lidar"):
                if name in self.golden:
                    self.arrays[name][0, :self.n] = self.golden[name][:, k]

    def step(self):
        self.row += 1
        self._show()

    def reset(self, worlds):
        self.row = 0
        self._show()

    def set_maps(self, scenes):
        raise NotImplementedError
