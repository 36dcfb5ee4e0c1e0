"""Recordings of the real GPUDrive (see the README beside them); they are no part of the repository."""
import json
import os
from pathlib import Path

import numpy as np
import pytest

from fastvec.drive import Drive, DriveConfig

DATA = Path(os.environ.get("FASTVEC_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
SAME_FIELDS = ("dynamics_model", "collision_behavior", "road_obs_algorithm", "init_mode", "remove_non_vehicles", "obs_radius",
               "polyline_reduction_threshold", "dist_to_goal_threshold")

# What GPUDriveTorchEnv.get_rewards() pays unless it is told otherwise; its EnvConfig says something else.
WEIGHTED = dict(reward_type="weighted_combination", collision_weight=-0.5, goal_achieved_weight=1.0, off_road_weight=-0.5)


def cases(kinds):
    """Pytest parameters: all recordings whose configuration is in `kinds`."""
    files = [f for kind in kinds for f in sorted(DATA.glob(f"*/golden/*__{kind}.npz"))]
    if not files:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no recordings {'/'.join(kinds)} in {DATA}; set FASTVEC_TEST_DATA"))]
    return [pytest.param(f, id=f.stem) for f in files]


def load(recording):
    """The recording's arrays, each unpacked once."""
    with np.load(recording) as file:
        return dict(file)


def scene_file(recording, golden):
    return recording.parents[1] / "scenes" / str(golden["scene"])


def drive(recording, golden, **kwargs):
    """A Drive env with the recording's scene and settings."""
    said = json.loads(str(golden["params"]))
    config = DriveConfig(**{name: said[name] for name in SAME_FIELDS}, **WEIGHTED,
                         max_controlled_agents=said["max_cont_agents"],
                         action_type="discrete" if "action_index" in golden else "continuous")
    return Drive(scene_file(recording, golden), 1, config, **kwargs)


def actions(golden, step, env):
    """What the controlled agents were told in a step (counted from 0)."""
    controlled = np.flatnonzero(golden["controlled_state"])
    if "action_index" in golden:
        return golden["action_index"][step, controlled]
    return golden["action"][step, controlled, :env.action_space.shape[0]]
