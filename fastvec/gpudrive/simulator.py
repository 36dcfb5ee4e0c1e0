"""Building GPUDrive's SimManager, and views on what it exports.

Of its life (each of these was seen on a running CPU build): it hangs in a child of the process that built it; building
and deleting leaks about 28 MB a world, set_maps() does not; deleted right after a step it may deadlock; its exported
tensors stay where they are for its life, and are gone after it.
"""
from __future__ import annotations

import importlib

from fastvec.gpudrive.installation import diagnose
from fastvec_c.gpudrive.rows import SHAPES

COLLISIONS = {"ignore": "Ignore", "stop": "AgentStop", "remove": "AgentRemoved"}
DYNAMICS = {"classic": "Classic", "bicycle": "InvertibleBicycle", "delta_local": "DeltaLocal", "state": "State"}
ROADS = {"linear": "AllEntitiesWithRadiusFiltering", "k_nearest_roadpoints": "KNearestEntitiesWithRadiusFiltering"}

# Simulators that were built here.  One that is deleted may deadlock, and views on it would dangle: they stay until the
# process ends, and worker processes end by _exit.
_kept = []


class SimulatorError(RuntimeError):
    """GPUDrive is not installed, or is not what it should be."""


def build(files, config, fast_observations):
    """A SimManager in CPU mode, one world for each file.

    Args:
        files: list of paths.
        config: a `DriveConfig`.
        fast_observations: leave GPUDrive's own observations out.

    Raises:
        SimulatorError: the module is missing or cannot do this.
    """
    try:
        module = importlib.import_module("madrona_gpudrive")
    except ImportError as error:
        raise SimulatorError(f"GPUDrive's simulator cannot be imported ({error}): {diagnose().advice}") from error
    sim = module.SimManager(exec_mode=module.madrona.ExecMode.CPU, gpu_id=0, scenes=list(files), params=parameters(module, config, fast_observations))
    _kept.append(sim)
    return sim


def parameters(module, config, fast_observations):
    """`madrona_gpudrive.Parameters` for a `DriveConfig`; the same that GPUDrive's Python side sets."""
    params = module.Parameters()
    params.polylineReductionThreshold = config.polyline_reduction_threshold
    params.observationRadius = config.obs_radius
    params.maxNumControlledAgents = config.max_controlled_agents
    params.collisionBehaviour = getattr(module.CollisionBehaviour, COLLISIONS[config.collision_behavior])
    params.dynamicsModel = getattr(module.DynamicsModel, DYNAMICS[config.dynamics_model])
    params.roadObservationAlgorithm = getattr(module.FindRoadObservationsWith, ROADS[config.road_obs_algorithm])
    params.rewardParams = _reward_params(module, config)
    params.enableLidar = config.lidar_obs
    params.disableClassicalObs = fast_observations or not (config.partner_obs or config.road_map_obs or config.bev_obs)
    if config.init_mode == "womd_tracks_to_predict":
        params.readFromTracksToPredict = True
    else:
        params.isStaticAgentControlled = config.init_mode != "all_non_trivial"
        params.initOnlyValidAgentsAtFirstStep = config.init_mode != "all_objects"
        params.IgnoreNonVehicles = config.init_mode != "all_objects" and config.remove_non_vehicles
    return params


def _reward_params(module, config):
    params = module.RewardParams()
    params.rewardType = module.RewardType.OnGoalAchieved
    params.distanceToGoalThreshold = config.dist_to_goal_threshold
    return params


def exported(sim):
    """{name: NumPy view} of the tensors that rows are made of; no copies.  They may be held while the simulator lives.

    Raises:
        SimulatorError: one is missing.
    """
    try:
        return {name: getattr(sim, f"{name}_tensor")().to_torch().numpy() for name in SHAPES}
    except (AttributeError, RuntimeError, TypeError) as error:
        raise SimulatorError(f"{type(sim).__name__} does not export what GPUDrive's SimManager in CPU mode does: {error}") from error


def check_addresses(before, now):
    """Raises SimulatorError where a tensor is not where it was."""
    moved = [name for name in before if before[name].ctypes.data != now[name].ctypes.data or before[name].shape != now[name].shape]
    if moved:
        raise SimulatorError(f"GPUDrive moved its tensors {', '.join(moved)}, which it has never done: fastvec would read freed memory; "
                             "please report its version")
