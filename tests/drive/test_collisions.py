"""Collision rules that the recordings do not show."""
import copy
import gzip
import json

import numpy as np
import pytest

from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import SHIPPED

HIT_ROAD, HIT_VEHICLE = 0, 1


@pytest.fixture(scope="module")
def parking():
    return json.loads(gzip.decompress((SHIPPED / "gen_parking_s0.json.gz").read_bytes()))


def parked(scene):
    """Indices of the cars that stay where they are."""
    near = lambda o: np.hypot(o["goalPosition"]["x"] - o["position"][0]["x"], o["goalPosition"]["y"] - o["position"][0]["y"]) < 0.2
    return [i for i, o in enumerate(scene["objects"]) if o["type"] == "vehicle" and o["valid"][0] and near(o)]


def first_info(tmp_path, scene, **config):
    (tmp_path / "scene.json").write_text(json.dumps(scene))
    raw = Drive(tmp_path / "scene.json", 1, DriveConfig(**config)).raw(0, ["info", "self_observation"])
    return {int(ident): info for ident, info in zip(raw["self_observation"][:, 7], raw["info"])}


@pytest.mark.parametrize("init_mode, hit", [("all_non_trivial", 0), ("all_valid", 1)])
def test_two_parked_cars_in_one_place(tmp_path, parking, init_mode, hit):
    """Static entities never collide with one another; the same cars do where parked cars are not static."""
    scene = copy.deepcopy(parking)
    a, b = (scene["objects"][i] for i in parked(scene)[:2])
    assert first_info(tmp_path, scene, init_mode=init_mode)[b["id"]][HIT_VEHICLE] == 0
    for key in ("position", "goalPosition", "heading"):
        b[key] = a[key]
    info = first_info(tmp_path, scene, init_mode=init_mode)
    assert (info[a["id"]][HIT_VEHICLE], info[b["id"]][HIT_VEHICLE]) == (hit, hit)


@pytest.mark.parametrize("init_mode, hit", [("all_non_trivial", 0), ("all_valid", 1)])
def test_parked_car_on_a_road_edge(tmp_path, parking, init_mode, hit):
    scene = copy.deepcopy(parking)
    car = scene["objects"][parked(scene)[0]]
    x, y = car["position"][0]["x"], car["position"][0]["y"]
    scene["roads"].append(dict(type="road_edge", id=999, map_element_id=15, geometry=[dict(x=x - 9, y=y), dict(x=x + 9, y=y)]))
    assert first_info(tmp_path, scene, init_mode=init_mode)[car["id"]][HIT_ROAD] == hit


@pytest.mark.parametrize("kind, hit", [("vehicle", 1), ("cyclist", 0)])
def test_only_vehicles_touch_road_edges(tmp_path, parking, kind, hit):
    scene = copy.deepcopy(parking)
    car = scene["objects"][parked(scene)[0]]
    x, y = car["position"][0]["x"], car["position"][0]["y"]
    car["type"] = kind
    scene["roads"].append(dict(type="road_edge", id=999, map_element_id=15, geometry=[dict(x=x - 9, y=y), dict(x=x + 9, y=y)]))
    assert first_info(tmp_path, scene, init_mode="all_valid", remove_non_vehicles=False)[car["id"]][HIT_ROAD] == hit


@pytest.mark.parametrize("gap, hit", [(-0.05, 1), (0.05, 0)])
def test_boxes_are_seven_tenths_of_the_size(tmp_path, parking, gap, hit):
    """Two cars side by side, with their shrunken boxes just overlapping or just apart."""
    scene = copy.deepcopy(parking)
    a, b = (scene["objects"][i] for i in parked(scene)[:2])
    side = 0.7 * (a["width"] + b["width"]) / 2 + gap
    yaw = a["heading"][0]
    point = dict(x=a["position"][0]["x"] - side * np.sin(yaw), y=a["position"][0]["y"] + side * np.cos(yaw))
    b["position"], b["goalPosition"], b["heading"] = [point] * 91, point, [yaw] * 91
    assert first_info(tmp_path, scene, init_mode="all_valid")[b["id"]][HIT_VEHICLE] == hit
