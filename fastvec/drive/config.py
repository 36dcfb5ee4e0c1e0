"""What a driving world may be told: the fields of GPUDrive's EnvConfig, with its names, defaults and values."""
from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

import numpy as np

AGENTS, ROAD_SEGMENTS, ROADS, LIDAR_SAMPLES, STEPS, AGENT_SCALE = 64, 10_000, 200, 50, 91, 0.7  # compiled in
PRESETS = {  # of reward_conditioned: share of the way from zero to the bound that is named
    "cautious": ((0.9, "lb"), (0.7, "ub"), (0.9, "lb")),
    "aggressive": ((0.5, "lb"), (0.9, "ub"), (0.6, "lb")),
    "balanced": ((0.5, "both"), (0.5, "both"), (0.5, "both")),
    "risk_taker": ((0.3, "lb"), (1.0, "ub"), (0.4, "lb")),
}
WEIGHTS = ("collision_weight", "goal_achieved_weight", "off_road_weight")

_CHOICES = {
    "dynamics_model": ("classic", "bicycle", "delta_local", "state"),
    "action_type": ("discrete", "continuous"),
    "collision_behavior": ("ignore", "stop", "remove"),
    "road_obs_algorithm": ("linear", "k_nearest_roadpoints"),
    "init_mode": ("all_non_trivial", "all_valid", "all_objects", "womd_tracks_to_predict"),
    "reward_type": ("sparse_on_goal_achieved", "weighted_combination", "distance_to_logs", "reward_conditioned"),
    "condition_mode": ("random", "fixed", "preset"),
    "observation": ("float32", "packed"),
}
_ANY = (-math.inf, math.inf)
_RANGES = {  # inclusive
    "obs_radius": (1.0, 1e6),
    "polyline_reduction_threshold": (0.0, math.inf),
    "dist_to_goal_threshold": (0.0, math.inf),
    **{f"{weight}{bound}": _ANY for weight in WEIGHTS for bound in ("", "_lb", "_ub")},
    "max_controlled_agents": (1, AGENTS),
    "num_worlds": (1, 2**31 - 1),
    "episode_len": (1, STEPS),
    "init_steps": (0, STEPS - 1),
    "vbd_trajectory_weight": _ANY,
}
_COMPILED_IN = {
    "max_num_agents_in_scene": AGENTS, "max_num_rg_points": ROAD_SEGMENTS, "roadgraph_top_k": ROADS,
    "num_lidar_samples": LIDAR_SAMPLES, "agent_size_scale": AGENT_SCALE, "use_vbd": False, "vbd_model_path": None, "vbd_in_obs": False,
}
_GRIDS = {
    "classic": ("accel_actions", "steer_actions", "head_tilt_actions"),
    "bicycle": ("accel_actions", "steer_actions", "head_tilt_actions"),
    "delta_local": ("dx", "dy", "dyaw"),
    "state": (),
}


def _steps(low, high, n):
    """n numbers from low to high, to three decimals."""
    return tuple(round(float(v), 3) for v in np.linspace(low, high, n))


@dataclass(frozen=True)
class DriveConfig:
    """Settings of driving worlds; frozen, hashable, checked when made.

    Names, defaults and allowed values are those of GPUDrive's `EnvConfig`, so that its keyword arguments carry over;
    `action_type`, which GPUDrive takes beside its config, `agent_type`, which it looks for there, and `observation` and
    `debug`, which it does not know, are added.

    Args:
        ego_state, partner_obs, road_map_obs: is the part in the observation: 6 floats on the agent, 63 x 6 on its
            partners, 200 x 13 on roads.
        bev_obs: append the bird's-eye grid: 200 x 200 entity types, row by row, agent in the middle.
        lidar_obs: append 3 x 50 x 4 floats, the beams that look for agents, road edges and road lines: depth, type, x, y.
        disable_classic_obs: leave the ego, partner and road parts out, whatever their own fields say.
        norm_obs: normalise the classic parts; False: metres, m/s and radians.
        max_controlled_agents: of one world, at most 64.
        num_worlds: worlds of an env, where `creator` and `Drive` are given no number.
        collision_weight, goal_achieved_weight, off_road_weight: of the "weighted_combination" and "distance_to_logs"
            rewards.  GPUDriveTorchEnv itself does not read them, but pays -0.5, 1.0, -0.5 unless it is told otherwise.
        road_obs_algorithm: the first 200 road segments in file order ("linear") or the nearest 200
            ("k_nearest_roadpoints"; in file order, where GPUDrive has heap order) within the radius.
        obs_radius: metres an agent sees.
        polyline_reduction_threshold: area (m^2) of a triangle of road points below which its middle one is dropped.
        dynamics_model: "classic" (kinematic bicycle), "bicycle" (invertible), "delta_local" or "state".
        steer_actions, accel_actions, head_tilt_actions: values of the discrete actions of classic and bicycle dynamics:
            the index runs over accelerations (m/s^2), within these over steering (radians), within these over the
            tilt of the head (radians, turns the lidar only).
        dx, dy, dyaw: likewise of delta_local (metres, metres, radians).
        x, y, yaw, vx, vy: taken for the sake of EnvConfig; "state" has only continuous actions.
        collision_behavior: what ends with a collision: nothing ("ignore"), the agents' episode ("stop"), or that and
            the presence of parked cars that were hit ("remove").
        remove_non_vehicles: leave pedestrians and cyclists out; says nothing under "all_objects" and
            "womd_tracks_to_predict".
        init_steps: steps of log replay before an episode begins: its actions are those of `Drive.get_expert_actions`,
            which for classic dynamics are zeros.  They count towards episode_len.
        reward_type: "sparse_on_goal_achieved" (1 at the goal); "weighted_combination" (collision_weight x collisions
            with agents + goal_achieved_weight x goal + off_road_weight x collision with a road edge or stop sign);
            "distance_to_logs" (that + 0.01 exp(-metres to the logged position)); "reward_conditioned" (as weighted,
            with weights of each agent, which also follow the ego's part of its observation).
        condition_mode: where conditioned weights come from, at each episode's beginning: "random" (uniform between the
            bounds, from the world's seed), "fixed" (agent_type holds them), "preset" (agent_type names them).
        collision_weight_lb, collision_weight_ub, ...: the bounds.
        agent_type: three numbers, or one of "cautious", "aggressive", "balanced", "risk_taker".
        dist_to_goal_threshold: metres from the goal that count as there.
        max_num_agents_in_scene, max_num_rg_points, roadgraph_top_k, num_lidar_samples, agent_size_scale: compiled in, in
            GPUDrive as here; no other value is taken.
        episode_len: steps of 0.1 s, at most 91.
        init_mode: which objects become agents: valid at the first step, parked ones undriven ("all_non_trivial"), valid
            at the first step ("all_valid"), all ("all_objects"), or all, of which just the tracks to predict are driven
            ("womd_tracks_to_predict").
        use_vbd, vbd_model_path, vbd_trajectory_weight, vbd_in_obs: there is no VBD model here; leave them alone.
        action_type: "discrete" (an index into the grid of actions) or "continuous" (the action's own floats: 3, or
            under "state" 10, see `Drive`).
        observation: "float32", or "packed": see `fastvec.drive.observation`.
        debug: refuse continuous actions that are NaN or infinite.  Otherwise they do what they do in GPUDrive: bicycle
            dynamics take NaN for the upper limit; elsewhere the agent's own state becomes NaN, and nobody sees it again.

    Raises:
        TypeError, ValueError: names the field, its value and what is allowed.
    """

    ego_state: bool = True
    road_map_obs: bool = True
    partner_obs: bool = True
    bev_obs: bool = False
    norm_obs: bool = True
    max_controlled_agents: int = AGENTS
    num_worlds: int = 1
    disable_classic_obs: bool = False
    lidar_obs: bool = False
    collision_weight: float = 0.0
    goal_achieved_weight: float = 1.0
    off_road_weight: float = 0.0
    road_obs_algorithm: str = "linear"
    obs_radius: float = 50.0
    polyline_reduction_threshold: float = 0.1
    dynamics_model: str = "classic"
    steer_actions: tuple = _steps(-math.pi, math.pi, 13)
    accel_actions: tuple = _steps(-4.0, 4.0, 7)
    head_tilt_actions: tuple = (0.0,)
    dx: tuple = _steps(-2.0, 2.0, 20)
    dy: tuple = _steps(-2.0, 2.0, 20)
    dyaw: tuple = _steps(-3.14, 3.14, 20)
    x: tuple = _steps(-100.0, 100.0, 10)
    y: tuple = _steps(-100.0, 100.0, 10)
    yaw: tuple = _steps(-3.14, 3.14, 10)
    vx: tuple = _steps(-10.0, 10.0, 10)
    vy: tuple = _steps(-10.0, 10.0, 10)
    collision_behavior: str = "remove"
    remove_non_vehicles: bool = True
    init_steps: int = 0
    reward_type: str = "sparse_on_goal_achieved"
    condition_mode: str = "random"
    collision_weight_lb: float = -1.0
    collision_weight_ub: float = 0.0
    goal_achieved_weight_lb: float = 1.0
    goal_achieved_weight_ub: float = 2.0
    off_road_weight_lb: float = -1.0
    off_road_weight_ub: float = 0.0
    agent_type: str | tuple | None = None
    dist_to_goal_threshold: float = 2.0
    max_num_agents_in_scene: int = AGENTS
    max_num_rg_points: int = ROAD_SEGMENTS
    roadgraph_top_k: int = ROADS
    episode_len: int = STEPS
    num_lidar_samples: int = LIDAR_SAMPLES
    agent_size_scale: float = AGENT_SCALE
    init_mode: str = "all_non_trivial"
    use_vbd: bool = False
    vbd_model_path: str | None = None
    vbd_trajectory_weight: float = 0.01
    vbd_in_obs: bool = False
    action_type: str = "discrete"
    observation: str = "float32"
    debug: bool = False

    def __post_init__(self):
        for field in fields(self):
            self._check(field, getattr(self, field.name))
        if self.disable_classic_obs:
            for name in ("ego_state", "partner_obs", "road_map_obs"):
                object.__setattr__(self, name, False)
        self._check_together()

    def _check(self, field, value):
        name = field.name
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise ValueError(f"{name} is {value!r}: allowed: {', '.join(map(repr, _CHOICES[name]))}")
        elif name in _COMPILED_IN:
            allowed = _COMPILED_IN[name]
            # GPUDrive has its numbers from the simulator, in single precision.
            if value != allowed and not (isinstance(allowed, float) and value == np.float32(allowed)):
                raise ValueError(f"{name} is {value!r}: allowed: {allowed!r}, which is compiled in")
            object.__setattr__(self, name, allowed)
        elif name == "agent_type":
            object.__setattr__(self, name, _agent_type(value))
        elif field.type == "bool":
            if not isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}: expected True or False")
        elif field.type == "tuple":
            object.__setattr__(self, name, _numbers(name, value))
        else:
            _check_number(name, value, Integral if field.type == "int" else Real)

    def _check_together(self):
        if self.dynamics_model == "state" and self.action_type == "discrete":
            raise ValueError("action_type is 'discrete': dynamics_model='state' has only 'continuous' actions")
        if self.init_steps >= self.episode_len:
            raise ValueError(f"init_steps is {self.init_steps}: expected less than episode_len, which is {self.episode_len}")
        for weight in WEIGHTS:
            low, high = getattr(self, f"{weight}_lb"), getattr(self, f"{weight}_ub")
            if low > high:
                raise ValueError(f"{weight}_lb is {low}: expected at most {weight}_ub, which is {high}")
        if self.reward_type == "reward_conditioned" and self.condition_mode != "random":
            if isinstance(self.agent_type, str) != (self.condition_mode == "preset") or self.agent_type is None:
                needed = f"one of {', '.join(map(repr, PRESETS))}" if self.condition_mode == "preset" else "three numbers"
                raise ValueError(f"agent_type is {self.agent_type!r}: condition_mode={self.condition_mode!r} needs {needed}")
        if self.observation == "packed" and not (self.ego_state and self.partner_obs and self.road_map_obs and self.norm_obs
                                                 and not self.lidar_obs and not self.bev_obs):
            raise ValueError("observation is 'packed': that needs ego_state, partner_obs, road_map_obs and norm_obs, "
                             "and neither lidar_obs nor bev_obs")
        if not self.row_nbytes():
            raise ValueError("nothing is left to observe: set one of ego_state, partner_obs, road_map_obs, lidar_obs, bev_obs")

    # ---- what follows from the fields --------------------------------------------------------------------------------

    def row_parts(self):
        """The parts of an observation row, in order: {name: shape}; their floats follow each other."""
        conditioned = self.reward_type == "reward_conditioned"
        parts = {"ego": (self.ego_state, (9 if conditioned else 6,)), "partners": (self.partner_obs, (AGENTS - 1, 6)),
                 "roads": (self.road_map_obs, (ROADS, 13)), "lidar": (self.lidar_obs, (3, LIDAR_SAMPLES, 4)),
                 "bev": (self.bev_obs, (200, 200))}
        return {name: shape for name, (there, shape) in parts.items() if there}

    def row_nbytes(self):
        """Bytes of an observation row."""
        parts = self.row_parts()
        if self.observation == "packed":  # float16, but for the seven floats of a road's type: a byte
            return 2 * (parts["ego"][0] + math.prod(parts["partners"]) + ROADS * 6) + ROADS
        return 4 * sum(math.prod(shape) for shape in parts.values())

    def action_grid(self):
        """The discrete actions, float32 (n, 3), the last factor running fastest; None under "state" dynamics."""
        return _grid(tuple(getattr(self, name) for name in _GRIDS[self.dynamics_model]))

    def action_floats(self):
        """Floats of a continuous action."""
        return 10 if self.dynamics_model == "state" else 3

    def weights(self):
        """The weights of collisions, goal and leaving the road that all agents share."""
        if self.reward_type != "reward_conditioned" or self.condition_mode == "random":
            return tuple(getattr(self, weight) for weight in WEIGHTS)
        if self.condition_mode == "fixed":
            return self.agent_type
        return tuple(share * self._bound(weight, bound) for weight, (share, bound) in zip(WEIGHTS, PRESETS[self.agent_type]))

    def _bound(self, weight, bound):
        low, high = getattr(self, f"{weight}_lb"), getattr(self, f"{weight}_ub")
        return {"lb": low, "ub": high, "both": low + high}[bound]

    def weight_bounds(self):
        """(lower, upper) bounds of random weights, each of collisions, goal and leaving the road."""
        return tuple(tuple(getattr(self, weight + bound) for weight in WEIGHTS) for bound in ("_lb", "_ub"))


@functools.lru_cache(maxsize=None)
def _grid(axes):
    return np.array(list(itertools.product(*axes)), np.float32) if axes else None


def _agent_type(value):
    if value is None or isinstance(value, str) and value in PRESETS:
        return value
    if isinstance(value, str):
        raise ValueError(f"agent_type is {value!r}: allowed: {', '.join(map(repr, PRESETS))}, or three numbers")
    numbers = _numbers("agent_type", value)
    if len(numbers) != 3:
        raise ValueError(f"agent_type is {value!r}: expected three numbers, for collisions, goal and leaving the road")
    return numbers


def _numbers(name, values):
    """A tuple of finite floats, out of a list, an array or a tensor."""
    try:
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {values!r}: expected a list of numbers") from None
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} is {values!r}: expected at least one number, and finite ones")
    return numbers


def _check_number(name, value, kind):
    low, high = _RANGES[name]
    if isinstance(value, bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is {value!r}: expected {'a whole number' if kind is Integral else 'a number'}")
    if not low <= value <= high or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}: allowed: a finite number in [{low}, {high}]")
