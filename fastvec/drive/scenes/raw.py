"""What a scene file says, as arrays, whatever its format."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 91
MOST_OBJECTS, MOST_ROADS = 515, 956  # of a scene; GPUDrive reads no more
OBJECT_TYPES = {"vehicle": 7, "pedestrian": 8, "cyclist": 9, "unset": 0, "other": 0}
ROAD_TYPES = {"road_edge": 1, "road_line": 2, "lane": 3, "crosswalk": 4, "speed_bump": 5, "stop_sign": 6}
FEWEST_POINTS = {"crosswalk": 4, "speed_bump": 4, "stop_sign": 1}
FARTHEST = 1e7  # metres: float32 resolves no metre beyond
SMALLEST, LARGEST = 1e-3, 1e3  # metres of an object


class SceneError(ValueError):
    """A scene that cannot be used; says which file, and where in it."""


@dataclass(frozen=True)
class RawScene:
    """A scene: n objects of 91 logged points each, r roads of p points in all.

    Objects come in the order in which they become agents: the self-driving car, the tracks to predict, the objects of
    interest, the rest, each in file order.  Arrays may be read-only views of a file.
    """

    position: np.ndarray  # float32 (n, 91, 2), metres
    velocity: np.ndarray  # float32 (n, 91, 2), m/s
    heading: np.ndarray  # float32 (n, 91), radians
    valid: np.ndarray  # uint8 (n, 91)
    sizes: np.ndarray  # float32 (n, 3): length, width, height in metres
    goals: np.ndarray  # float32 (n, 2)
    types: np.ndarray  # int32 (n,): 7 vehicle, 8 pedestrian, 9 cyclist, 0 anything else, which becomes no agent
    ids: np.ndarray  # int64 (n,)
    experts: np.ndarray  # uint8 (n,): marked to replay their log
    metadata: np.ndarray  # int32 (n, 4): is the self-driving car, of interest, to be predicted; difficulty
    points: np.ndarray  # float32 (p, 2)
    road_starts: np.ndarray  # int64 (r + 1,): road k has points[road_starts[k]:road_starts[k + 1]]
    road_types: np.ndarray  # int32 (r,): 1..6 as in GPUDrive's entity types, 0 where a road makes no segments
    road_ids: np.ndarray  # int64 (r,)
    road_map_types: np.ndarray  # int64 (r,): -1 where unknown
    mean: np.ndarray  # float32 (2,): of all valid positions and road points of the file, also of those left out here
    name: str
    scenario_id: str


OBJECT_ARRAYS = {  # of a `RawScene`: dtype, shape of an object's entry
    "position": (np.float32, (STEPS, 2)), "velocity": (np.float32, (STEPS, 2)), "heading": (np.float32, (STEPS,)), "valid": (np.uint8, (STEPS,)),
    "sizes": (np.float32, (3,)), "goals": (np.float32, (2,)), "types": (np.int32, ()), "ids": (np.int64, ()), "experts": (np.uint8, ()),
    "metadata": (np.int32, (4,)),
}
ROAD_ARRAYS = {"road_types": np.int32, "road_ids": np.int64, "road_map_types": np.int64}


def layout(objects, roads, points):
    """{field: (dtype, shape)} of a `RawScene`'s arrays, given their numbers."""
    return {
        **{name: (dtype, (objects, *shape)) for name, (dtype, shape) in OBJECT_ARRAYS.items()},
        **{name: (dtype, (roads,)) for name, dtype in ROAD_ARRAYS.items()},
        "road_starts": (np.int64, (roads + 1,)), "points": (np.float32, (points, 2)), "mean": (np.float32, (2,)),
    }


def flaw(raw):
    """What is wrong with the values of a `RawScene`, in words; None if nothing is.  Shapes are taken to be right."""
    if not len(raw.types):
        return "there is no object"
    for name in ("position", "velocity", "heading", "goals", "points", "mean"):
        if not _within(getattr(raw, name), -FARTHEST, FARTHEST):
            return f"{name} holds NaN, or a number beyond {FARTHEST:g}"
    if not _within(raw.sizes, -FARTHEST, FARTHEST) or not _within(raw.sizes[:, :2], np.float32(SMALLEST), LARGEST):
        return f"sizes holds NaN, or a length or width below {SMALLEST:g} or above {LARGEST:g}"
    if not np.isin(raw.types, list(OBJECT_TYPES.values())).all():
        return "types holds an unknown one"
    if not _within(raw.road_types, 0, max(ROAD_TYPES.values())):
        return "road_types holds an unknown one"
    if not _within(raw.valid, 0, 1) or not _within(raw.experts, 0, 1):
        return "valid or experts holds something else than 0 and 1"
    starts, fewest = raw.road_starts, np.zeros(len(ROAD_TYPES) + 1, np.int64)
    for kind, points in FEWEST_POINTS.items():
        fewest[ROAD_TYPES[kind]] = points
    if starts[0] != 0 or starts[-1] != len(raw.points) or not _within(starts, 0, len(raw.points)) or (np.diff(starts) < fewest[raw.road_types]).any():
        return "road_starts does not divide the points into roads"
    return None


def _within(array, low, high):
    return not array.size or bool(low <= array.min() and array.max() <= high)  # false where there is a NaN
