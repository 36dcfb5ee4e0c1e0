"""Scenes that hold no recorded data: road networks built with roadgen, traffic simulated here.  Needs roadgen.

A scene is a function of its kind and seed, as long as roadgen and NumPy's generators stay what they are; those of seed 0
are the ones that come with fastvec.
"""
from __future__ import annotations

import json
import math
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path as File

import numpy as np

import fastvec
from fastvec.drive.config import DriveConfig
from fastvec.drive.env import Drive, forget_scenes
from fastvec.drive.generate.geometry import Path
from fastvec.drive.generate.networks import KINDS
from fastvec.drive.generate.traffic import DT, populate
from fastvec.drive.scenes.raw import STEPS

__all__ = ["KINDS", "collisions", "generate", "name_of"]

ATTEMPTS = 20  # at a scene whose log replays without a collision
AWAY = -10000.0  # where logs say that somebody is not there, as in WOMD
SPACING = {"bend": (1.5, 1000), "lane": (2.5, 30), "other": (5.0, 9)}  # metres, most segments of a polyline
POLYLINES = ("lane", "road_line", "road_edge")
SIGN_OFFSET = 2.6  # metres to the right of the lane: vehicles collide with stop signs


def name_of(kind, seed):
    """The scene's name, and that of its file without the suffix."""
    return f"gen_{kind}_s{seed}"


def generate(kind, seed, vehicles=None):
    """A scene in GPUDrive's format, to be written as JSON: 91 steps that replay without collisions.

    Args:
        kind: one of `KINDS`.
        seed: a whole number of at least 0.
        vehicles: how many vehicles to put on the road, as far as there is room; None: what suits the kind.

    Raises:
        RuntimeError: a scene without collisions was not found.
    """
    for attempt in range(ATTEMPTS):
        entropy = [zlib.crc32(kind.encode()), seed, *([attempt] if attempt else [])]
        scene = _scene(np.random.default_rng(entropy), kind, seed, vehicles)
        if not collisions(scene):
            return scene
    raise RuntimeError(f"{name_of(kind, seed)}: none of {ATTEMPTS} attempts was free of collisions")


def collisions(scene):
    """How many times agents collide, or do not reach their goals, when a scene's log is replayed in `Drive`.

    Everybody who may be is driven, by state dynamics along the log, pedestrians and cyclists too; the others replay it.
    """
    config = DriveConfig(dynamics_model="state", action_type="continuous", collision_behavior="ignore", remove_non_vehicles=False)
    with tempfile.TemporaryDirectory() as folder:
        file = File(folder) / "scene.json"
        file.write_text(json.dumps(scene))
        drive = Drive(file, 1, config, auto_reset=False)
        try:
            return _replay(drive)
        finally:
            forget_scenes()


def _replay(drive):
    driven = np.flatnonzero(drive.raw(0, ("controlled_state",))["controlled_state"])
    actions = drive.get_expert_actions()[0][0, driven]
    with fastvec.make(lambda: drive, 0) as vec:
        vec.reset()
        bad = 0
        for t in range(STEPS):
            vec.step(actions[:, t])
            info = drive.raw(0, ("info",))["info"]
            bad += int((info[:, :3] != 0).sum())
    return bad + int((info[driven, 3] == 0).sum())


def _scene(rng, kind, seed, vehicles):
    net, traffic = KINDS[kind](rng)
    if vehicles is not None:
        traffic = replace(traffic, vehicles=vehicles)
    net.map.validate()
    elements = json.loads(net.map.to_gpudrive_json(name="x", scenario_id="x", steps=STEPS, time_step=DT))["roads"]
    lanes = _driven_lanes(net, elements)
    followers = {i: [k for k in net.map.successors(i) if k in lanes] for i in lanes}
    agents = populate(rng, net, lanes, followers, traffic)
    moving = [i for i, agent in enumerate(agents) if agent.kind == "vehicle" and not agent.parked]
    experts = _interrupt(rng, agents, moving)

    order = rng.permutation(len(agents))
    ids = rng.choice(np.arange(1, 1000), len(agents), replace=False)
    origin = np.round(rng.uniform(-4000, 4000, 2), 3)
    objects = [_object(agents[i], int(ids[n]), int(i) in experts, origin) for n, i in enumerate(order)]
    candidates = [n for n, i in enumerate(order) if i in moving and objects[n]["valid"][0]]
    chosen = [int(n) for n in rng.permutation(candidates)[:5]]
    return {
        "name": name_of(kind, seed), "scenario_id": "%s%04d" % (kind[:12], seed), "objects": objects,
        "roads": _roads(net, elements, lanes, origin), "tl_states": {},
        "metadata": {
            "sdc_track_index": chosen[0], "objects_of_interest": [int(ids[n]) for n in chosen[3:5]],
            "tracks_to_predict": [{"track_index": n, "difficulty": k % 3} for k, n in enumerate(chosen[:3])],
        },
    }


def _driven_lanes(net, elements):
    """{id: centre line} of the lanes that roadgen exports as such, which leaves parking lanes out."""
    begins = {_rounded(r["geometry"][0]["x"], r["geometry"][0]["y"]) for r in elements if r["type"] == "lane"}
    return {i: points for i, points in net.lanes().items() if _rounded(*points[0]) in begins}


def _rounded(x, y):
    return tuple(np.round([x, y], 3).tolist())


def _interrupt(rng, agents, moving):
    """Two vehicles appear late, one leaves early; returns which two are to be replayed (experts)."""
    for i in rng.choice(moving, 2, replace=False):
        agents[i].valid[:rng.integers(5, 30)] = False
    gone = int(rng.choice(moving))
    agents[gone].valid[rng.integers(50, 80):] = False
    return {int(i) for i in rng.choice(moving, 2, replace=False)}


def _object(agent, number, expert, origin):
    xy = agent.xy + origin
    velocity = np.gradient(xy, DT, axis=0)
    yaw = (agent.yaw + math.pi) % (2 * math.pi) - math.pi
    return {
        "position": [_point(p, there) for p, there in zip(xy, agent.valid)],
        "width": round(agent.size[1], 3), "length": round(agent.size[0], 3), "height": round(agent.size[2], 3),
        "heading": [round(float(h), 5) if there else AWAY for h, there in zip(yaw, agent.valid)],
        "velocity": [_point(v, there) for v, there in zip(velocity, agent.valid)],
        "valid": [bool(there) for there in agent.valid],
        "goalPosition": _point(xy[np.flatnonzero(agent.valid)[-1]]),
        "type": agent.kind, "id": number, "mark_as_expert": expert,
    }


def _point(p, there=True):
    return {"x": round(float(p[0]), 4), "y": round(float(p[1]), 4)} if there else {"x": AWAY, "y": AWAY}


def _roads(net, elements, lanes, origin):
    """Roads as the file lists them, polylines resampled."""
    found = [(r["type"], r["map_element_id"], np.array([[p["x"], p["y"]] for p in r["geometry"]])) for r in elements] + net.extra
    roads = []
    for kind, code, points in found:
        if kind == "stop_sign":
            points = _roadside(points[0], lanes.values())[None]
        for piece in _pieces(kind, points) if kind in POLYLINES else [points]:
            geometry = [_point(p) for p in piece + origin]
            roads.append({"geometry": geometry, "type": kind, "id": len(roads) + 1, "map_element_id": int(code)})
    return roads


def _pieces(kind, points):
    """A polyline as one or several with points at equal distances.

    GPUDrive's reader thins polylines of ten segments and more: straight kerbs and lines stay below that.
    """
    path = Path(points)
    bend = np.ptp(path.heading(np.linspace(0, path.length, 16))) > 0.05
    spacing, most = SPACING["bend" if bend else "lane" if kind == "lane" else "other"]
    points = path.resampled(spacing)
    return [points[k:k + most + 1] for k in range(0, len(points) - 1, most)]


def _roadside(point, lanes):
    """Where a sign stands that roadgen puts on a lane's centre line: to the right of that lane."""
    path = min(map(Path, lanes), key=lambda path: np.hypot(*(path.at(path.nearest(point)) - point)))
    heading = path.heading(np.array([path.nearest(point)]))[0]
    return point + SIGN_OFFSET * np.array([math.sin(heading), -math.cos(heading)])
