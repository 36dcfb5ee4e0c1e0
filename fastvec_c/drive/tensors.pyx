"""GPUDrive's tensors, written from the structs of running worlds."""
import numpy as np

from libc.float cimport FLT_MAX
from libc.stdint cimport int32_t, uint8_t, uint16_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from fastvec_c.drive.env cimport Worlds
from fastvec_c.drive.layout cimport *

cdef extern from "drive/angle.h" nogil:
    float drive_wrap(float a)
    void drive_sincos(float angle, float *sine, float *cosine)

cdef extern from "drive/bev.h" nogil:
    void drive_bev(const drive_world *world, int32_t slot, float radius, uint8_t *out)

cdef extern from "drive/dynamics.h" nogil:
    void drive_infer_action(const drive_scene *scene, int32_t i, int32_t t, int32_t dynamics, float *out)

cdef extern from "drive/lidar.h" nogil:
    void drive_lidar(const drive_world *world, int32_t slot, float *out)

cdef enum:
    DYNAMIC, STATIC = 2  # Madrona's response types
    PARTNER = 9          # floats of a partner
    LIDAR = 3 * 50 * 4   # of an agent
    TRAJECTORY = 1456
    BEV = 200 * 200

# Writes one world's block of a tensor, padding and all.
ctypedef void (*fill_block)(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil


# ---- what an agent is --------------------------------------------------------------------------------------------------

cdef void fill_action(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    memcpy(out, world.action, sizeof(world.action))


cdef void fill_reward(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    memcpy(out, world.reward, sizeof(world.reward))


cdef void fill_done(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        (<int32_t *>out)[i] = world.done[i] if i < world.scene.num_agents else 1


cdef void fill_info(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t *row = <int32_t *>out
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        row[0], row[1], row[2], row[3] = world.hit_road[i], world.hit_vehicle[i], world.hit_other[i], world.reached[i]
        row[4] = world.scene.type[i]
        row += 5


cdef void fill_controlled_state(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        (<int32_t *>out)[i] = world.scene.is_controlled[i]


cdef void fill_response_type(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        (<int32_t *>out)[i] = STATIC if i >= world.scene.num_agents or world.scene.is_static[i] else DYNAMIC


cdef void fill_steps_remaining(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        (<int32_t *>out)[i] = rules.episode_len - world.step if i < world.scene.num_agents else 0


cdef void fill_metadata(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef size_t used = <size_t>world.scene.num_agents * sizeof(world.scene.metadata[0])
    memset(out, 0xFF, sizeof(world.scene.metadata))  # -1
    memcpy(out, world.scene.metadata, used)


cdef void fill_self_observation(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef const drive_scene *scene = world.scene
    cdef float *row = <float *>out
    cdef float dx, dy
    cdef int32_t i
    memset(out, 0, DRIVE_AGENTS * 8 * sizeof(float))
    for i in range(DRIVE_AGENTS):
        if i < scene.num_agents:
            dx, dy = scene.goal_x[i] - world.x[i], scene.goal_y[i] - world.y[i]
            row[0], row[1], row[2], row[3] = world.speed[i], scene.length[i], scene.width[i], scene.height[i]
            row[4], row[5] = dx * world.cos[i] + dy * world.sin[i], dy * world.cos[i] - dx * world.sin[i]
            row[6], row[7] = world.collided[i], scene.id[i]
        else:
            row[7] = -1
        row += 8


cdef void fill_absolute_self_observation(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef const drive_scene *scene = world.scene
    cdef float *row = <float *>out
    cdef int32_t i
    memset(out, 0, DRIVE_AGENTS * 14 * sizeof(float))
    for i in range(DRIVE_AGENTS):
        if i < scene.num_agents:
            row[0], row[1], row[2] = world.x[i], world.y[i], FLT_MAX if world.away[i] else 1
            drive_sincos(world.yaw[i] / 2, &row[6], &row[3])
            row[7], row[8], row[9] = world.yaw[i], scene.goal_x[i], scene.goal_y[i]
            row[10], row[11], row[12], row[13] = scene.length[i], scene.width[i], scene.height[i], scene.id[i]
        else:
            row[13] = -1
        row += 14


cdef void fill_expert_trajectory(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef const drive_scene *scene = world.scene
    cdef const drive_log_point *point
    cdef float *row = <float *>out
    cdef int32_t i, t
    memset(out, 0, DRIVE_AGENTS * TRAJECTORY * sizeof(float))
    for i in range(scene.num_agents):
        for t in range(DRIVE_STEPS):
            point = &scene.log[i * DRIVE_STEPS + t]
            row[2 * t], row[2 * t + 1] = point.x, point.y
            row[2 * (DRIVE_STEPS + t)], row[2 * (DRIVE_STEPS + t) + 1] = point.vx, point.vy
            row[4 * DRIVE_STEPS + t], row[5 * DRIVE_STEPS + t] = point.heading, point.valid
            drive_infer_action(scene, i, t, rules.dynamics, row + 6 * DRIVE_STEPS + t * DRIVE_ACTION)
        row += TRAJECTORY


# ---- what an agent sees ------------------------------------------------------------------------------------------------

cdef void fill_partner_observations(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        write_partners(world, rules, i, <float *>out + i * DRIVE_PARTNERS * PARTNER)


cdef void write_partners(const drive_world *world, const drive_rules *rules, int32_t i, float *row) noexcept nogil:
    # Everybody else within the radius, in slot order.
    cdef const drive_scene *scene = world.scene
    cdef float c = world.cos[i], s = world.sin[i], dx, dy
    cdef int32_t j, left = DRIVE_PARTNERS
    memset(row, 0, DRIVE_PARTNERS * PARTNER * sizeof(float))
    for j in range(scene.num_agents if i < scene.num_agents else 0):
        dx, dy = world.x[j] - world.x[i], world.y[j] - world.y[i]
        if j == i or not dx * dx + dy * dy <= rules.radius * rules.radius:
            continue
        row[0], row[1], row[2] = world.speed[j], dx * c + dy * s, dy * c - dx * s
        row[3] = drive_wrap(world.yaw[j] - world.yaw[i])
        row[4], row[5], row[6], row[7], row[8] = scene.length[j], scene.width[j], scene.height[j], scene.type[j], scene.id[j]
        row += PARTNER
        left -= 1
    while left > 0:
        row[8] = -1
        row += PARTNER
        left -= 1


cdef void fill_agent_roadmap(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i
    for i in range(DRIVE_AGENTS):
        write_roads(world, rules, i, <float *>out + i * DRIVE_ROADS * DRIVE_MAP)


cdef void write_roads(const drive_world *world, const drive_rules *rules, int32_t i, float *row) noexcept nogil:
    cdef float c = world.cos[i], s = world.sin[i], dx, dy
    cdef const float *segment
    cdef uint16_t[10000] seen
    cdef int32_t k, count = 0
    if i < world.scene.num_agents:
        count = see_roads(world, rules, i, seen)
    for k in range(count):
        segment = world.scene.map_observation + <size_t>seen[k] * DRIVE_MAP
        dx, dy = segment[0] - world.x[i], segment[1] - world.y[i]
        memcpy(row, segment, DRIVE_MAP * sizeof(float))
        row[0], row[1], row[5] = dx * c + dy * s, dy * c - dx * s, drive_wrap(segment[5] - world.yaw[i])
        row += DRIVE_MAP
    # GPUDrive's nearest roads are followed by zeros.
    empty_roads(row, DRIVE_ROADS - count, 0 if i < world.scene.num_agents and rules.road_algorithm == DRIVE_K_NEAREST else -1)


cdef int32_t see_roads(const drive_world *world, const drive_rules *rules, int32_t i, uint16_t *seen) noexcept nogil:
    # Segments within the radius: the first 200, or the nearest 200, in index order.  All are looked at, so that this says
    # whether the quick way, which rows of observations go, is right.
    cdef const float *segment = world.scene.map_observation
    cdef float[10000] square
    cdef float dx, dy
    cdef int32_t k, count = 0, most = DRIVE_ROADS if rules.road_algorithm == DRIVE_LINEAR else DRIVE_SEGMENTS
    for k in range(world.scene.num_segments):
        dx, dy = segment[0] - world.x[i], segment[1] - world.y[i]
        segment += DRIVE_MAP
        square[count] = dx * dx + dy * dy
        if square[count] <= rules.radius * rules.radius:
            seen[count] = <uint16_t>k
            count += 1
            if count == most:
                break
    return keep_nearest(square, seen, count) if count > DRIVE_ROADS else count


cdef int32_t keep_nearest(const float *square, uint16_t *seen, int32_t count) noexcept nogil:
    # Of equally far ones the first.
    cdef float[10000] ascending
    cdef int32_t k, ties = DRIVE_ROADS, kept = 0
    memcpy(ascending, square, <size_t>count * sizeof(float))
    qsort(ascending, count, sizeof(float), compare_floats)
    for k in range(DRIVE_ROADS):
        ties -= ascending[k] < ascending[DRIVE_ROADS - 1]
    for k in range(count):
        if square[k] < ascending[DRIVE_ROADS - 1] or (square[k] == ascending[DRIVE_ROADS - 1] and ties > 0):
            ties -= square[k] == ascending[DRIVE_ROADS - 1]
            seen[kept] = seen[k]
            kept += 1
    return kept


cdef int compare_floats(const void *a, const void *b) noexcept nogil:
    return ((<const float *>a)[0] > (<const float *>b)[0]) - ((<const float *>a)[0] < (<const float *>b)[0])


cdef void empty_roads(float *row, int32_t count, float id) noexcept nogil:
    cdef int32_t k
    memset(row, 0, <size_t>count * DRIVE_MAP * sizeof(float))
    for k in range(count):
        row[7] = row[8] = id
        row += DRIVE_MAP


cdef void fill_lidar(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t i, n = world.scene.num_agents
    for i in range(n):
        drive_lidar(world, i, <float *>out + i * LIDAR)
    memset(<float *>out + n * LIDAR, 0, <size_t>(DRIVE_AGENTS - n) * LIDAR * sizeof(float))


cdef void fill_bev_observation(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef float *cell = <float *>out
    cdef uint8_t[40000] grid
    cdef int32_t i, k, n = world.scene.num_agents
    for i in range(n):
        drive_bev(world, i, rules.radius, grid)
        for k in range(BEV):
            cell[k] = grid[k]
        cell += BEV
    memset(cell, 0, <size_t>(DRIVE_AGENTS - n) * BEV * sizeof(float))


# ---- what a world is ---------------------------------------------------------------------------------------------------

cdef void fill_map_observation(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    cdef int32_t n = world.scene.num_segments
    if n:
        memcpy(out, world.scene.map_observation, <size_t>n * DRIVE_MAP * sizeof(float))
    empty_roads(<float *>out + n * DRIVE_MAP, DRIVE_SEGMENTS - n, -1)


cdef void fill_shape(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    (<int32_t *>out)[0], (<int32_t *>out)[1] = world.scene.num_agents, world.scene.num_segments


cdef void fill_world_means(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    (<float *>out)[0], (<float *>out)[1], (<float *>out)[2] = world.scene.mean_x, world.scene.mean_y, 0


cdef void fill_map_name(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    memcpy(out, world.scene.map_name, sizeof(world.scene.map_name))


cdef void fill_scenario_id(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    memcpy(out, world.scene.scenario_id, sizeof(world.scene.scenario_id))


cdef void fill_deleted_agents(const drive_world *world, const drive_rules *rules, void *out) noexcept nogil:
    memcpy(out, world.scene.deleted, sizeof(world.scene.deleted))


# ---- by name -----------------------------------------------------------------------------------------------------------

TENSORS = {  # name: shape of a world's block, dtype
    "action": ((64, 10), "float32"),
    "reward": ((64, 1), "float32"),
    "done": ((64, 1), "int32"),
    "info": ((64, 5), "int32"),
    "self_observation": ((64, 8), "float32"),
    "partner_observations": ((64, 63, 9), "float32"),
    "agent_roadmap": ((64, 200, 9), "float32"),
    "map_observation": ((10000, 9), "float32"),
    "absolute_self_observation": ((64, 14), "float32"),
    "controlled_state": ((64, 1), "int32"),
    "response_type": ((64, 1), "int32"),
    "expert_trajectory": ((64, 1456), "float32"),
    "shape": ((2,), "int32"),
    "steps_remaining": ((64, 1), "int32"),
    "lidar": ((64, 3, 50, 4), "float32"),
    "bev_observation": ((64, 200, 200, 1), "float32"),
    "world_means": ((3,), "float32"),
    "metadata": ((64, 4), "int32"),
    "map_name": ((32,), "int32"),
    "scenario_id": ((32,), "int32"),
    "deleted_agents": ((64,), "int32"),
}
cdef fill_block[21] FILLS = [  # in the same order
    fill_action, fill_reward, fill_done, fill_info, fill_self_observation, fill_partner_observations, fill_agent_roadmap,
    fill_map_observation, fill_absolute_self_observation, fill_controlled_state, fill_response_type, fill_expert_trajectory,
    fill_shape, fill_steps_remaining, fill_lidar, fill_bev_observation, fill_world_means, fill_metadata, fill_map_name,
    fill_scenario_id, fill_deleted_agents]
NUMBER = {name: number for number, name in enumerate(TENSORS)}


def new_tensor(str name, int worlds):
    """An array for so many worlds' blocks of a tensor, yet to be filled."""
    shape, dtype = TENSORS[name]
    return np.empty((worlds, *shape), dtype)


def fill(Worlds worlds, str name, array, int first=0):
    """Writes the present blocks of the worlds first .. first + len(array) - 1 into an array of `new_tensor`."""
    cdef fill_block write = FILLS[<int>NUMBER[name]]
    cdef uint8_t[::1] memory = array.reshape(-1).view(np.uint8)
    cdef int32_t w, count = <int32_t>len(array)
    cdef size_t nbytes = <size_t>memory.shape[0] // count
    if first < 0 or first + count > worlds.env.num_worlds:
        raise IndexError(f"worlds {first} to {first + count - 1}: there are {worlds.env.num_worlds}")
    with nogil:
        for w in range(count):
            write(&worlds.env.worlds[first + w], &worlds.env.rules, &memory[w * nbytes])
