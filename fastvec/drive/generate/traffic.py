"""Who moves how on a network: vehicles and cyclists along lanes, pedestrians along footpaths, clear of each other."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastvec.drive.generate.geometry import Path, boxes_overlap, corners
from fastvec.drive.scenes.raw import STEPS

DT = 0.1  # seconds
SIZES = {  # metres, ranges of length, width, height
    "vehicle": ((4.2, 5.6), (1.8, 2.1), (1.4, 2.0)), "cyclist": ((1.7, 1.9), (0.6, 0.8), (1.6, 1.8)), "pedestrian": ((0.6, 0.9), (0.6, 0.9), (1.6, 1.9)),
}
CYCLIST = {"offset": 0.9, "speed": (3.0, 6.0)}  # metres right of the lane's centre, m/s
ATTEMPTS = 4000  # at placing those of one kind


@dataclass
class Agent:
    """One road user: kind, (91, 2) positions, (91,) headings, (length, width, height), (91,) is it there."""

    kind: str
    xy: np.ndarray
    yaw: np.ndarray
    size: list
    valid: np.ndarray
    parked: bool = False


class Placer:
    """Takes agents as long as they stay clear of those before them.

    Attributes:
        agents: who was taken.
    """

    def __init__(self):
        self.agents, self._boxes = [], []

    def place(self, kind, xy, yaw, size, margin, parked=False):
        """Takes one, unless its box, longer by `margin` at both ends and wider by half of it, meets another's.  Returns if so."""
        box = corners(xy, yaw, size[0] + 2 * margin, size[1] + margin)
        if any(boxes_overlap(box, other).any() for other in self._boxes):
            return False
        self._boxes.append(corners(xy, yaw, size[0], size[1]))
        self.agents.append(Agent(kind, xy, yaw, size, np.ones(STEPS, bool), parked))
        return True


def populate(rng, net, lanes, followers, traffic):
    """The agents on a network.

    Args:
        rng: a NumPy generator.
        net: a `Net`.
        lanes: {id: centre line} of lanes that are driven on.
        followers: {id: ids of the lanes that go on from there}.
        traffic: a `Traffic`.
    """
    weights = np.array([Path(points).length for points in lanes.values()])
    weights = weights / weights.sum()
    placer = Placer()
    for x, y, heading in traffic.parked:
        if rng.random() < traffic.parked_share:
            xy = np.tile([x, y] + rng.normal(0, 0.08, 2), (STEPS, 1))
            placer.place("vehicle", xy, np.full(STEPS, heading + rng.normal(0, 0.03)), _size(rng, "vehicle"), 0.0, parked=True)
    for kind, count, margin in (("vehicle", traffic.vehicles, 0.6), ("cyclist", traffic.cyclists, 0.3), ("pedestrian", traffic.pedestrians, 0.2)):
        placed = 0
        for _ in range(ATTEMPTS):
            if placed == count:
                break
            size = _size(rng, kind)
            if kind == "pedestrian":
                course = _walk(rng, net)
            else:
                course = _drive(rng, lanes, followers, traffic, weights, **(CYCLIST if kind == "cyclist" else {}))
            if course is not None and np.hypot(*(course[0][-1] - course[0][0])) > 3.0:
                placed += placer.place(kind, *course, size, margin)
    return placer.agents


def _size(rng, kind):
    return [float(rng.uniform(*bounds)) for bounds in SIZES[kind]]


def _drive(rng, lanes, followers, traffic, weights, offset=0.0, speed=None):
    """Positions and headings of a drive along lanes; None if it ends too early."""
    ids = list(lanes)
    current = ids[rng.choice(len(ids), p=weights)]
    chain, total = [current], Path(lanes[current]).length
    start = float(rng.uniform(3.0, max(3.5, total - 3.0)))
    low, high = speed or traffic.speed
    while total < start + high * STEPS * DT + 8.0 and followers[current]:
        current = followers[current][rng.integers(len(followers[current]))]
        chain.append(current)
        total += Path(lanes[current]).length
    path = Path(np.concatenate([lanes[c] for c in chain]))
    s = _progress(rng, path, start, low, high, traffic)
    if s[-1] > path.length - 3.0 or s[-1] - s[0] < 6.0:
        return None
    xy, yaw = path.at(s), path.heading(s)
    if offset:
        xy = xy + offset * np.stack([np.sin(yaw), -np.cos(yaw)], -1)
    return xy, yaw


def _progress(rng, path, start, low, high, traffic):
    """Arc lengths (91,) of one drive: a speed to aim at that changes, bounded acceleration, slower in bends, sometimes a stop."""
    changes, targets = np.sort(rng.uniform(0, STEPS * DT, 2)), rng.uniform(low, high, 3)
    if rng.random() < traffic.stop_chance:
        targets[rng.integers(3)] = 0.0
    along = np.linspace(0, path.length, max(2, int(path.length)))
    curvature = np.abs(np.gradient(path.heading(along, 1.5), along))
    fastest = np.sqrt(traffic.lateral / np.maximum(curvature, 1e-4))
    for i in range(len(fastest) - 2, -1, -1):  # brakes ahead of a bend
        fastest[i] = min(fastest[i], math.sqrt(fastest[i + 1] ** 2 + 2 * 2.5 * (along[i + 1] - along[i])))
    s, v = start, min(targets[0], float(np.interp(start, along, fastest)))
    progress = [s]
    for k in range(1, STEPS):
        target = min(targets[int((changes < k * DT).sum())], float(np.interp(s, along, fastest)))
        faster = max(0.0, v + float(np.clip(target - v, -3.5 * DT, 2.0 * DT)))
        s += (v + faster) / 2 * DT
        v = faster
        progress.append(s)
    return np.array(progress)


def _walk(rng, net):
    """Positions and headings along a footpath, to its end or not."""
    a, b = net.walks[rng.integers(len(net.walks))]
    distance = np.hypot(*(b - a))
    speed = rng.uniform(0.9, 1.7)
    s = np.clip(rng.uniform(0, max(0.1, distance - 4.0)) + speed * DT * np.arange(STEPS), 0, distance)
    xy = a + (b - a) / distance * s[:, None] + rng.normal(0, 0.3, 2)
    return xy, np.full(STEPS, math.atan2(*(b - a)[::-1]))
