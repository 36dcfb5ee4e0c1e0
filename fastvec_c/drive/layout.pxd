from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "drive/layout.h" nogil:
    enum:
        DRIVE_AGENTS, DRIVE_SEGMENTS, DRIVE_STEPS, DRIVE_ACTION, DRIVE_WEIGHTS, DRIVE_MAP, DRIVE_NAME
        DRIVE_EGO, DRIVE_PARTNERS, DRIVE_PARTNER, DRIVE_ROADS, DRIVE_ROAD, DRIVE_ROW, DRIVE_PACKED_ROAD, DRIVE_LIDAR, DRIVE_LIDAR_SAMPLE, DRIVE_BEV
        DRIVE_NO_ROAD, DRIVE_EDGE, DRIVE_LINE, DRIVE_LANE, DRIVE_CROSSWALK, DRIVE_BUMP, DRIVE_STOP_SIGN
        DRIVE_VEHICLE, DRIVE_PEDESTRIAN, DRIVE_CYCLIST
        DRIVE_CLASSIC, DRIVE_BICYCLE, DRIVE_DELTA_LOCAL, DRIVE_STATE
        DRIVE_IGNORE, DRIVE_STOP, DRIVE_REMOVE
        DRIVE_SPARSE_ON_GOAL, DRIVE_WEIGHTED, DRIVE_DISTANCE_TO_LOGS, DRIVE_CONDITIONED
        DRIVE_RANDOM_WEIGHTS, DRIVE_SAME_WEIGHTS
        DRIVE_LINEAR, DRIVE_K_NEAREST
    float DRIVE_AGENT_SCALE

    ctypedef struct drive_segment:
        float[13] row

    ctypedef struct drive_eight:
        float[8] x
        float[8] y
        float[8] heading
        uint32_t[8] size
        uint32_t[8] rest

    ctypedef struct drive_box:
        float x, y, cos, sin, half_length, half_width, reach
        int32_t type

    ctypedef struct drive_grid:
        float x0, y0, cells_per_metre
        int32_t nx, ny
        int32_t *start
        uint16_t *item

    ctypedef struct drive_log_point:
        float x, y, vx, vy, yaw, heading
        int32_t valid

    ctypedef struct drive_scene:
        int32_t num_agents, num_controlled, num_segments, num_obstacles, num_lines, num_signs
        float mean_x, mean_y
        const float *map_observation
        drive_segment *segments
        drive_eight *eights
        drive_grid segments_near
        drive_box *boxes
        const drive_box *obstacles
        drive_grid obstacles_near
        drive_log_point *log
        int32_t[64] controlled
        uint8_t[64] is_controlled
        uint8_t[64] is_static
        uint8_t[64] type
        float[64] length
        float[64] width
        float[64] height
        float[64] id
        float[64] goal_x
        float[64] goal_y
        int32_t[64][4] metadata
        float[64] seen_length
        float[64] seen_width
        int32_t[32] map_name
        int32_t[32] scenario_id
        int32_t[64] deleted

    ctypedef struct drive_action:
        float[10] value
        float tan_steer, cos_slip, sin_slip

    ctypedef struct drive_row:
        uint8_t ego, weights, partners, roads, lidar, bev, normalised, packed
        uint32_t nbytes

    ctypedef struct drive_rules:
        int32_t dynamics, collision, reward, road_algorithm, episode_len, init_steps
        float radius, goal_distance
        int32_t weights_mode
        float[3] weights
        float[3] weights_low
        float[3] weights_high
        uint8_t check_actions
        drive_row row
        int32_t num_actions, action_floats
        const drive_action *actions
        const float *empty_roads

    ctypedef struct drive_world:
        const drive_scene *scene
        int32_t step, live
        float[64] x
        float[64] y
        float[64] yaw
        float[64] cos
        float[64] sin
        float[64] vx
        float[64] vy
        float[64] speed
        float[64][10] action
        float[64][3] weights
        float[64] reward
        uint8_t[64] done
        uint8_t[64] reached
        uint8_t[64] away
        uint8_t[64] collided
        uint8_t[64] hit_road
        uint8_t[64] hit_vehicle
        uint8_t[64] hit_other
        uint8_t[64] alive
        uint8_t[64] ever_hit_road
        uint8_t[64] ever_hit_agent
        float[64] episode_return
