"""Recordings of the real GPUDrive: the full ones where they are (see the README beside them), else those packed in golden/.

Recordings of Waymo-derived scenes are no part of the repository; those of our own scenes are, packed (see packed.py).
"""
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import packed
from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import SHIPPED

DATA = Path(os.environ.get("FASTVEC_TEST_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
SAME_FIELDS = ("dynamics_model", "collision_behavior", "road_obs_algorithm", "init_mode", "remove_non_vehicles", "obs_radius",
               "polyline_reduction_threshold", "dist_to_goal_threshold")


@dataclass(frozen=True)
class Recording:
    """One scene in one configuration; `file` is its own .npz, or the .xz that holds all recordings of the scene."""

    scene: str
    kind: str
    file: Path

    def __str__(self):
        return f"{self.scene}__{self.kind}"

    def load(self):
        """Its arrays, each unpacked once.  A packed one lacks no array, but some rows (`observation_rows`)."""
        if self.file.suffix == ".xz":
            return packed.load(self.file, self.kind)
        with np.load(self.file) as file:
            return dict(file)

    @property
    def scene_file(self):
        if self.file.suffix == ".xz":
            return SHIPPED / f"{self.scene}.json.gz"
        return self.file.parents[1] / "scenes" / f"{self.scene}.json"


def find(kinds):
    """All recordings whose configuration is in `kinds`, scene by scene; each once, and in full if it can be had in full."""
    found = {}
    for file in sorted(packed.GOLDEN.glob("*.xz")):
        found |= {(file.stem, kind): file for kind in packed.KINDS}
    for file in sorted(DATA.glob("*/golden/*.npz")):
        scene, kind = file.stem.split("__")
        found[scene, kind] = file
    return [Recording(scene, kind, file) for (scene, kind), file in sorted(found.items())
            if kind in kinds and (file.suffix != ".xz" or kind in packed.kinds(file))]


def cases(kinds):
    """`find`, as pytest parameters."""
    return [pytest.param(recording, id=str(recording)) for recording in find(kinds)]


def drive(recording, golden, **kwargs):
    """A Drive env with the recording's scene and settings."""
    said = json.loads(str(golden["params"]))
    config = DriveConfig(**{name: said[name] for name in SAME_FIELDS}, max_controlled_agents=said["max_cont_agents"],
                         action_type="discrete" if "action_index" in golden else "continuous", **REWARD)
    return Drive(recording.scene_file, 1, config, **kwargs)


REWARD = dict(reward_type="weighted_combination", collision_weight=-0.5, goal_achieved_weight=1.0, off_road_weight=-0.5)


def actions(golden, index, env):
    """What the controlled agents were told by row `index` of the recorded actions."""
    controlled = np.flatnonzero(golden["controlled_state"])
    if "action_index" in golden:
        return golden["action_index"][index, controlled]
    return golden["action"][index, controlled, :env.action_space.shape[0]]
