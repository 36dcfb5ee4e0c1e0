"""Road networks, built with roadgen, and what traffic there is to be on them."""
from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import roadgen

DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))


@dataclass(frozen=True)
class Traffic:
    """How many there are to be of each kind, and how they move.

    Attributes:
        speed: m/s, lowest and highest that vehicles aim at.
        lateral: m/s^2 in bends.
        parked: x, y, heading of parking spots, each taken with the probability `parked_share`.
        stop_chance: probability that a vehicle stops on its way.
    """

    speed: tuple
    vehicles: int
    pedestrians: int
    cyclists: int
    lateral: float
    parked: tuple = ()
    parked_share: float = 0.0
    stop_chance: float = 0.12


class Net:
    """A roadgen map, and what roadgen has no notion of: kerbs round corners, speed bumps, driveways, footpaths.

    Attributes:
        extra: [(type, map element id, points), ...] to be added to the map's roads.
        walks: [(from, to), ...], straight footpaths.
    """

    def __init__(self, name):
        self.map = roadgen.Map(name=name, sampling=1.0)
        self.extra, self.walks = [], []

    def road(self, name, a, b, lanes=None):
        return self.map.add_road(lanes or two_way(), start=(*map(float, a), 0.0), end=(*map(float, b), 0.0), name=name)

    def edge(self, points, kind="road_edge", code=15):
        self.extra.append((kind, code, np.asarray(points, float)))

    def walk(self, a, b):
        self.walks.append((np.asarray(a, float), np.asarray(b, float)))

    def lanes(self):
        """{lane's id: centre line, (n, 2)}."""
        return {i: np.asarray(self.map.lane_centerline(i))[:, :2] for i in self.map.lane_ids()}


def lane(width=3.5, direction="forward", left="solid", right="solid", color="white", type_="driving"):
    return roadgen.Lane(width=width, direction=direction, left_marking=left, right_marking=right, marking_color=color, type_=type_)


def two_way(width=3.5):
    return [lane(width, direction, left="broken", color="yellow") for direction in ("forward", "backward")]


# ---- junctions -------------------------------------------------------------------------------------------------------


def crossing(net, centre, arms, arm=14.0, half=3.5, stop=True):
    """Joins the roads {direction: (road, end)} that meet at one point, with kerbs round the corners and stop signs."""
    junction = net.map.add_junction("j_%d_%d" % tuple(round(v) for v in centre))
    for (road, end), (other, other_end) in itertools.combinations(arms.values(), 2):
        net.map.connect(road, other, junction=junction, ends=(end, other_end))
    ring = [d for d in DIRECTIONS if d in arms]
    for a, b in zip(ring, ring[1:] + ring[:1]):
        if a[0] * b[0] + a[1] * b[1] == 0:
            _corner_kerb(net, centre, a, b, arm, half)
        elif len(ring) == 3:  # the closed side of a T
            aside = half * np.array([-a[1], a[0]])
            net.edge([np.asarray(centre) + arm * np.asarray(d) + aside for d in (a, b)])
    if stop:
        for road, end in arms.values():
            net.map.add_traffic_sign(road.lanes()[1 if end == "start" else 0], "stop", end=end, setback=0.5)


def _corner_kerb(net, centre, a, b, arm, half):
    """The kerb between two neighbouring arms, whose directions are a and b."""
    a, b, centre = np.asarray(a, float), np.asarray(b, float), np.asarray(centre, float)
    middle, radius = centre + arm * (a + b), arm - half
    t = np.linspace(0, math.pi / 2, 13)[:, None]
    net.edge(middle - radius * (np.cos(t) * b + np.sin(t) * a))


# ---- the kinds of networks: functions of a random generator to (Net, Traffic) ----------------------------------------


def junction(rng):
    """Four arms that meet at stop signs, with crosswalks and footpaths."""
    net, arms, length = Net("junction"), {}, float(rng.uniform(95, 125))
    for d in DIRECTIONS:
        road = net.road("arm_%d_%d" % d, np.multiply(d, 14.0), np.multiply(d, length))
        arms[d] = road, "start"
        net.map.add_crosswalk(road, fraction=5.0 / (length - 14), width=3.5)
        aside = np.array([-d[1], d[0]])
        for side in (-1, 1):
            net.walk(np.multiply(d, 19.0) + aside * 6.5 * side, np.multiply(d, 19.0) - aside * 6.5 * side)
            net.walk(np.multiply(d, 24.0) + aside * 5.5 * side, np.multiply(d, 60.0) + aside * 5.5 * side)
    crossing(net, (0.0, 0.0), arms)
    net.edge([(40, 3.6), (46, 3.6), (46, 12), (40, 12)], "driveway", 20)
    return net, Traffic(speed=(4, 12), vehicles=22, pedestrians=4, cyclists=3, lateral=2.2)


def roundabout(rng):
    """A one-way ring met by four two-way arms."""
    net, radius, gap, length = Net("roundabout"), float(rng.uniform(20, 24)), 0.38, 105.0
    ring, arms = [], []
    for k in range(4):
        begin = k * math.pi / 2 + gap
        alignment = roadgen.Alignment(start=(radius * math.cos(begin), radius * math.sin(begin), 0.0), heading=begin + math.pi / 2)
        alignment.arc(radius * (math.pi / 2 - 2 * gap), 1.0 / radius)
        ring.append(net.map.add_road([lane(5.0)], alignment=alignment, name="ring_%d" % k, form="roundabout"))
    for k in range(4):
        d = np.array([round(math.cos(k * math.pi / 2)), round(math.sin(k * math.pi / 2))])
        arms.append(net.road("arm_%d" % k, d * (radius + 14), d * length))
    for k in range(4):
        joint = net.map.add_junction("rb_%d" % k)
        before, after = ring[k - 1].lanes()[0], ring[k].lanes()[0]
        outward, inward = arms[k].lanes()
        for a, b in ((before, after), (before, outward), (inward, after)):
            net.map.connect_lanes(a, b, junction=joint)
    t = np.linspace(0, 2 * math.pi, 73)
    net.edge(np.stack([(radius - 5.5) * np.cos(t), (radius - 5.5) * np.sin(t)], -1), code=16)
    return net, Traffic(speed=(4, 10), vehicles=20, pedestrians=0, cyclists=0, lateral=2.0)


def highway(rng):
    """A three-lane carriageway joined by a curved on-ramp; the fourth lane ends after the merge."""
    net = Net("highway")

    def lanes(n):
        return [lane(3.7, left="solid" if i == 0 else "broken", right="solid" if i == n - 1 else "broken", color="yellow" if i == 0 else "white")
                for i in range(n)]

    before = net.road("before", (0, 0), (180, 0), lanes(3))
    merge = net.road("merge", (200, 0), (360, 0), lanes(4))
    after = net.road("after", (420, 0), (620, 0), lanes(3))
    alignment = roadgen.Alignment(start=(20.0, -62.0, 0.0), heading=float(rng.uniform(0.45, 0.55)))
    turn = alignment.heading / 80.0
    alignment.line(30.0)
    alignment.spiral(40.0, curvature_end=-turn)
    alignment.arc(50.0, curvature=-turn)
    ramp = net.map.add_road([lane(3.7)], alignment=alignment, name="ramp", form="slip_road")
    on, off = net.map.add_junction("on"), net.map.add_junction("off")
    for i in range(3):
        net.map.connect_lanes(before.lane(i), merge.lane(i), junction=on)
        net.map.connect_lanes(merge.lane(i), after.lane(i), junction=off)
    net.map.connect_lanes(ramp.lane(0), merge.lane(3), junction=on)
    net.map.connect_lanes(merge.lane(3), after.lane(2), junction=off)
    net.edge([(180, 0), (200, 0)])
    net.edge([(360, 0), (420, 0)])
    net.edge([(360, -14.8), (380, -14.6), (400, -12.2), (420, -11.1)])
    return net, Traffic(speed=(15, 28), vehicles=30, pedestrians=0, cyclists=0, lateral=3.0)


def two_lane(rng):
    """One straight country road."""
    net = Net("two_lane")
    net.road("road", (0, 0), (float(rng.uniform(420, 480)), 0))
    return net, Traffic(speed=(6, 17), vehicles=18, pedestrians=0, cyclists=0, lateral=2.5, stop_chance=0.2)


def grid(rng):
    """Three by three junctions of city blocks."""
    n, gap, arm, net = 3, float(rng.uniform(80, 95)), 12.0, Net("grid")
    roads = {}
    for x, y in itertools.product(range(-1, n + 1), repeat=2):
        for dx, dy in ((1, 0), (0, 1)):
            a, b = (x, y), (x + dx, y + dy)
            inside = [0 <= p[0] < n and 0 <= p[1] < n for p in (a, b)]
            if any(inside):
                begin = np.multiply(a, gap) + (arm if inside[0] else gap / 2) * np.array([dx, dy])
                end = np.multiply(b, gap) - (arm if inside[1] else gap / 2) * np.array([dx, dy])
                roads[a, b] = net.road("r_%d_%d_%s" % (x + 1, y + 1, "e" if dx else "n"), begin, end)
    for x, y in itertools.product(range(n), repeat=2):
        arms = {}
        for d in DIRECTIONS:
            there = x + d[0], y + d[1]
            arms[d] = (roads[(x, y), there], "start") if ((x, y), there) in roads else (roads[there, (x, y)], "end")
        crossing(net, (x * gap, y * gap), arms, arm=arm, stop=(x + y) % 2 == 0)
    return net, Traffic(speed=(4, 13), vehicles=40, pedestrians=0, cyclists=0, lateral=2.2)


def parking(rng):
    """Two narrow aisles lined with parked cars, joined by cross aisles: slow traffic, speed bumps, people on foot."""
    net, length, gap, arm = Net("parking"), 84.0, 34.0, 9.0

    def aisle():
        return [lane(3.0, "forward", left="none"), lane(2.6, "forward", type_="parking"),
                lane(3.0, "backward", left="none"), lane(2.6, "backward", type_="parking")]

    roads = {}
    for k in (0, 1):
        y = k * gap
        roads["aisle", k] = net.road("aisle_%d" % k, (arm, y), (length - arm, y), aisle())
        roads["in", k] = net.road("in_%d" % k, (-40, y), (-arm, y), two_way(3.0))
        roads["out", k] = net.road("out_%d" % k, (length + arm, y), (length + 40, y), two_way(3.0))
        roads["cross", k] = net.road("cross_%d" % k, (k * length, arm), (k * length, gap - arm), two_way(3.0))
    for k in (0, 1):
        y, (across, end) = k * gap, (((0, 1), "start"), ((0, -1), "end"))[k]
        crossing(net, (0, y), {(1, 0): (roads["aisle", k], "start"), (-1, 0): (roads["in", k], "end"), across: (roads["cross", 0], end)},
                 arm=arm, half=3.0, stop=k == 0)
        crossing(net, (length, y), {(1, 0): (roads["out", k], "start"), (-1, 0): (roads["aisle", k], "end"), across: (roads["cross", 1], end)},
                 arm=arm, half=3.0, stop=False)
        net.edge([(30, y - 2.8), (30, y + 2.8), (30.6, y + 2.8), (30.6, y - 2.8)], "speed_bump", 19)
        net.walk((20, y + 6.4), (60, y + 6.4))
        net.walk((44, y - 7.0), (44, y + 7.0))
        net.walk((60, y - 6.4), (25, y - 6.4))
    spots = tuple((x, k * gap + side * 4.3, 0.0 if side < 0 else math.pi) for k in (0, 1) for side in (-1, 1)
                  for x in np.arange(16, length - 14, 7.0) if abs(x - 44) > 4)
    return net, Traffic(speed=(2, 6), vehicles=12, pedestrians=5, cyclists=2, lateral=1.5, parked=spots, parked_share=0.6)


KINDS = {f.__name__: f for f in (junction, roundabout, highway, two_lane, grid, parking)}
