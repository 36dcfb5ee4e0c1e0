"""What is in a scene, what of it will be driven, and what is odd about it."""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

import fastvec
from fastvec.drive.config import AGENTS, ROAD_SEGMENTS
from fastvec.drive.env import Drive
from fastvec.drive.scenes import SceneError, read
from fastvec.drive.scenes.raw import OBJECT_TYPES, ROAD_TYPES

OBJECT_NAMES = {number: name for name, number in OBJECT_TYPES.items() if number} | {0: "other"}
ROAD_NAMES = {number: name for name, number in ROAD_TYPES.items()} | {0: "other"}
SHOWN = 8  # ids in a message


@dataclass
class Report:
    """What `check` found out.

    Attributes:
        entry: of the scene.
        objects, roads: {type: how many}.
        segments: of roads, after thinning.
        agents, driven: how many objects become agents, and how many of those a policy drives.
        warnings: sentences on what is odd, but can be used.
        error: why the scene cannot be used; None if it can.
    """

    entry: str
    objects: Counter = field(default_factory=Counter)
    roads: Counter = field(default_factory=Counter)
    segments: int = 0
    agents: int = 0
    driven: int = 0
    warnings: list = field(default_factory=list)
    error: str | None = None


def check(entry, config):
    """The `Report` on a scene under a `DriveConfig`."""
    report = Report(str(entry))
    try:
        raw = read(entry, report.warnings.append)
        report.objects = Counter(OBJECT_NAMES[t] for t in raw.types.tolist())
        report.roads = Counter(ROAD_NAMES[t] for t in raw.road_types.tolist())
        drive = Drive(entry, 1, config, auto_reset=False)
    except SceneError as error:
        report.error = str(error)
        return report
    report.warnings += _odd(raw, config)
    with fastvec.make(lambda: drive, 0) as vec:
        vec.reset()
        state = drive.raw(0, ("shape", "controlled_state", "info", "absolute_self_observation"))
    report.agents, report.segments = state["shape"].tolist()
    report.driven = int(state["controlled_state"].sum())
    hit = state["info"][:, :3].any(axis=1)
    if hit.any():
        report.warnings.append(f"agents start in a collision: {_ids(state['absolute_self_observation'][hit, 13])}")
    if report.segments == ROAD_SEGMENTS:
        report.warnings.append(f"the roads make {ROAD_SEGMENTS:,} segments or more: only so many are used")
    return report


def _odd(raw, config):
    """Warnings about values that are in order each."""
    strange = raw.types == 0
    if strange.any():
        yield f"objects of type unset or other are left out (GPUDrive makes agents of them): {_ids(raw.ids[strange])}"
    candidates = _candidates(raw, config)
    if candidates > AGENTS:
        yield f"{candidates} objects could be agents: only the first {AGENTS} are"
    if not raw.metadata[:, 0].any():
        yield "no object is the self-driving car"
    if config.init_mode == "womd_tracks_to_predict" and not raw.metadata[:, 2].any():
        yield "there are no tracks to predict"


def _candidates(raw, config):
    """How many objects the rules let become agents, were there slots."""
    may_be = raw.types != 0
    if config.init_mode not in ("all_objects", "womd_tracks_to_predict"):
        may_be &= raw.valid[:, 0] != 0
        if config.remove_non_vehicles:
            may_be &= raw.types == OBJECT_TYPES["vehicle"]
    return int(may_be.sum())


def _ids(ids):
    shown = ", ".join(str(int(i)) for i in np.asarray(ids)[:SHOWN])
    return f"ids {shown}" + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
