"""Scenes in GPUDrive's JSON."""
from __future__ import annotations

import json
import os
import zlib

import numpy as np

from fastvec.drive.scenes.raw import (FARTHEST, FEWEST_POINTS, LARGEST, MOST_OBJECTS, MOST_ROADS, OBJECT_ARRAYS, OBJECT_TYPES, ROAD_ARRAYS,
                                      ROAD_TYPES, SMALLEST, STEPS, RawScene, SceneError, layout)
from fastvec_c.drive.numbers import BadValue, brief, fill, fill_points, number
from fastvec_c.drive.scene import mean_position

SUFFIXES = (".json", ".json.gz")
LARGEST_FILE = 1 << 30  # bytes, also when unpacked
_TOO_LARGE = f"it is larger than {LARGEST_FILE >> 20} MiB"
LARGEST_WHOLE = 2**53  # of ids
INT32 = 2**31 - 1
EMPTY_ROADS = ("driveway",)  # make no segments
UNKNOWN_MAP_TYPE, MAP_TYPES = -1, frozenset(range(-1, 21)) - {4}


def read_json(path, warn=None):
    """The `RawScene` in a .json or .json.gz file.

    Args:
        path: the file.
        warn: called with a sentence on everything that is odd but can be used as GPUDrive does.

    Raises:
        SceneError: names the file and the key.
    """
    try:
        data = _bytes(path)
    except (OSError, EOFError, zlib.error) as error:
        raise SceneError(f"{path}: cannot be read: {error}") from error
    if not data.strip():
        raise SceneError(f"{path}: the file is empty")
    try:
        scene = json.loads(data)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise SceneError(f"{path}: not JSON, or cut short: {error}") from error
    del data
    reader = _Reader(path, warn or _ignore)
    try:
        return reader.scene(scene)
    except MemoryError:
        raise SceneError(f"{path}: does not fit into memory") from None


def _bytes(path):
    if os.path.getsize(path) > LARGEST_FILE:
        raise OSError(_TOO_LARGE)
    with open(path, "rb") as file:
        data = file.read()
    return _unzip(data) if str(path).endswith(".gz") else data


def _unzip(data):
    unpacked = b""
    while data:  # a file may consist of several streams
        stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
        unpacked += stream.decompress(data, LARGEST_FILE + 1 - len(unpacked))
        if len(unpacked) > LARGEST_FILE:
            raise OSError(_TOO_LARGE)
        if not stream.eof:
            raise EOFError("the compressed stream is cut short")
        data = stream.unused_data.lstrip(b"\0")  # zeros may follow
    return unpacked


def _ignore(warning):
    pass


class _Reader:
    """Picks values out of the parsed JSON; knows the file's name for its errors."""

    def __init__(self, path, warn):
        self.path, self.warn = path, warn

    def fail(self, where, problem):
        raise SceneError(f"{self.path}: {where} {problem}")

    # ---- single values

    def get(self, mapping, key, where="", kind=None):
        name = f"{where}.{key}" if where else key
        if not isinstance(mapping, dict):
            self.fail(where or "the file", f"is {brief(mapping)}: expected an object with the key {key!r}")
        if key not in mapping:
            self.fail(name, "is missing")
        value = mapping[key]
        if kind is not None and not isinstance(value, kind):
            self.fail(name, f"is {brief(value)}: expected {_KIND_NAMES[kind]}")
        return value

    def number(self, mapping, key, where, largest):
        value = self.get(mapping, key, where)
        try:
            return number(value, largest)
        except BadValue as bad:
            self.fail(f"{where}.{key}", bad.problem)

    def whole(self, value, where, largest=LARGEST_WHOLE):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or not abs(value) <= largest or value != int(value):
            self.fail(where, f"is {brief(value)}: expected a whole number of at most {largest} either way")
        return int(value)

    def flag(self, value, where):
        if not isinstance(value, (bool, int)):
            self.fail(where, f"is {brief(value)}: expected true or false")
        return bool(value)

    # ---- lists

    def numbers(self, fill, mapping, key, where, out):
        """Has `fill` write the list at `key` to `out`."""
        values = self.get(mapping, key, where, list)
        if len(values) != len(out):
            self.fail(f"{where}.{key}", f"has {len(values)} entries: expected {len(out)}")
        try:
            fill(values, out, FARTHEST)
        except BadValue as bad:
            self.fail(f"{where}.{key}{bad.at}", bad.problem)

    # ---- the scene

    def scene(self, scene):
        objects, roads = self.get(scene, "objects", kind=list), self.get(scene, "roads", kind=list)
        metadata = self.get(scene, "metadata", kind=dict)
        if not objects:
            self.fail("objects", "is empty: there is no agent to control")
        starts = np.cumsum([0] + [len(self.get(road, "geometry", f"roads[{k}]", list)) for k, road in enumerate(roads)])
        arrays = {name: np.empty(shape, dtype) for name, (dtype, shape) in layout(len(objects), len(roads), int(starts[-1])).items()}
        arrays["road_starts"][:] = starts
        for i, o in enumerate(objects):
            self.object(o, f"objects[{i}]", arrays, i)
        for k, road in enumerate(roads):
            self.road(road, f"roads[{k}]", arrays, k)
        arrays["mean"][:] = mean_position(arrays["position"], arrays["valid"], arrays["points"])
        order = self.order(metadata, arrays["ids"].tolist(), arrays["metadata"])
        for name in OBJECT_ARRAYS:
            arrays[name] = arrays[name][order]
        if len(roads) > MOST_ROADS:
            self.warn(f"roads has {len(roads)} entries: only the first {MOST_ROADS} are used")
            arrays.update({name: arrays[name][:MOST_ROADS] for name in ROAD_ARRAYS})
            arrays["road_starts"] = arrays["road_starts"][:MOST_ROADS + 1]
            arrays["points"] = arrays["points"][:starts[MOST_ROADS]].copy()
        return RawScene(**arrays, name=_text(scene.get("name", "")), scenario_id=_text(scene.get("scenario_id", "")))

    def object(self, o, where, arrays, i):
        kind = self.get(o, "type", where, str)
        if kind not in OBJECT_TYPES:
            self.fail(f"{where}.type", f"is {brief(kind)}: expected one of {', '.join(OBJECT_TYPES)}")
        for key in ("position", "velocity"):
            self.numbers(fill_points, o, key, where, arrays[key][i])
        self.numbers(fill, o, "heading", where, arrays["heading"][i])
        valid = np.empty(STEPS, np.float32)
        self.numbers(fill, o, "valid", where, valid)
        goal = self.get(o, "goalPosition", where, dict)
        arrays["valid"][i] = valid != 0
        arrays["goals"][i] = [self.number(goal, key, f"{where}.goalPosition", FARTHEST) for key in ("x", "y")]
        arrays["sizes"][i] = length, width, _ = [self.number(o, key, where, FARTHEST) for key in ("length", "width", "height")]
        if not (SMALLEST <= length <= LARGEST and SMALLEST <= width <= LARGEST):
            self.fail(where, f"has length {length:g} and width {width:g}: both must be at least {SMALLEST:g} and at most {LARGEST:g}")
        arrays["types"][i] = OBJECT_TYPES[kind]
        arrays["ids"][i] = self.whole(self.get(o, "id", where), f"{where}.id")
        arrays["experts"][i] = self.flag(o.get("mark_as_expert", False), f"{where}.mark_as_expert")

    def road(self, road, where, arrays, k):
        kind = self.get(road, "type", where, str)
        points = arrays["points"][arrays["road_starts"][k]:arrays["road_starts"][k + 1]]
        if len(points) < FEWEST_POINTS.get(kind, 0):
            self.fail(f"{where}.geometry", f"has {len(points)} points: a {kind} needs {FEWEST_POINTS[kind]}")
        self.numbers(fill_points, road, "geometry", where, points)
        if kind not in ROAD_TYPES and kind not in EMPTY_ROADS:
            self.warn(f"{where}.type is {brief(kind)}, none of {', '.join(ROAD_TYPES)}: the road is ignored")
        map_type = self.whole(road.get("map_element_id", UNKNOWN_MAP_TYPE), f"{where}.map_element_id")
        if map_type not in MAP_TYPES:
            self.warn(f"{where}.map_element_id is {map_type}, which is unknown: taken for {UNKNOWN_MAP_TYPE}")
            map_type = UNKNOWN_MAP_TYPE
        arrays["road_types"][k] = ROAD_TYPES.get(kind, 0)
        arrays["road_ids"][k] = self.whole(road.get("id", 0), f"{where}.id")
        arrays["road_map_types"][k] = map_type

    def order(self, metadata, ids, flags):
        """The objects that are used, as indices, in the order of `RawScene`; writes everyone's metadata to `flags`."""
        car = self.track(metadata, "sdc_track_index", "metadata", len(ids))
        difficulty = {}
        for k, track in enumerate(self.get(metadata, "tracks_to_predict", "metadata", list)):
            where = f"metadata.tracks_to_predict[{k}]"
            index = self.track(track, "track_index", where, len(ids))
            hard = self.whole(track.get("difficulty", 0), f"{where}.difficulty", INT32)
            difficulty.setdefault(index, hard)  # of several entries for one track the first one counts
        interest = {self.whole(number, f"metadata.objects_of_interest[{k}]")
                    for k, number in enumerate(self.get(metadata, "objects_of_interest", "metadata", list))}
        for number in sorted(interest.difference(ids)):
            self.warn(f"metadata.objects_of_interest holds {number}, but no object has this id: ignored")
        flags[:] = [(i == car, number in interest, i in difficulty, difficulty.get(i, 0)) for i, number in enumerate(ids)]
        order = [i for i in (car, *sorted(difficulty.keys() - {None, car})) if i is not None]
        taken = {ids[i] for i in order}
        for wanted in (interest, None):  # the objects of interest, then the rest
            for i, number in enumerate(ids):
                if number not in taken and (wanted is None or number in wanted):
                    taken.add(number)
                    order.append(i)
        for i in sorted(set(range(len(ids))).difference(order)):
            self.warn(f"objects[{i}].id is {ids[i]}, as of another object: left out")
        if len(order) > MOST_OBJECTS:
            self.warn(f"objects has {len(order)} entries: only {MOST_OBJECTS} are used")
        return order[:MOST_OBJECTS]

    def track(self, mapping, key, where, objects):
        """The index of an object; None, with a warning, where there is no such object."""
        index = self.whole(self.get(mapping, key, where), f"{where}.{key}")
        if 0 <= index < objects:
            return index
        self.warn(f"{where}.{key} is {index}, but there are {objects} objects: ignored")
        return None


def _text(value):
    return str(value).encode("utf-8", "replace").decode()  # JSON may hold halves of characters


_KIND_NAMES = {list: "a list", dict: "an object", str: "a text"}
