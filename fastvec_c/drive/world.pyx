"""One world: an episode in one scene, stepped in GPUDrive's order."""
from libc.math cimport exp, isfinite, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from fastvec_c.drive.layout cimport *

cdef extern from "drive/collide.h" nogil:
    void drive_collide(drive_world *world, int32_t log_index)

cdef extern from "drive/dynamics.h" nogil:
    void drive_prepare_action(drive_action *action)
    void drive_move(drive_world *world, int32_t i, int32_t dynamics, const drive_action *action)
    void drive_empty_action(int32_t dynamics, float *out)
    void drive_expert_action(const drive_scene *scene, int32_t i, int32_t t, int32_t dynamics, float *out)
    void drive_follow_log(drive_world *world, int32_t i, int32_t log_index)
    void drive_send_away(drive_world *world, int32_t i)

cdef extern from "drive/observe.h" nogil:
    int drive_portable
    void drive_write_row(const drive_world *world, int32_t i, const drive_rules *rules, void *out)

cdef extern from "drive/random.h" nogil:
    float drive_random_between(uint64_t *state, float low, float high)

def use_portable_rows(bint on):
    """For tests: has this process write observations as on processors that are not known specially."""
    global drive_portable
    drive_portable = on


cdef float LOG_WEIGHT = 0.01  # of the nearness to the log, in distance_to_logs rewards: GPUDrive's default

cdef void world_reset(drive_world *world, const drive_scene *scene, const drive_rules *rules, uint64_t *random) noexcept nogil:
    cdef int32_t i
    memset(world, 0, sizeof(drive_world))
    world.scene = scene
    world.live = scene.num_controlled
    memset(world.alive, 1, scene.num_controlled)
    for i in range(scene.num_agents):
        drive_follow_log(world, i, 0)
        drive_empty_action(rules.dynamics, world.action[i])
        if scene.is_static[i]:
            world.vx[i] = world.vy[i] = world.speed[i] = 0
    set_weights(world, rules, random)
    drive_collide(world, 0)
    judge_goals(world, rules)
    for i in range(rules.init_steps):
        advance(world, rules, NULL)
    drop_who_is_done(world, rules)


cdef void set_weights(drive_world *world, const drive_rules *rules, uint64_t *random) noexcept nogil:
    cdef int32_t i, k
    for i in range(world.scene.num_agents):
        for k in range(DRIVE_WEIGHTS):
            if rules.reward == DRIVE_CONDITIONED and rules.weights_mode == DRIVE_RANDOM_WEIGHTS:
                world.weights[i][k] = drive_random_between(random, rules.weights_low[k], rules.weights_high[k])
            else:
                world.weights[i][k] = rules.weights[k]


cdef void drop_who_is_done(drive_world *world, const drive_rules *rules) noexcept nogil:
    # The replay of init_steps may have ended somebody's episode before it began.
    cdef int32_t row
    for row in range(world.scene.num_controlled):
        if has_ended(world, rules, world.scene.controlled[row]):
            world.alive[row] = 0
            world.live -= 1


cdef bint has_ended(const drive_world *world, const drive_rules *rules, int32_t i) noexcept nogil:
    return world.reached[i] or (rules.collision != DRIVE_IGNORE and world.collided[i])


cdef int32_t world_step(drive_world *world, const drive_rules *rules, const void *actions, world_rows *rows) noexcept nogil:
    cdef int32_t bad = first_bad_action(world, rules, actions)
    if bad >= 0:
        return bad
    advance(world, rules, actions)
    fill_rows(world, rules, rows)
    return -1


cdef void advance(drive_world *world, const drive_rules *rules, const void *actions) noexcept nogil:
    # actions: as of world_step, or NULL to replay the logs.
    cdef int32_t log_index = min(world.step, DRIVE_STEPS - 1)
    settle_collisions(world, rules)
    move_agents(world, rules, actions, log_index)
    drive_collide(world, log_index)
    world.step += 1
    judge_goals(world, rules)
    judge_done(world, rules)


cdef void world_observe(const drive_world *world, const drive_rules *rules, char *out) noexcept nogil:
    cdef int32_t row
    for row in range(world.scene.num_controlled):
        drive_write_row(world, world.scene.controlled[row], rules, out + <size_t>row * rules.row.nbytes)


cdef int32_t first_bad_action(const drive_world *world, const drive_rules *rules, const void *actions) noexcept nogil:
    cdef const int64_t *index = <const int64_t *>actions
    cdef int32_t row, k
    for row in range(world.scene.num_controlled):
        if not world.alive[row]:
            continue
        if rules.num_actions:
            if not 0 <= index[row] < rules.num_actions:
                return row
        elif rules.check_actions:
            for k in range(rules.action_floats):
                if not isfinite((<const float *>actions)[row * rules.action_floats + k]):
                    return row
    return -1


cdef void settle_collisions(drive_world *world, const drive_rules *rules) noexcept nogil:
    # Those of the step before: forgotten, or the end of who had them.
    cdef int32_t i, n = world.scene.num_agents
    if rules.collision == DRIVE_IGNORE:
        memset(world.collided, 0, n)
        memset(world.hit_road, 0, n)
        memset(world.hit_vehicle, 0, n)
        memset(world.hit_other, 0, n)
        return
    for i in range(n):
        if world.collided[i]:
            world.done[i] = 1
            # GPUDrive's "stop" stops only what stands already: everybody else is moved away like all who are done.
            if rules.collision == DRIVE_REMOVE and not world.away[i]:
                drive_send_away(world, i)


cdef void move_agents(drive_world *world, const drive_rules *rules, const void *actions, int32_t log_index) noexcept nogil:
    cdef const drive_scene *scene = world.scene
    cdef int32_t i, row = 0
    for i in range(scene.num_agents):
        row += scene.is_controlled[i]  # 1 past the agent's own row
        if scene.is_static[i] or world.away[i]:
            continue
        if world.done[i]:
            drive_send_away(world, i)
        elif not scene.is_controlled[i]:
            drive_follow_log(world, i, log_index)
        else:
            drive_agent(world, rules, i, row - 1, actions, log_index)


cdef void drive_agent(drive_world *world, const drive_rules *rules, int32_t i, int32_t row, const void *actions, int32_t log_index) noexcept nogil:
    cdef drive_action given
    cdef const drive_action *action = &given
    if actions == NULL:
        drive_expert_action(world.scene, i, log_index, rules.dynamics, given.value)
    elif rules.num_actions:
        action = &rules.actions[(<const int64_t *>actions)[row]]
    else:
        memset(given.value, 0, sizeof(given.value))
        memcpy(given.value, <const float *>actions + row * rules.action_floats, rules.action_floats * sizeof(float))
    if action == &given and rules.dynamics == DRIVE_CLASSIC:
        drive_prepare_action(&given)
    memcpy(world.action[i], action.value, sizeof(action.value))
    drive_move(world, i, rules.dynamics, action)


cdef void judge_goals(drive_world *world, const drive_rules *rules) noexcept nogil:
    cdef int32_t i
    cdef float dx, dy
    for i in range(world.scene.num_agents):
        dx, dy = world.scene.goal_x[i] - world.x[i], world.scene.goal_y[i] - world.y[i]
        world.reward[i] = 1 if sqrtf(dx * dx + dy * dy) < rules.goal_distance else 0


cdef void judge_done(drive_world *world, const drive_rules *rules) noexcept nogil:
    cdef int32_t i
    for i in range(world.scene.num_agents):
        if world.reward[i] > 0:
            world.done[i] = world.reached[i] = 1
        elif world.step >= rules.episode_len:
            world.done[i] = 1


cdef float reward_of(const drive_world *world, const drive_rules *rules, int32_t i) noexcept nogil:
    cdef const float *weights = world.weights[i]
    cdef float reward
    if rules.reward == DRIVE_SPARSE_ON_GOAL:
        return world.reward[i]
    reward = (weights[0] * <float>(world.hit_vehicle[i] + world.hit_other[i]) + weights[1] * <float>world.reached[i]
              + weights[2] * <float>world.hit_road[i])
    if rules.reward == DRIVE_DISTANCE_TO_LOGS:
        reward += LOG_WEIGHT * <float>exp(-<double>distance_to_log(world, i))
    return reward


cdef float distance_to_log(const drive_world *world, int32_t i) noexcept nogil:
    # To the point whose index is that of the step just made, counted from 0, as in PufferGPUDrive: those who replay
    # their logs stand on it.
    cdef const drive_log_point *point = &world.scene.log[i * DRIVE_STEPS + min(world.step - 1, DRIVE_STEPS - 1)]
    cdef float dx = point.x - world.x[i], dy = point.y - world.y[i]
    return sqrtf(dx * dx + dy * dy)


cdef void fill_rows(drive_world *world, const drive_rules *rules, world_rows *rows) noexcept nogil:
    cdef int32_t row, i
    cdef uint8_t ended, late
    for row in range(world.scene.num_controlled):
        rows.masks[row] = world.alive[row]
        rows.rewards[row] = 0
        rows.terminations[row] = rows.truncations[row] = 0
        if not world.alive[row]:
            continue
        i = world.scene.controlled[row]
        rows.rewards[row] = reward_of(world, rules, i)
        world.episode_return[row] += rows.rewards[row]
        world.ever_hit_road[row] |= world.hit_road[i]
        world.ever_hit_agent[row] |= world.hit_vehicle[i] | world.hit_other[i]
        ended = has_ended(world, rules, i)
        late = not ended and world.step >= rules.episode_len
        rows.terminations[row] = ended
        rows.truncations[row] = late
        if ended or late:
            world.alive[row] = 0
            world.live -= 1
