/* layout.h: what a scene and a world look like in memory.
 *
 * A drive_scene never changes after it was built, and any number of worlds may read it.  A drive_world is one running
 * episode, as a structure of arrays over agent slots.  Lengths are metres, angles radians, speeds m/s; positions are
 * relative to the scene's mean.
 */
#ifndef FASTVEC_DRIVE_LAYOUT_H
#define FASTVEC_DRIVE_LAYOUT_H

#include <stdint.h>

enum {
    DRIVE_AGENTS = 64,       /* slots of a world */
    DRIVE_SEGMENTS = 10000,  /* road segments of a scene; ids fit 16 bits */
    DRIVE_STEPS = 91,        /* points of a logged trajectory */
    DRIVE_EGO = 6,           /* floats of the parts of an observation row */
    DRIVE_WEIGHTS = 3,       /* that follow the ego's under conditioned rewards: collision, goal, off road */
    DRIVE_PARTNERS = 63,
    DRIVE_PARTNER = 6,
    DRIVE_ROADS = 200,
    DRIVE_ROAD = 13,
    DRIVE_ROW = DRIVE_EGO + DRIVE_PARTNERS * DRIVE_PARTNER + DRIVE_ROADS * DRIVE_ROAD, /* what GPUDrive gives by default */
    DRIVE_PACKED_ROAD = 6,   /* halves; the type is a byte elsewhere */
    DRIVE_LIDAR = 50,        /* beams of each of the three kinds */
    DRIVE_LIDAR_SAMPLE = 4,
    DRIVE_BEV = 200,         /* cells of a bird's-eye grid either way */
    DRIVE_ACTION = 10,       /* floats of the longest action (state dynamics) */
    DRIVE_MAP = 9,           /* floats of a road segment in map_observation */
    DRIVE_NAME = 32          /* characters kept of a scene's names */
};

enum {
    DRIVE_NO_ROAD, DRIVE_EDGE, DRIVE_LINE, DRIVE_LANE, DRIVE_CROSSWALK, DRIVE_BUMP, DRIVE_STOP_SIGN,
    DRIVE_VEHICLE, DRIVE_PEDESTRIAN, DRIVE_CYCLIST
};
enum { DRIVE_CLASSIC, DRIVE_BICYCLE, DRIVE_DELTA_LOCAL, DRIVE_STATE };
enum { DRIVE_IGNORE, DRIVE_STOP, DRIVE_REMOVE };
enum { DRIVE_SPARSE_ON_GOAL, DRIVE_WEIGHTED, DRIVE_DISTANCE_TO_LOGS, DRIVE_CONDITIONED };
enum { DRIVE_RANDOM_WEIGHTS, DRIVE_SAME_WEIGHTS };
enum { DRIVE_LINEAR, DRIVE_K_NEAREST };

/* Where agents that are out of the episode stand. */
#define DRIVE_AWAY (-11000.0f)
/* Agents are this much of their size where it matters: in collisions and in what others see. */
#define DRIVE_AGENT_SCALE 0.7f

/* One road segment: its row of an observation, normalised where the configuration says so, but for x, y and heading
 * (floats 0, 1 and 5), which depend on the observer. */
typedef struct drive_segment {
    float row[DRIVE_ROAD];
} drive_segment;

/* Eight successive segments, to look at all of them at once.  Where the last eight are incomplete, x is NaN: near nobody.
 * What packed rows hold of them: `size` is half the length and, in the upper half, half the width as float16; `rest` is half
 * the height as float16, and the type in the upper half. */
typedef struct drive_eight {
    float x[8], y[8], heading[8];
    uint32_t size[8], rest[8];
} drive_eight;

/* An oriented rectangle. */
typedef struct drive_box {
    float x, y, cos, sin, half_length, half_width;
    float reach; /* no point of it is farther from its centre */
    int32_t type;
} drive_box;

/* Square cells over a rectangle; cell c lists item[start[c]] .. item[start[c + 1]], ascending. */
typedef struct drive_grid {
    float x0, y0, cells_per_metre;
    int32_t nx, ny;
    int32_t *start;
    uint16_t *item;
} drive_grid;

typedef struct drive_log_point {
    float x, y, vx, vy;
    float yaw;     /* as agents take it: through a float quaternion */
    float heading; /* as the file has it */
    int32_t valid;
} drive_log_point;

typedef struct drive_scene {
    int32_t num_agents, num_controlled, num_segments, num_obstacles;
    int32_t num_lines, num_signs;
    float mean_x, mean_y;
    const float *map_observation; /* [num_segments][DRIVE_MAP]: x, y, half length, half width, half height, heading, type, road id, map type */
    drive_segment *segments;
    drive_eight *eights;        /* of the segments; the last one may be incomplete */
    drive_grid segments_near;   /* per cell: the eights in which an observer in it may see something */
    drive_box *boxes;           /* [num_segments]: lines, lanes, crosswalks and bumps; then stop signs; then road edges */
    const drive_box *obstacles; /* those of boxes that agents may hit: stop signs and road edges */
    drive_grid obstacles_near;  /* per cell: the obstacles that an agent in it may touch */
    drive_log_point *log;       /* [num_agents][DRIVE_STEPS] */
    int32_t controlled[DRIVE_AGENTS]; /* slots of the controlled agents, ascending */
    uint8_t is_controlled[DRIVE_AGENTS], is_static[DRIVE_AGENTS], type[DRIVE_AGENTS];
    float length[DRIVE_AGENTS], width[DRIVE_AGENTS], height[DRIVE_AGENTS], id[DRIVE_AGENTS];
    float goal_x[DRIVE_AGENTS], goal_y[DRIVE_AGENTS];
    int32_t metadata[DRIVE_AGENTS][4]; /* is the self-driving car, of interest, to be predicted; difficulty */
    float seen_length[DRIVE_AGENTS], seen_width[DRIVE_AGENTS]; /* as observations show them */
    int32_t map_name[DRIVE_NAME], scenario_id[DRIVE_NAME]; /* the first bytes of the texts, zeros after them */
    int32_t deleted[DRIVE_AGENTS]; /* ids of objects that were left out, then -1 */
} drive_scene;

/* One discrete or continuous action, ready to be applied. */
typedef struct drive_action {
    float value[DRIVE_ACTION];
    float tan_steer, cos_slip, sin_slip; /* classic dynamics only */
} drive_action;

/* What a row of observations consists of, in this order.  `packed`: the first three as float16, types of roads as bytes. */
typedef struct drive_row {
    uint8_t ego, weights, partners, roads, lidar, bev; /* is this part there? */
    uint8_t normalised, packed;
    uint32_t nbytes;
} drive_row;

/* What the configuration says, shared by the worlds of an env. */
typedef struct drive_rules {
    int32_t dynamics, collision, reward, road_algorithm, episode_len, init_steps;
    float radius, goal_distance;
    int32_t weights_mode;           /* of conditioned rewards */
    float weights[DRIVE_WEIGHTS];   /* of collisions, goal, leaving the road; not used with random ones */
    float weights_low[DRIVE_WEIGHTS], weights_high[DRIVE_WEIGHTS];
    uint8_t check_actions;          /* refuse floats that are not finite */
    drive_row row;
    int32_t num_actions;         /* 0: actions are floats */
    int32_t action_floats;       /* of a continuous action */
    const drive_action *actions; /* [num_actions] */
    const float *empty_roads;    /* [DRIVE_ROADS * DRIVE_ROAD]: what no road looks like */
} drive_rules;

typedef struct drive_world {
    const drive_scene *scene;
    int32_t step;                /* steps taken in this episode */
    int32_t live;                /* controlled agents still in the episode */
    float x[DRIVE_AGENTS], y[DRIVE_AGENTS], yaw[DRIVE_AGENTS], cos[DRIVE_AGENTS], sin[DRIVE_AGENTS];
    float vx[DRIVE_AGENTS], vy[DRIVE_AGENTS], speed[DRIVE_AGENTS];
    float action[DRIVE_AGENTS][DRIVE_ACTION];    /* the last one; an empty one before the first */
    float weights[DRIVE_AGENTS][DRIVE_WEIGHTS];  /* of collisions, goal, leaving the road */
    float reward[DRIVE_AGENTS];  /* 1 within the goal distance, else 0: GPUDrive's own reward */
    uint8_t done[DRIVE_AGENTS], reached[DRIVE_AGENTS], away[DRIVE_AGENTS], collided[DRIVE_AGENTS];
    uint8_t hit_road[DRIVE_AGENTS], hit_vehicle[DRIVE_AGENTS], hit_other[DRIVE_AGENTS];
    /* by row: the controlled agents in slot order */
    uint8_t alive[DRIVE_AGENTS], ever_hit_road[DRIVE_AGENTS], ever_hit_agent[DRIVE_AGENTS];
    float episode_return[DRIVE_AGENTS];
} drive_world;

#endif
