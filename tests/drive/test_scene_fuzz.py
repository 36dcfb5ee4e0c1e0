"""Broken scenes of all sorts: each is refused with an error that names it, or makes a world that steps.

FASTVEC_FUZZ=N runs N examples of each test instead of a few; with a debug build (`make debug`), so that reads and writes
outside of arrays show.
"""
import copy
import faulthandler
import functools
import gzip
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from abi import ERROR, Driver
from fastvec.drive import Drive, DriveConfig, SceneError
from fastvec.drive.env import forget_scenes
from fastvec.drive.scenes import compact, find, pack, read
from hostile import with_checksums

EXAMPLES = int(os.environ.get("FASTVEC_FUZZ", 0))
STUCK = 300  # seconds: nothing here takes that long
RECORDED = Path(os.environ.get("FASTVEC_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "gpudrive" / "scenes"
SCENES = find("shipped") + (find(RECORDED) if RECORDED.is_dir() else [])

STRANGE = [
    None, True, False, "", "1", "vehicle", "road_edge", [], {}, [[]], [1], {"x": 1.0}, {"x": 1.0, "y": 2.0}, 0, -1, 1, 4, 64, 515, 2**31, 2**63, -2**63,
    10**400, 0.0, -0.0, 1e-300, 1e-45, 1e-3, 0.5, 1e7, -1e7, 9e6, 1e8, 1e38, 1e39, 1e300, math.nan, math.inf, -math.inf,
]
CONFIGS = st.builds(
    DriveConfig,
    init_mode=st.sampled_from(["all_non_trivial", "all_valid", "all_objects", "womd_tracks_to_predict"]),
    dynamics_model=st.sampled_from(["classic", "bicycle", "delta_local"]),
    collision_behavior=st.sampled_from(["ignore", "stop", "remove"]),
    road_obs_algorithm=st.sampled_from(["linear", "k_nearest_roadpoints"]),
    reward_type=st.sampled_from(["sparse_on_goal_achieved", "distance_to_logs"]),
    polyline_reduction_threshold=st.sampled_from([0.0, 0.1, 1e30]),
    obs_radius=st.sampled_from([1.0, 50.0, 1e6]),
    remove_non_vehicles=st.booleans(), init_steps=st.sampled_from([0, 10]),
)


def fuzz(examples, **kwargs):
    """A few examples, the same ones every time; or as many as FASTVEC_FUZZ says, new ones.  What fails lies in the folder."""
    def decorate(test):
        limits = settings(max_examples=EXAMPLES or examples, derandomize=not EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
                          suppress_health_check=list(HealthCheck))
        return limits(given(**kwargs)(test))
    return decorate


@pytest.fixture(scope="module", autouse=True)
def watchdog():
    """Ends a loop without end; nothing is measured."""
    # sys.stderr may be pytest's own, which is no file
    faulthandler.dump_traceback_later(STUCK if not EXAMPLES else STUCK + EXAMPLES, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@functools.lru_cache(maxsize=None)
def parsed(which):
    """A scene as parsed JSON; to be copied."""
    data = Path(SCENES[which]).read_bytes()
    return json.loads(gzip.decompress(data) if SCENES[which].endswith(".gz") else data)


def survives(scenes, config, named):
    """Refused with the name of `named`, or steps with finite observations.  Returns whether it steps."""
    try:
        env = Drive(scenes, 1, config)
    except SceneError as error:
        assert str(error).startswith(str(named)) and len(str(error)) > len(str(named)) + 5
        return False
    finally:
        forget_scenes()
    driver = Driver(env)
    assert driver.reset(0) != ERROR
    for action in (0, env.action_space.high, env.action_space.high // 2, 7):
        assert np.isfinite(driver.observations).all()
        assert driver.step(np.full(env.num_agents, action)) != ERROR, driver.error()
        assert np.isfinite(driver.rewards).all() and set(driver.masks) <= {0, 1}
    raw = env.raw(0)
    assert all(np.isfinite(array).all() for name, array in raw.items() if name not in ("absolute_self_observation", "map_name", "scenario_id"))
    return True


def write(folder, scene):
    file = folder / "scene.json"
    file.write_text(scene if isinstance(scene, str) else json.dumps(scene))
    return file


# ---- JSON ------------------------------------------------------------------------------------------------------------

VALUES = st.recursive(st.sampled_from(STRANGE) | st.floats() | st.integers() | st.text(max_size=3),
                      lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["x", "y", "type", "id", "geometry"]), inner, max_size=4),
                      max_leaves=12)
OBJECTS = st.fixed_dictionaries({}, optional={
    **{key: VALUES | st.just([{"x": 1.0, "y": 2.0}] * 91) for key in ("position", "velocity")},
    **{key: VALUES | st.just([1.0] * 91) for key in ("heading", "valid")},
    **{key: VALUES | st.just(2.0) for key in ("length", "width", "height", "id")},
    "type": VALUES | st.just("vehicle"), "goalPosition": VALUES | st.just({"x": 9.0, "y": 9.0}), "mark_as_expert": VALUES,
})
ROADS = st.fixed_dictionaries({}, optional={
    "geometry": VALUES | st.lists(st.fixed_dictionaries({"x": st.floats(-50, 50), "y": st.floats(-50, 50)}), max_size=12),
    "type": VALUES | st.sampled_from(["road_edge", "road_line", "lane", "crosswalk", "speed_bump", "stop_sign"]), "id": VALUES, "map_element_id": VALUES,
})
DOCUMENTS = VALUES | st.fixed_dictionaries({}, optional={
    "objects": VALUES | st.lists(OBJECTS, max_size=4), "roads": VALUES | st.lists(ROADS, max_size=4),
    "metadata": VALUES | st.fixed_dictionaries({}, optional={key: VALUES for key in ("sdc_track_index", "tracks_to_predict", "objects_of_interest")}),
    "name": VALUES, "scenario_id": VALUES,
})


@fuzz(150, scene=DOCUMENTS)
def test_anything_in_json(folder, scene):
    file = write(folder, scene)
    survives(file, DriveConfig(), file)


@fuzz(60, data=st.binary(max_size=200), zipped=st.booleans())
def test_any_bytes(folder, data, zipped):
    for name in ("a.json", "a.json.gz", "a.scenes"):
        (folder / name).write_bytes(gzip.compress(data) if zipped else data)
        with pytest.raises(SceneError, match=name):
            Drive(folder / name, 1)


def places(draw, scene):
    """A container somewhere in a scene, and a key of it; up to the leaves."""
    container, key = scene, draw(st.sampled_from(["objects", "roads", "metadata"]))
    while isinstance(container[key], (dict, list)) and container[key] and draw(st.integers(0, 9)):
        container = container[key]
        key = draw(st.sampled_from(sorted(container)) if isinstance(container, dict) else st.integers(0, len(container) - 1))
    return container, key


def mutate(draw, scene):
    """One small change somewhere."""
    container, key = places(draw, scene)
    value = container[key]
    change = draw(st.sampled_from(["replace", "replace", "delete", "repeat", "cut", "fill", "scale"]))
    if change == "replace":
        container[key] = draw(st.sampled_from(STRANGE))
    elif change == "delete":
        del container[key]
    elif change == "repeat" and isinstance(value, list):
        container[key] = value * draw(st.sampled_from([2, 30]))
    elif change == "cut" and isinstance(value, list):
        container[key] = value[:draw(st.integers(0, 12))]
    elif change == "fill" and isinstance(value, list) and value:  # the same thing many times
        container[key] = value[:1] * draw(st.sampled_from([len(value), 91, 3000]))
    elif change == "scale":
        scale(value, draw(st.sampled_from([0.0, -1.0, 1e-6, 100.0, 1e4])))


def scale(value, factor):
    """Multiplies all numbers in it."""
    for key in (value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()):
        if isinstance(value[key], float):
            value[key] *= factor
        else:
            scale(value[key], factor)


@fuzz(150, data=st.data(), config=CONFIGS, which=st.integers(0, len(SCENES) - 1), changes=st.integers(1, 5))
def test_mutated_scenes(folder, data, config, which, changes):
    scene = copy.copy(parsed(which))
    for key in ("objects", "roads"):  # of a long file a part will do
        scene[key] = parsed(which)[key][:data.draw(st.sampled_from([4, 40]))]
    scene = copy.deepcopy(scene)
    for _ in range(changes):
        if all(scene.get(key) for key in ("objects", "roads", "metadata")):
            mutate(data.draw, scene)
    file = write(folder, scene)
    survives(file, config, file)


FAR = st.floats(-1e7, 1e7) | st.sampled_from([0.0, 1e7, -1e7, 1e-30])


@fuzz(100, data=st.data(), config=CONFIGS)
def test_extreme_scenes(folder, data, config):
    """In range, all of it, but such as no road was ever."""
    draw = data.draw
    scene = copy.deepcopy({key: parsed(5)[key][:12] if isinstance(parsed(5)[key], list) else parsed(5)[key] for key in ("objects", "roads", "metadata")})
    for o in scene["objects"]:
        if draw(st.booleans()):
            far = [{"x": draw(FAR), "y": draw(FAR)} for _ in range(3)]
            o.update(position=[far[k % 3] for k in range(91)], velocity=[far[(k + 1) % 3] for k in range(91)], goalPosition=far[draw(st.integers(0, 2))],
                     heading=[draw(FAR)] * 91, length=draw(st.floats(1e-3, 1e3)), width=draw(st.floats(1e-3, 1e3)), height=draw(FAR),
                     valid=[draw(st.booleans()), draw(st.booleans())] + [True] * 89, id=draw(st.integers(-2**53, 2**53)))
    for road in scene["roads"]:
        if draw(st.booleans()):
            few = [{"x": draw(FAR), "y": draw(FAR)} for _ in range(draw(st.integers(1, 5)))]
            road.update(geometry=few * draw(st.sampled_from([4, 200, 1000])), id=draw(st.integers(-2**53, 2**53)),
                        type=draw(st.sampled_from(["road_edge", "road_line", "lane", "crosswalk", "speed_bump", "stop_sign", "driveway"])))
    file = write(folder, scene)
    survives(file, config, file)


@fuzz(40, data=st.data())
def test_mutated_text(folder, data):
    """Bytes of the JSON itself."""
    scene = copy.deepcopy({**parsed(5), "objects": parsed(5)["objects"][:2], "roads": parsed(5)["roads"][:3]})
    text = bytearray(json.dumps(scene).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at:at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    file = folder / "scene.json"
    file.write_bytes(text)
    survives(file, DriveConfig(), file)


# ---- packed files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def packed(folder):
    """The bytes of a file of three small scenes."""
    pack([SCENES[3], SCENES[4], SCENES[5]], folder / "whole.scenes")
    return (folder / "whole.scenes").read_bytes()


def interesting(packed):
    """Where the header, the heads of scenes, and the index lie; the rest is arrays."""
    _, _, _, count, index, *_ = compact._HEADER.unpack_from(packed)
    offsets = np.frombuffer(packed, compact._INDEX, count, index)["offset"].tolist()
    return [range(0, 56), *(range(o, o + 40) for o in offsets), range(index, len(packed)), range(len(packed))]


@fuzz(200, data=st.data(), config=CONFIGS, summed=st.booleans())
def test_mutated_packed_files(folder, packed, data, config, summed):
    draw, changed = data.draw, bytearray(packed)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.sampled_from(interesting(packed)))
        at = draw(st.integers(place.start, place.stop - 1))
        if draw(st.booleans()):
            changed[at] ^= 1 << draw(st.integers(0, 7))
        else:
            at = at // 8 * 8
            changed[at:at + 8] = draw(st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\0\0\0\0\0\0\xf8\x7f", b"\0\0\x80\x7f" * 2, (2**31).to_bytes(8, "little"),
                                                       (2**62).to_bytes(8, "little"), len(packed).to_bytes(8, "little")]))[:len(changed) - at]
    del changed[draw(st.just(len(changed)) | st.integers(0, len(changed))):]
    if summed and len(changed) >= compact._HEADER.size:
        with_checksums(changed)
    file = folder / "changed.scenes"
    file.unlink(missing_ok=True)  # another one, so that mappings of the old one stay as they are
    file.write_bytes(changed)
    survives(file, config, file)


def test_most_mutations_are_no_trivial_ones(folder, packed):
    """What is not changed steps: the tests above do not just see refusals."""
    assert survives(write(folder, parsed(5)), DriveConfig(), folder / "scene.json")
    (folder / "same.scenes").write_bytes(packed)
    assert survives(folder / "same.scenes", DriveConfig(), folder)
    assert read(find(folder / "same.scenes")[0]).name == "gen_parking_s0"
