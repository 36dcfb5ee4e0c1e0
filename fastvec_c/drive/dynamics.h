/* dynamics.h: how agents move in one step of 0.1 s.  classic is the kinematic bicycle about the centre of gravity
 * (Rajamani, Vehicle Dynamics and Control, 2.2); bicycle is the invertible model of Waymax
 * (Gulino et al. 2023), whose steering is a curvature. */
#ifndef FASTVEC_DRIVE_DYNAMICS_H
#define FASTVEC_DRIVE_DYNAMICS_H

#include <math.h>

#include "angle.h"
#include "layout.h"

#define DRIVE_DT 0.1f

/* v in [-limit, limit]; NaN becomes `limit`, as in GPUDrive. */
static inline float drive_clip(float v, float limit)
{
    return __builtin_fmaxf(-limit, __builtin_fminf(v, limit));
}

/* Fills in what classic dynamics derives from the steering angle. */
static inline void drive_prepare_action(drive_action *action)
{
    float tan_steer = (float)tan((double)action->value[1]), slip = (float)atan(0.5 * (double)tan_steer);
    action->tan_steer = tan_steer;
    drive_sincos(slip, &action->sin_slip, &action->cos_slip);
}

static inline void drive_turn(drive_world *world, int32_t i, float yaw)
{
    world->yaw[i] = yaw;
    drive_sincos(yaw, &world->sin[i], &world->cos[i]);
}

static inline void drive_set_velocity(drive_world *world, int32_t i, float vx, float vy)
{
    world->vx[i] = vx;
    world->vy[i] = vy;
    world->speed[i] = __builtin_sqrtf(vx * vx + vy * vy);
}

/* value: acceleration, steering angle. */
static inline void drive_move_classic(drive_world *world, int32_t i, const drive_action *action)
{
    float c = world->cos[i], s = world->sin[i], speed = world->speed[i];
    float mean_speed = speed + 0.5f * action->value[0] * DRIVE_DT;
    float travel = mean_speed * DRIVE_DT;
    world->x[i] += travel * (c * action->cos_slip - s * action->sin_slip);
    world->y[i] += travel * (s * action->cos_slip + c * action->sin_slip);
    float turn = mean_speed * action->cos_slip * action->tan_steer / world->scene->length[i] * DRIVE_DT;
    drive_turn(world, i, drive_wrap_any(world->yaw[i] + turn));
    float after = speed + action->value[0] * DRIVE_DT;
    drive_set_velocity(world, i, after * world->cos[i], after * world->sin[i]);
}

/* value: acceleration, curvature. */
static inline void drive_move_bicycle(drive_world *world, int32_t i, const drive_action *action)
{
    float accel = drive_clip(action->value[0], 6.0f), curvature = drive_clip(action->value[1], 3.0f);
    float speed = world->speed[i], half = 0.5f * accel * DRIVE_DT * DRIVE_DT;
    world->x[i] += world->vx[i] * DRIVE_DT + half * world->cos[i];
    world->y[i] += world->vy[i] * DRIVE_DT + half * world->sin[i];
    drive_turn(world, i, drive_wrap_any(world->yaw[i] + curvature * (speed * DRIVE_DT + half)));
    float after = speed + accel * DRIVE_DT;
    drive_set_velocity(world, i, after * world->cos[i], after * world->sin[i]);
}

/* value: dx, dy in the agent's frame, dyaw. */
static inline void drive_move_delta_local(drive_world *world, int32_t i, const drive_action *action)
{
    float c = world->cos[i], s = world->sin[i];
    float dx = action->value[0] * c - action->value[1] * s, dy = action->value[0] * s + action->value[1] * c;
    world->x[i] += dx;
    world->y[i] += dy;
    drive_turn(world, i, drive_wrap_any(world->yaw[i] + action->value[2]));
    drive_set_velocity(world, i, dx / DRIVE_DT, dy / DRIVE_DT);
}

/* value: x, y, z, yaw, vx, vy, and vz and angular velocities, which change nothing in the plane. */
static inline void drive_move_state(drive_world *world, int32_t i, const drive_action *action)
{
    world->x[i] = action->value[0];
    world->y[i] = action->value[1];
    drive_turn(world, i, drive_wrap_any(action->value[3]));
    drive_set_velocity(world, i, action->value[4], action->value[5]);
}

static inline void drive_move(drive_world *world, int32_t i, int32_t dynamics, const drive_action *action)
{
    switch (dynamics) {
    case DRIVE_CLASSIC: drive_move_classic(world, i, action); break;
    case DRIVE_BICYCLE: drive_move_bicycle(world, i, action); break;
    case DRIVE_DELTA_LOCAL: drive_move_delta_local(world, i, action); break;
    default: drive_move_state(world, i, action);
    }
}

static inline void drive_follow_log(drive_world *world, int32_t i, int32_t log_index)
{
    const drive_log_point *point = &world->scene->log[i * DRIVE_STEPS + log_index];
    world->x[i] = point->x;
    world->y[i] = point->y;
    drive_turn(world, i, point->yaw);
    drive_set_velocity(world, i, point->vx, point->vy);
}

/* DRIVE_ACTION floats that say nothing: zeros, but for the height under state dynamics. */
static inline void drive_empty_action(int32_t dynamics, float *out)
{
    __builtin_memset(out, 0, DRIVE_ACTION * sizeof *out);
    if (dynamics == DRIVE_STATE) out[2] = 1;
}

/* What takes an agent from point t of its log to point t + 1 under the bicycle model, as GPUDrive infers it: by the
 * change of speed, and turning towards the next velocity, not towards the next heading. */
static inline void drive_invert_bicycle(const drive_log_point *now, const drive_log_point *next, float *out)
{
    float speed = __builtin_sqrtf(now->vx * now->vx + now->vy * now->vy), after = __builtin_sqrtf(next->vx * next->vx + next->vy * next->vy);
    float accel = (after - speed) / DRIVE_DT;
    float distance = (float)(speed * DRIVE_DT + 0.5 * (double)accel * DRIVE_DT * DRIVE_DT);
    float target = (float)atan2((double)next->vy, (double)next->vx);
    out[0] = accel;
    out[1] = distance != 0 ? (target - now->yaw) / distance : 0;
}

/* Likewise under delta_local; each displacement is limited to 6 m both before and after it is rotated. */
static inline void drive_invert_delta_local(const drive_log_point *now, const drive_log_point *next, float *out)
{
    float c, s, dx = drive_clip(next->x - now->x, 6.0f), dy = drive_clip(next->y - now->y, 6.0f);
    drive_sincos(now->yaw, &s, &c);
    out[0] = drive_clip(dx * c + dy * s, 6.0f);
    out[1] = drive_clip(dy * c - dx * s, 6.0f);
    out[2] = drive_wrap_any(next->yaw - now->yaw);
}

/* The action that GPUDrive infers from point t of an agent's log, `inferred_actions` of its expert_trajectory:
 * DRIVE_ACTION floats.  An empty one under classic and state dynamics, and at the last point. */
static inline void drive_infer_action(const drive_scene *scene, int32_t i, int32_t t, int32_t dynamics, float *out)
{
    const drive_log_point *now = &scene->log[i * DRIVE_STEPS + t];
    drive_empty_action(dynamics, out);
    if (t + 1 >= DRIVE_STEPS) return;
    if (dynamics == DRIVE_BICYCLE) drive_invert_bicycle(now, now + 1, out);
    else if (dynamics == DRIVE_DELTA_LOCAL) drive_invert_delta_local(now, now + 1, out);
}

/* GPUDrive's get_expert_actions() limits what was inferred. */
static inline void drive_limit_action(float *action, int32_t dynamics)
{
    if (dynamics == DRIVE_DELTA_LOCAL) {
        action[0] = drive_clip(action[0], 6.0f);
        action[1] = drive_clip(action[1], 6.0f);
        action[2] = drive_clip(action[2], DRIVE_PI);
    } else if (dynamics != DRIVE_STATE) {
        action[0] = drive_clip(action[0], 6.0f);
        action[1] = drive_clip(action[1], 0.3f);
    }
}

/* The action that replays point t of an agent's log, as get_expert_actions() has it: the inferred one with its limits,
 * or the logged state.  Classic dynamics have no inverse: zeros. */
static inline void drive_expert_action(const drive_scene *scene, int32_t i, int32_t t, int32_t dynamics, float *out)
{
    const drive_log_point *now = &scene->log[i * DRIVE_STEPS + t];
    float state[DRIVE_ACTION] = {now->x, now->y, 1, now->heading, now->vx, now->vy};
    drive_infer_action(scene, i, t, dynamics, out);
    if (dynamics == DRIVE_STATE) __builtin_memcpy(out, state, sizeof state);
    drive_limit_action(out, dynamics);
}

static inline void drive_send_away(drive_world *world, int32_t i)
{
    world->x[i] = world->y[i] = DRIVE_AWAY;
    drive_set_velocity(world, i, 0, 0);
    world->away[i] = 1;
}

#endif
