"""What a driving world may be told.  Names, defaults and values are those of GPUDrive's EnvConfig, as far as they go."""
from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

_CHOICES = {
    "dynamics_model": ("classic", "bicycle", "delta_local", "state"),
    "action_type": ("discrete", "continuous"),
    "collision_behavior": ("ignore", "stop", "remove"),
    "road_obs_algorithm": ("linear", "k_nearest_roadpoints"),
    "init_mode": ("all_non_trivial", "all_valid", "all_objects"),
    "reward_type": ("sparse_on_goal_achieved", "weighted_combination"),
}
_NOT_YET = {
    "init_mode": ("womd_tracks_to_predict",),
    "reward_type": ("distance_to_logs", "distance_to_vdb_trajs", "reward_conditioned"),
}
_RANGES = {  # inclusive
    "obs_radius": (1.0, 1e6),
    "polyline_reduction_threshold": (0.0, math.inf),
    "dist_to_goal_threshold": (0.0, math.inf),
    "collision_weight": (-math.inf, math.inf),
    "goal_achieved_weight": (-math.inf, math.inf),
    "off_road_weight": (-math.inf, math.inf),
    "max_controlled_agents": (1, 64),
    "episode_len": (1, 91),
    "init_steps": (0, 0),
}


@dataclass(frozen=True)
class DriveConfig:
    """Settings of a driving world; frozen, hashable, checked when made.

    Args:
        dynamics_model: "classic" (kinematic bicycle), "bicycle" (invertible), "delta_local" or "state".
        action_type: "discrete" (an index into GPUDrive's grid of actions) or "continuous" (the action's own floats);
            "state" has only continuous actions.
        collision_behavior: what ends with a collision: nothing ("ignore"), the agents' episode ("stop"), or that and
            the presence of parked cars that were hit ("remove").
        road_obs_algorithm: the first 200 road segments in file order ("linear") or the nearest 200
            ("k_nearest_roadpoints"; in file order, where GPUDrive has heap order) within the radius.
        init_mode: which objects become agents: valid at the first step, parked ones undriven ("all_non_trivial"), valid
            at the first step ("all_valid"), or all ("all_objects").
        remove_non_vehicles: leave pedestrians and cyclists out, unless init_mode is "all_objects".
        obs_radius: metres an agent sees.
        polyline_reduction_threshold: area (m^2) of a triangle of road points below which its middle one is dropped.
        dist_to_goal_threshold: metres from the goal that count as there.
        reward_type: "sparse_on_goal_achieved" (1 at the goal), or "weighted_combination": collision_weight x collisions
            with agents + goal_achieved_weight x goal + off_road_weight x collision with a road edge or stop sign.
        max_controlled_agents: of one world, at most 64.
        episode_len: steps of 0.1 s, at most 91.
        init_steps: not implemented yet: 0.

    Raises:
        TypeError, ValueError: names the field, its value and what is allowed.
    """

    dynamics_model: str = "classic"
    action_type: str = "discrete"
    collision_behavior: str = "ignore"
    road_obs_algorithm: str = "linear"
    init_mode: str = "all_non_trivial"
    remove_non_vehicles: bool = True
    obs_radius: float = 50.0
    polyline_reduction_threshold: float = 0.1
    dist_to_goal_threshold: float = 2.0
    reward_type: str = "sparse_on_goal_achieved"
    collision_weight: float = -0.5
    goal_achieved_weight: float = 1.0
    off_road_weight: float = -0.5
    max_controlled_agents: int = 64
    episode_len: int = 91
    init_steps: int = 0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _CHOICES:
                _check_choice(field.name, value)
            elif field.type == "bool":
                if not isinstance(value, bool):
                    raise TypeError(f"{field.name} is {value!r}: expected True or False")
            else:
                _check_number(field.name, value, Integral if field.type == "int" else Real)
        if self.dynamics_model == "state" and self.action_type == "discrete":
            raise ValueError("action_type is 'discrete': dynamics_model='state' has only 'continuous' actions")


def _check_choice(name, value):
    allowed = _CHOICES[name]
    if value in _NOT_YET.get(name, ()):
        raise ValueError(f"{name} is {value!r}: not implemented yet; allowed: {', '.join(map(repr, allowed))}")
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: allowed: {', '.join(map(repr, allowed))}")


def _check_number(name, value, kind):
    low, high = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}: expected {'a whole number' if kind is Integral else 'a number'}")
    if name == "init_steps" and value > 0:
        raise ValueError(f"init_steps is {value!r}: not implemented yet; allowed: 0")
    if not low <= value <= high or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}: allowed: a finite number in [{low}, {high}]")
