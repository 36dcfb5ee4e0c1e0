"""What a DriveConfig means in C."""
import numpy as np

from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memset

from fastvec_c.drive.layout cimport *

cdef extern from "drive/dynamics.h" nogil:
    void drive_prepare_action(drive_action *action)

DYNAMICS = {"classic": DRIVE_CLASSIC, "bicycle": DRIVE_BICYCLE, "delta_local": DRIVE_DELTA_LOCAL, "state": DRIVE_STATE}
COLLISIONS = {"ignore": DRIVE_IGNORE, "stop": DRIVE_STOP, "remove": DRIVE_REMOVE}
REWARDS = {"sparse_on_goal_achieved": DRIVE_SPARSE_ON_GOAL, "weighted_combination": DRIVE_WEIGHTED,
           "distance_to_logs": DRIVE_DISTANCE_TO_LOGS, "reward_conditioned": DRIVE_CONDITIONED}
ROADS = {"linear": DRIVE_LINEAR, "k_nearest_roadpoints": DRIVE_K_NEAREST}


cdef class Rules:
    """A `fastvec.drive.DriveConfig`, for the C code."""

    def __init__(self, config):
        cdef drive_rules *rules = &self.data
        cdef int32_t k
        memset(rules, 0, sizeof(drive_rules))
        self._keep = []
        rules.dynamics, rules.collision = DYNAMICS[config.dynamics_model], COLLISIONS[config.collision_behavior]
        rules.reward, rules.road_algorithm = REWARDS[config.reward_type], ROADS[config.road_obs_algorithm]
        rules.episode_len, rules.radius, rules.goal_distance = config.episode_len, config.obs_radius, config.dist_to_goal_threshold
        rules.init_steps, rules.check_actions = config.init_steps, config.debug
        rules.weights_mode = DRIVE_RANDOM_WEIGHTS if config.condition_mode == "random" else DRIVE_SAME_WEIGHTS
        weights, (low, high) = config.weights(), config.weight_bounds()
        for k in range(DRIVE_WEIGHTS):
            rules.weights[k], rules.weights_low[k], rules.weights_high[k] = weights[k], low[k], high[k]
        self._set_row(config)
        self._set_actions(config)

    cdef _set_row(self, config):
        cdef drive_row *row = &self.data.row
        row.ego, row.partners, row.roads = config.ego_state, config.partner_obs, config.road_map_obs
        row.weights = config.ego_state and config.reward_type == "reward_conditioned"
        row.lidar, row.bev, row.normalised = config.lidar_obs, config.bev_obs, config.norm_obs
        row.packed = config.observation == "packed"
        row.nbytes = config.row_nbytes()
        cdef float *empty = <float *>self._zeros(DRIVE_ROADS * DRIVE_ROAD * sizeof(float))
        cdef int32_t k
        for k in range(DRIVE_ROADS):
            empty[k * DRIVE_ROAD + 6] = 1  # one-hot of entity type 0
        self.data.empty_roads = empty

    cdef _set_actions(self, config):
        cdef drive_rules *rules = &self.data
        cdef drive_action *table
        cdef int32_t k, v
        rules.action_floats = config.action_floats()
        if config.action_type != "discrete":
            return
        grid = config.action_grid()
        table = <drive_action *>self._zeros(len(grid) * sizeof(drive_action))
        for k in range(len(grid)):
            for v in range(grid.shape[1]):
                table[k].value[v] = grid[k, v]
            if rules.dynamics == DRIVE_CLASSIC:
                drive_prepare_action(&table[k])
        rules.actions, rules.num_actions = table, len(grid)

    cdef void *_zeros(self, size_t nbytes):
        # NumPy owns the memory, which goes when this object goes; 64 bytes more, to begin on a cache line.
        array = np.zeros(nbytes + 64, np.uint8)
        self._keep.append(array)
        cdef uint8_t[::1] view = array
        return <void *>((<size_t>&view[0] + 63) & ~<size_t>63)
