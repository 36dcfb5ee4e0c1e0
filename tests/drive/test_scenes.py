"""Scene files: where they are looked for, and what is said about broken ones."""
import copy
import gzip
import json
import math

import numpy as np
import pytest

from fastvec.drive import Drive, DriveConfig, SceneError
from fastvec.drive.scenes import SHIPPED, find, read
from fastvec_c.drive.scene import Scene

NAMES = ["grid", "highway", "junction", "parking", "roundabout", "two_lane"]


@pytest.fixture(scope="module")
def junction():
    return json.loads(gzip.decompress((SHIPPED / "gen_junction_s0.json.gz").read_bytes()))


@pytest.fixture
def write(tmp_path, junction):
    """Writes the junction after a change to it; returns the file."""
    def write(change, name="scene.json"):
        scene = copy.deepcopy(junction)
        change(scene)
        (tmp_path / name).write_text(json.dumps(scene))
        return tmp_path / name
    return write


def test_shipped_scenes_are_found_by_name():
    assert find("shipped") == [str(SHIPPED / f"gen_{name}_s0.json.gz") for name in NAMES]


def test_file_folder_and_list(write, tmp_path):
    b, a = write(lambda scene: None, "b.json"), write(lambda scene: None, "a.json")
    (tmp_path / "notes.txt").write_text("no scene")
    assert find(b) == [str(b)]
    assert find(tmp_path) == [str(a), str(b)]
    assert find([b, tmp_path]) == [str(b), str(a), str(b)]
    assert find(["shipped", b]) == [*find("shipped"), str(b)]


def test_plain_and_compressed_files_are_the_same_scene(write):
    plain = read(write(lambda scene: None))
    packed = read(SHIPPED / "gen_junction_s0.json.gz")
    for name in plain.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(plain, name), getattr(packed, name))


@pytest.mark.parametrize("scenes, said", [("nowhere.json", "nowhere.json: no such file"), ([], "empty list")])
def test_nothing_to_find(scenes, said):
    with pytest.raises(SceneError, match=said):
        find(scenes)


def test_folder_without_scenes(tmp_path):
    with pytest.raises(SceneError, match=r"holds no \.json"):
        find(tmp_path)


@pytest.mark.parametrize("name, content, said", [
    ("a.json", b"", "is empty"),
    ("a.json", b" \n", "is empty"),
    ("a.json", b'{"objects": [', "not JSON, or cut short"),
    ("a.json", b"\xff\xfe\x00", "not JSON, or cut short"),
    ("a.json", b"[1, 2]", "the file is .* expected an object with the key 'objects'"),
    ("a.json.gz", b"plainly not gzip", "cannot be read"),
    ("a.json.gz", gzip.compress(b'{"objects": []}')[:-12], "cannot be read"),
])
def test_broken_file(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SceneError, match=said) as error:
        Drive(tmp_path / name, 1)
    assert str(tmp_path / name) in str(error.value)


def put(*path, value=None, drop=False):
    """A change to a scene: sets, or drops, what is at `path`."""
    def change(scene):
        for key in path[:-1]:
            scene = scene[key]
        if drop:
            del scene[path[-1]]
        else:
            scene[path[-1]] = value
    return change


@pytest.mark.parametrize("change, said", [
    *[(put(key, drop=True), f"{key} is missing") for key in ("objects", "roads", "metadata")],
    *[(put("objects", 3, key, drop=True), rf"objects\[3\].{key} is missing")
      for key in ("position", "velocity", "heading", "valid", "length", "width", "height", "id", "type", "goalPosition")],
    *[(put("roads", 2, key, drop=True), rf"roads\[2\].{key} is missing") for key in ("geometry", "type")],
    *[(put("metadata", key, drop=True), rf"metadata.{key} is missing") for key in ("sdc_track_index", "tracks_to_predict", "objects_of_interest")],
    (put("objects", value=[]), "objects is empty"),
    (put("objects", value=7), "objects is 7: expected a list"),
    (put("objects", 3, value=None), r"objects\[3\] is None"),
    (put("objects", 3, "heading", value=[0.0] * 90), r"objects\[3\].heading has 90 entries: expected 91"),
    (put("objects", 3, "position", value=[]), r"objects\[3\].position has 0 entries: expected 91"),
    (put("objects", 3, "heading", 5, value=math.nan), r"objects\[3\].heading\[5\] is NaN"),
    (put("objects", 3, "heading", 5, value="left"), r"objects\[3\].heading\[5\] is 'left': expected a number"),
    (put("objects", 3, "heading", 5, value="1.0"), r"objects\[3\].heading\[5\] is '1.0': expected a number"),
    (put("objects", 3, "heading", 5, value=10**400), r"objects\[3\].heading\[5\] is beyond that"),
    (put("objects", 3, "heading", value=[[0.0]] * 91), r"objects\[3\].heading\[0\] is of type list"),
    (put("objects", 3, "position", 5, "x", value=math.inf), r"objects\[3\].position\[5\].x is inf"),
    (put("objects", 3, "position", 5, "y", drop=True), r"objects\[3\].position\[5\].y is missing"),
    (put("objects", 3, "position", 5, value=4), r"objects\[3\].position\[5\] is 4"),
    (put("objects", 3, "length", value=-1.0), r"objects\[3\] has length -1"),
    (put("objects", 3, "width", value=1e6), r"objects\[3\] has length .* and width 1e\+06: both must be at least 0.001 and at most 1000"),
    (put("objects", 3, "position", 5, "x", value=1e9), r"objects\[3\].position\[5\].x is 1000000000.0: expected a number of at most 1e\+07"),
    (put("objects", 3, "width", value=math.nan), r"objects\[3\].width is NaN"),
    (put("objects", 3, "type", value="boat"), r"objects\[3\].type is 'boat': expected one of vehicle"),
    (put("roads", 2, "geometry", 0, "x", value=math.nan), r"roads\[2\].geometry\[0\].x is NaN"),
    (put("objects", 3, "id", value=1.5), r"objects\[3\].id is 1.5: expected a whole number"),
    (put("objects", 3, "id", value=2**60), r"objects\[3\].id is 1152921504606846976: expected a whole number of at most"),
    (put("objects", 3, "mark_as_expert", value="yes"), r"objects\[3\].mark_as_expert is 'yes': expected true or false"),
    (put("roads", 2, "map_element_id", value="edge"), r"roads\[2\].map_element_id is 'edge': expected a whole number"),
    (put("metadata", "sdc_track_index", value="first"), "metadata.sdc_track_index is 'first': expected a whole number"),
    (put("metadata", "objects_of_interest", value=[[1]]), r"metadata.objects_of_interest\[0\] is of type list: expected a whole number"),
    (put("metadata", "tracks_to_predict", value=[3]), r"metadata.tracks_to_predict\[0\] is 3: expected an object"),
    (put("metadata", "tracks_to_predict", 0, "difficulty", value=2**40), r"metadata.tracks_to_predict\[0\].difficulty is 1099511627776"),
    (put("metadata", "tracks_to_predict", 0, "track_index", drop=True), r"metadata.tracks_to_predict\[0\].track_index is missing"),
])
def test_bad_value_is_named(write, change, said):
    file = write(change)
    with pytest.raises(SceneError, match=said) as error:
        Drive(file, 1)
    assert str(error.value).startswith(str(file))


def test_crosswalk_with_three_points(write, junction):
    index = [road["type"] for road in junction["roads"]].index("crosswalk")
    with pytest.raises(SceneError, match=rf"roads\[{index}\].geometry has 3 points: a crosswalk needs 4"):
        Drive(write(put("roads", index, "geometry", 3, drop=True)), 1)


def test_scene_without_anybody_to_control(write):
    def experts(scene):
        for o in scene["objects"]:
            o["mark_as_expert"] = True
    file = write(experts)
    with pytest.raises(SceneError, match="no agent to control") as error:
        Drive(file, 1)
    assert str(file) in str(error.value)


def test_rewritten_file_is_read_again(write):
    def fewer(scene):
        scene["objects"][7]["mark_as_expert"] = True
    before = Drive(write(lambda scene: None), 1).num_agents
    assert Drive(write(fewer), 1).num_agents == before - 1


def test_more_objects_than_slots(write):
    def crowd(scene):
        scene["objects"] = [dict(o, id=k) for k, o in enumerate((scene["objects"] * 4)[:100])]
    world = Drive(write(crowd), 1).raw(0)
    assert world["shape"][0] == 64


def test_more_segments_than_slots(write, junction):
    edge = next(road for road in junction["roads"] if road["type"] == "road_edge")
    zigzag = dict(edge, geometry=[{"x": 2857.0 + k % 50, "y": 50.0 + (k % 2) * 9} for k in range(1700)])
    world = Drive(write(put("roads", value=[zigzag] * 7 + junction["roads"])), 1)
    raw = world.raw(0)
    assert raw["shape"][1] == 10_000
    assert (raw["map_observation"][:, 7] == float(edge["id"])).all()


# ---- GPUDrive's limits -----------------------------------------------------------------------------------------------


def test_polylines_keep_1746_points(write, junction):
    edge = next(road for road in junction["roads"] if road["type"] == "road_edge")
    zigzag = dict(edge, geometry=[{"x": 2857.0 + k % 50, "y": 50.0 + (k % 2) * 9} for k in range(2000)])
    raw = Drive(write(put("roads", value=[zigzag, dict(edge, id=9999)])), 1).raw(0)
    assert (raw["map_observation"][:, 7] == float(edge["id"])).sum() == 1745


def test_956_roads_and_the_mean_of_all(write, junction):
    sign = dict(next(road for road in junction["roads"] if road["type"] == "stop_sign"))
    far = dict(sign, geometry=[{"x": 9000.0, "y": 50.0}])
    warnings = []
    near_only = read(write(put("roads", value=[sign] * 1000), "near.json"))
    raw = read(write(put("roads", value=[sign] * 956 + [far] * 44)), warnings.append)
    assert len(raw.road_types) == len(raw.points) == 956
    assert raw.mean[0] != near_only.mean[0]
    assert warnings == ["roads has 1000 entries: only the first 956 are used"]


def test_515_objects_in_order_and_the_mean_of_all(write):
    def crowd(scene):
        objects = [dict(scene["objects"][0], id=k) for k in range(600)]
        objects[599]["position"] = [{"x": 5000.0, "y": 0.0}] * 91
        scene["objects"] = objects
        scene["metadata"] = dict(sdc_track_index=550, tracks_to_predict=[{"track_index": 540}, {"track_index": 530}], objects_of_interest=[560, 30])

    def without_the_last(scene):
        crowd(scene)
        scene["objects"].pop()

    warnings = []
    raw = read(write(crowd), warnings.append)
    assert raw.ids.tolist() == [550, 530, 540, 30, 560] + [k for k in range(511) if k != 30]
    assert raw.metadata[:5].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert raw.mean[0] != read(write(without_the_last, "fewer.json")).mean[0]
    assert warnings == ["objects has 600 entries: only 515 are used"]


def test_later_objects_of_the_same_id_are_left_out(write, junction):
    """But not tracks, which indices name."""
    metadata = dict(sdc_track_index=5, tracks_to_predict=[dict(track_index=7, difficulty=2)], objects_of_interest=[100])
    ids = {5: 100, 7: 100, 1: 100, 2: 200, 3: 200}

    def change(scene):
        scene["metadata"] = metadata
        for k, o in enumerate(scene["objects"]):
            o["id"] = ids.get(k, 1000 + k)

    warnings = []
    raw = read(write(change), warnings.append)
    assert raw.ids[:5].tolist() == [100, 100, 1000, 200, 1004]
    assert len(raw.ids) == len(junction["objects"]) - 2
    assert raw.metadata[:3].tolist() == [[1, 1, 0, 0], [0, 1, 1, 2], [0, 0, 0, 0]]
    assert warnings == ["objects[1].id is 100, as of another object: left out", "objects[3].id is 200, as of another object: left out"]


@pytest.mark.parametrize("index", [-1, 29, 10**15])
def test_tracks_that_do_not_exist_are_ignored(write, index):
    warnings = []
    change = put("metadata", value=dict(sdc_track_index=index, tracks_to_predict=[dict(track_index=index), dict(track_index=3)], objects_of_interest=[]))
    raw = read(write(change), warnings.append)
    assert not raw.metadata[:, 0].any() and raw.metadata[:, 2].tolist() == [1] + [0] * 28
    assert len(warnings) == 2 and all(f"is {index}, but there are 29 objects: ignored" in warning for warning in warnings)


@pytest.mark.parametrize("given, taken", [(-1, -1), (0, 0), (3, 3), (4, -1), (20, 20), (21, -1), (-2, -1), (None, -1)])
def test_map_types(write, given, taken):
    assert read(write(put("roads", 2, "map_element_id", value=given, drop=given is None))).road_map_types[2] == taken


def test_road_without_id(write):
    assert read(write(put("roads", 2, "id", drop=True))).road_ids[2] == 0


def test_objects_of_other_types_become_no_agents(write, junction):
    """GPUDrive's release build makes agents of type 0 out of them."""
    def change(scene):
        scene["objects"][3]["type"], scene["objects"][4]["type"] = "unset", "other"
    raw = Drive(write(change), 1, DriveConfig(init_mode="all_objects")).raw(0)
    assert raw["shape"][0] == len(junction["objects"]) - 2


def test_values_beyond_the_used_ones_are_checked_too(write, junction):
    change = put("roads", value=junction["roads"] * 14 + [dict(junction["roads"][0], geometry=[{"x": "far", "y": 0}])])
    with pytest.raises(SceneError, match=r"roads\[1078\].geometry\[0\].x is 'far'"):
        read(write(change))


def test_nesting_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(SceneError, match="deep.json: not JSON"):
        read(tmp_path / "deep.json")


# ---- beyond measure --------------------------------------------------------------------------------------------------


def test_roads_beyond_measure(write, junction):
    edge = next(road for road in junction["roads"] if road["type"] == "road_edge")
    huge = dict(edge, geometry=[{"x": (-1) ** k * 1e6, "y": (-1) ** k * 1e6 + k} for k in range(10_000)])
    with pytest.raises(SceneError, match="too many and too long") as error:
        Drive(write(put("roads", value=[huge])), 1, DriveConfig(polyline_reduction_threshold=0.0))
    assert "scene.json" in str(error.value)


def test_no_roads_at_all(write):
    raw = Drive(write(put("roads", value=[])), 1).raw(0)
    assert raw["shape"].tolist() == [20, 0]
    assert (raw["agent_roadmap"][..., 7] == -1).all()


@pytest.mark.parametrize("radius, algorithm", [(7.0, "linear"), (50.0, "linear"), (300.0, "linear"), (20.0, "k_nearest_roadpoints")])
def test_grid_finds_what_a_full_scan_finds(radius, algorithm):
    """Every row's roads against a scan of all segments, along random drives that also leave the map."""
    from abi import Driver
    env = Drive("shipped", 6, DriveConfig(obs_radius=radius, road_obs_algorithm=algorithm), auto_reset=False)
    driver, rng = Driver(env), np.random.default_rng(5)
    driver.reset(0)
    compared = 0
    for t in range(60):
        driver.step(rng.integers(0, 91, env.num_agents) if t % 5 == 0 else driver.actions)
        if t % 20:
            continue
        row = 0
        for w in range(6):
            raw = env.raw(w, ("controlled_state", "agent_roadmap"))
            for i in np.flatnonzero(raw["controlled_state"]):
                theirs = raw["agent_roadmap"][i]
                ours = driver.observations[row, 384:].reshape(200, 13)
                np.testing.assert_array_equal(ours[:, 6:].argmax(1), theirs[:, 6])
                np.testing.assert_allclose(ours[:, 0], theirs[:, 0] / 1000, atol=1e-5)
                np.testing.assert_allclose(ours[:, 1], theirs[:, 1] / 1000, atol=1e-5)
                np.testing.assert_allclose(ours[:, 2], theirs[:, 2] / 100, atol=1e-6)
                compared += (theirs[:, 6] > 0).sum()
                row += 1
    assert compared > 1000


def test_scene_keeps_its_map_read_only():
    file = find("shipped")[0]
    scene = Scene(file, read(file), DriveConfig())
    with pytest.raises(ValueError, match="read-only"):
        scene.map_observation[0, 0] = 1
