"""Finds scene files and turns their JSON into arrays.  The format is GPUDrive's; see `RawScene` for what is read."""
from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STEPS = 91
SHIPPED = Path(__file__).parent / "scenes"
SUFFIXES = (".json", ".json.gz")
OBJECT_TYPES = {"vehicle": 7, "pedestrian": 8, "cyclist": 9, "unset": 0, "other": 0}
ROAD_TYPES = {"road_edge": 1, "road_line": 2, "lane": 3, "crosswalk": 4, "speed_bump": 5, "stop_sign": 6}
FARTHEST = 1e7  # metres: float32 resolves no metre beyond
LARGEST = 1e3  # metres of an object
FEWEST_POINTS = {"crosswalk": 4, "speed_bump": 4, "stop_sign": 1}


class SceneError(ValueError):
    """A scene that cannot be used; says which file, and where in it."""


@dataclass(frozen=True)
class RawScene:
    """What a scene file says, as arrays: n objects of 91 logged points each, r roads of p points in all."""

    position: np.ndarray  # float32 (n, 91, 2), metres
    velocity: np.ndarray  # float32 (n, 91, 2), m/s
    heading: np.ndarray  # float32 (n, 91), radians
    valid: np.ndarray  # uint8 (n, 91)
    sizes: np.ndarray  # float32 (n, 3): length, width, height in metres
    goals: np.ndarray  # float32 (n, 2)
    types: np.ndarray  # int32 (n,): 7 vehicle, 8 pedestrian, 9 cyclist, 0 anything else
    ids: np.ndarray  # int64 (n,)
    experts: np.ndarray  # bool (n,): marked to replay their log
    metadata: np.ndarray  # int32 (n, 4): is the self-driving car, of interest, to be predicted; difficulty
    name: str
    scenario_id: str
    order: list  # the objects' indices in the order in which they become agents
    points: np.ndarray  # float32 (p, 2)
    road_starts: np.ndarray  # int64 (r + 1,): road k has points[road_starts[k]:road_starts[k + 1]]
    road_types: list  # 1..6 as in GPUDrive's entity types, 0 where a road makes no segments
    road_ids: np.ndarray  # int64 (r,)
    road_map_types: np.ndarray  # int64 (r,)


def find(scenes):
    """The scene files that `scenes` means, as a list of absolute paths.

    Args:
        scenes: "shipped" for the scenes that come with fastvec; a file; a folder, meaning its .json and .json.gz files
            by name; or a list of files and folders.

    Raises:
        SceneError: a path does not exist, or nothing was found.
    """
    if isinstance(scenes, (str, Path)):
        scenes = [SHIPPED if scenes == "shipped" else scenes]
    files = []
    for path in map(Path, scenes):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.endswith(SUFFIXES))
            if not inside:
                raise SceneError(f"{path}: the folder holds no .json or .json.gz file")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise SceneError(f"{path}: no such file or folder; scenes must be 'shipped', a file, a folder or a list of those")
    if not files:
        raise SceneError("scenes is an empty list: name at least one file or folder")
    return [str(p.resolve()) for p in files]


def read(path):
    """The `RawScene` in a .json or .json.gz file.  Raises `SceneError` naming the file and the key."""
    try:
        data = Path(path).read_bytes()
        if str(path).endswith(".gz"):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise SceneError(f"{path}: cannot be read: {error}") from error
    if not data.strip():
        raise SceneError(f"{path}: the file is empty")
    try:
        scene = json.loads(data)
    except ValueError as error:  # also bytes that are not UTF-8
        raise SceneError(f"{path}: not JSON, or cut short: {error}") from error
    return _Reader(path).scene(scene)


class _Reader:
    """Picks values out of the parsed JSON; knows the file's name for its errors."""

    def __init__(self, path):
        self.path = path

    def fail(self, where, problem):
        raise SceneError(f"{self.path}: {where} {problem}")

    def get(self, mapping, key, where="", kind=None):
        name = f"{where}.{key}" if where else key
        if not isinstance(mapping, dict):
            self.fail(where or "the file", f"is {_brief(mapping)}: expected an object with the key {key!r}")
        if key not in mapping:
            self.fail(name, "is missing")
        if kind is not None and not isinstance(mapping[key], kind):
            self.fail(name, f"is {_brief(mapping[key])}: expected {_kind_name(kind)}")
        return mapping[key]

    def numbers(self, values, where, dtype=np.float32):
        """Numbers as an array of `dtype`, with an error for what is no finite number."""
        try:
            array = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            self.fail(where, "holds something that is not a number")
        if not np.isfinite(array.astype(dtype)).all():
            self.fail(where, "holds NaN, infinity or a number too large")
        return array.astype(dtype)

    def number(self, mapping, key, where, dtype=np.float32):
        array = self.numbers(self.get(mapping, key, where), f"{where}.{key}", dtype)
        if array.ndim:
            self.fail(f"{where}.{key}", "is a list: expected a number")
        return array

    def points(self, points, where):
        """[{"x": ..., "y": ...}, ...] as float32 (n, 2)."""
        try:
            pairs = [(p["x"], p["y"]) for p in points]
        except (TypeError, KeyError):
            for k, p in enumerate(points):
                self.get(p, "x", f"{where}[{k}]")
                self.get(p, "y", f"{where}[{k}]")
        array = self.numbers(pairs, where).reshape(-1, 2)
        if (abs(array) > FARTHEST).any():
            self.fail(where, f"holds {abs(array).max():g}: expected at most {FARTHEST:g} either way")
        return array

    def logged(self, mapping, key, where):
        values = self.get(mapping, key, where, list)
        if len(values) != STEPS:
            self.fail(f"{where}.{key}", f"has {len(values)} entries: expected {STEPS}")
        return values

    def scene(self, scene):
        objects, roads = self.get(scene, "objects", kind=list), self.get(scene, "roads", kind=list)
        metadata = self.get(scene, "metadata", kind=dict)
        if not objects:
            self.fail("objects", "is empty: there is no agent to control")
        columns = zip(*(self.object(o, f"objects[{i}]") for i, o in enumerate(objects)))
        position, velocity, heading, valid, sizes, goals, types, ids, experts = map(np.array, columns)
        shapes = [self.road(r, f"roads[{i}]") for i, r in enumerate(roads)]
        points, road_types, road_ids, map_types = map(list, zip(*shapes)) if shapes else ([], [], [], [])
        order = self.order(metadata, ids.tolist())
        return RawScene(
            position=np.ascontiguousarray(position), velocity=np.ascontiguousarray(velocity), heading=heading,
            valid=valid, sizes=sizes, goals=goals, types=types.astype(np.int32), ids=ids, experts=experts,
            metadata=self.flags(metadata, ids.tolist()), order=order,
            name=str(scene.get("name", "")), scenario_id=str(scene.get("scenario_id", "")),
            points=np.concatenate([np.zeros((0, 2), np.float32), *points]),
            road_starts=np.cumsum([0] + [len(p) for p in points]), road_types=np.array(road_types, np.int32),
            road_ids=np.array(road_ids, np.int64), road_map_types=np.array(map_types, np.int64),
        )

    def object(self, o, where):
        kind = self.get(o, "type", where, str)
        if kind not in OBJECT_TYPES:
            self.fail(f"{where}.type", f"is {kind!r}: expected one of {', '.join(OBJECT_TYPES)}")
        sizes = np.array([self.number(o, key, where) for key in ("length", "width", "height")])
        if not (0 < sizes[:2]).all() or not (sizes[:2] <= LARGEST).all():
            self.fail(where, f"has length {sizes[0]} and width {sizes[1]}: both must be positive and at most {LARGEST:g}")
        return (
            self.points(self.logged(o, "position", where), f"{where}.position"),
            self.points(self.logged(o, "velocity", where), f"{where}.velocity"),
            self.one_each(self.logged(o, "heading", where), f"{where}.heading"),
            self.one_each(self.logged(o, "valid", where), f"{where}.valid").astype(np.uint8),
            sizes,
            self.points([self.get(o, "goalPosition", where, dict)], f"{where}.goalPosition")[0],
            OBJECT_TYPES[kind],
            self.number(o, "id", where, np.int64),
            bool(o.get("mark_as_expert", False)),
        )

    def one_each(self, values, where):
        array = self.numbers(values, where)
        if array.ndim != 1:
            self.fail(where, "holds lists: expected one number for each point")
        return array

    def road(self, road, where):
        kind = self.get(road, "type", where, str)
        points = self.points(self.get(road, "geometry", where, list), f"{where}.geometry")
        if len(points) < FEWEST_POINTS.get(kind, 0):
            self.fail(f"{where}.geometry", f"has {len(points)} points: a {kind} needs {FEWEST_POINTS[kind]}")
        return (points, ROAD_TYPES.get(kind, 0), int(self.number(road, "id", where, np.int64)),
                int(self.number(road, "map_element_id", where, np.int64)))

    def flags(self, metadata, ids):
        """Of each object, int32 (n, 4): is the self-driving car, of interest, to be predicted; difficulty."""
        flags = np.zeros((len(ids), 4), np.int32)
        flags[self.get(metadata, "sdc_track_index", "metadata", int), 0] = 1
        flags[:, 1] = np.isin(ids, self.get(metadata, "objects_of_interest", "metadata", list))
        for track in reversed(metadata["tracks_to_predict"]):  # of several entries for one track the first one counts
            flags[track["track_index"], 2:] = 1, track.get("difficulty", 0)
        return flags

    def order(self, metadata, ids):
        """The self-driving car, the tracks to predict, the objects of interest, the rest; each group in file order."""
        car = self.get(metadata, "sdc_track_index", "metadata", int)
        tracks = [self.get(track, "track_index", f"metadata.tracks_to_predict[{k}]", int)
                  for k, track in enumerate(self.get(metadata, "tracks_to_predict", "metadata", list))]
        for index in (car, *tracks):
            if not 0 <= index < len(ids):
                self.fail("metadata", f"names the track {index}, but there are {len(ids)} objects")
        interest = self.get(metadata, "objects_of_interest", "metadata", list)
        return sorted(range(len(ids)), key=lambda i: (i != car, i not in tracks, ids[i] not in interest, i))


def _brief(value):
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _kind_name(kind):
    return {list: "a list", dict: "an object", str: "a text", int: "a whole number"}[kind]
