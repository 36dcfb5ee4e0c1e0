"""One world in the layout of GPUDrive's tensors, computed when asked for; apart from the code that writes rows."""
from __future__ import annotations

import numpy as np

PARTNERS, ROADS = 63, 200
AWAY_Z = np.finfo(np.float32).max


def _wrap(angle):
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _to_frame(s, i, x, y):
    """Positions in the frame of the agent in slot i."""
    dx, dy = x - s["x"][i], y - s["y"][i]
    c, n = np.cos(s["yaw"][i]), np.sin(s["yaw"][i])
    return dx * c + dy * n, dy * c - dx * n


def _self(s):
    dx, dy, c, n = s["goal_x"] - s["x"], s["goal_y"] - s["y"], np.cos(s["yaw"]), np.sin(s["yaw"])
    return np.column_stack([s["speed"], s["length"], s["width"], s["height"], dx * c + dy * n, dy * c - dx * n,
                            s["collided"], s["id"]]).astype(np.float32)


def _absolute(s):
    half, zero = s["yaw"] / 2, np.zeros_like(s["x"])
    z = np.where(s["away"], AWAY_Z, np.float32(1))
    return np.column_stack([s["x"], s["y"], z, np.cos(half), zero, zero, np.sin(half), s["yaw"], s["goal_x"], s["goal_y"],
                            s["length"], s["width"], s["height"], s["id"]]).astype(np.float32)


def _partners(s, i, radius):
    out = np.zeros((PARTNERS, 9), np.float32)
    out[:, 8] = -1
    x, y = _to_frame(s, i, s["x"], s["y"])
    near = [j for j in np.flatnonzero(np.hypot(x, y) <= radius) if j != i]
    out[:len(near)] = np.stack([s["speed"], x, y, _wrap(s["yaw"] - s["yaw"][i]), s["length"], s["width"], s["height"],
                                s["type"], s["id"]], 1)[near]
    return out


def _roads(s, i, roads, radius, nearest):
    out = np.zeros((ROADS, 9), np.float32)
    out[:, 7:] = 0 if nearest else -1
    x, y = _to_frame(s, i, roads[:, 0], roads[:, 1])
    distance = np.hypot(x, y)
    near = np.flatnonzero(distance <= radius)
    if nearest:
        near = np.sort(near[np.argsort(distance[near], kind="stable")[:ROADS]])
    near = near[:ROADS]
    seen = roads[near].copy()
    seen[:, 0], seen[:, 1], seen[:, 5] = x[near], y[near], _wrap(roads[near, 5] - s["yaw"][i])
    out[:len(near)] = seen
    return out


def tensors(worlds, world, config, names=None):
    """See `fastvec.drive.Drive.raw`."""
    s, scene = worlds.state(world), worlds.scene_of(world)
    n, roads, radius = scene.num_agents, scene.map_observation, config.obs_radius
    nearest = config.road_obs_algorithm == "k_nearest_roadpoints"
    make = dict(
        self_observation=lambda: _self(s),
        absolute_self_observation=lambda: _absolute(s),
        partner_observations=lambda: np.stack([_partners(s, i, radius) for i in range(n)]),
        agent_roadmap=lambda: np.stack([_roads(s, i, roads, radius, nearest) for i in range(n)]),
        map_observation=lambda: roads.copy(),
        done=lambda: s["done"].astype(np.int32),
        info=lambda: np.column_stack([s["hit_road"], s["hit_vehicle"], s["hit_other"], s["reached"], s["type"]]).astype(np.int32),
        reward=lambda: s["reward"],
        controlled_state=lambda: s["is_controlled"].astype(np.int32),
        steps_remaining=lambda: np.full(n, config.episode_len - s["step"], np.int32),
        shape=lambda: np.array([n, len(roads)], np.int32),
        world_means=lambda: scene.world_means,
    )
    unknown = set(names or ()) - set(make)
    if unknown:
        raise ValueError(f"names holds {', '.join(map(repr, sorted(unknown)))}: expected some of {', '.join(make)}")
    return {name: make[name]() for name in (make if names is None else names)}
