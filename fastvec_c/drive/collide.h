/* collide.h: which agents touch which agents, road edges and stop signs. */
#ifndef FASTVEC_DRIVE_COLLIDE_H
#define FASTVEC_DRIVE_COLLIDE_H

#include "cpu.h"
#include "grid.h"

/* Do two oriented rectangles overlap?  Separating-axis test on the four edge directions. */
static inline int drive_boxes_overlap(const drive_box *a, const drive_box *b)
{
    float dx = b->x - a->x, dy = b->y - a->y, reach = a->reach + b->reach;
    if (dx * dx + dy * dy > reach * reach) return 0;
    float c = __builtin_fabsf(a->cos * b->cos + a->sin * b->sin), s = __builtin_fabsf(a->cos * b->sin - a->sin * b->cos);
    return __builtin_fabsf(dx * a->cos + dy * a->sin) <= a->half_length + b->half_length * c + b->half_width * s
        && __builtin_fabsf(dy * a->cos - dx * a->sin) <= a->half_width + b->half_length * s + b->half_width * c
        && __builtin_fabsf(dx * b->cos + dy * b->sin) <= b->half_length + a->half_length * c + a->half_width * s
        && __builtin_fabsf(dy * b->cos - dx * b->sin) <= b->half_width + a->half_length * s + a->half_width * c;
}

static inline void drive_hit_agent(drive_world *world, int32_t agent, int32_t other)
{
    world->collided[agent] = 1;
    if (world->scene->type[other] == DRIVE_VEHICLE) world->hit_vehicle[agent] = 1;
    else world->hit_other[agent] = 1;
}

/* Left out: who is away, as all are that were done before this step, and who replays a log that does not know it now. */
static inline int drive_can_collide(const drive_world *world, int32_t agent, int32_t log_index)
{
    const drive_scene *scene = world->scene;
    return !world->away[agent] && (scene->is_controlled[agent] || scene->log[agent * DRIVE_STEPS + log_index].valid);
}

/* The agents that take part, as boxes; and the circles around them, to look at several at once. */
typedef struct drive_bodies {
    int32_t count;
    int32_t slot[DRIVE_AGENTS];
    drive_box box[DRIVE_AGENTS];
    float x[DRIVE_AGENTS + 8], y[DRIVE_AGENTS + 8], reach[DRIVE_AGENTS + 8]; /* NaN behind the last one: near nobody */
} drive_bodies;

/* Bit b is set where the circle of a later body b meets that of body a. */
static uint64_t drive_meet_portable(const drive_bodies *bodies, int32_t a)
{
    uint64_t meet = 0;
    for (int32_t b = a + 1; b < bodies->count; b++) {
        float dx = bodies->x[b] - bodies->x[a], dy = bodies->y[b] - bodies->y[a], reach = bodies->reach[b] + bodies->reach[a];
        meet |= (uint64_t)(dx * dx + dy * dy <= reach * reach) << b;
    }
    return meet;
}

#ifdef DRIVE_NEW_CPU
static DRIVE_NEW_CPU uint64_t drive_meet_avx2(const drive_bodies *bodies, int32_t a)
{
    __m256 at_x = _mm256_set1_ps(bodies->x[a]), at_y = _mm256_set1_ps(bodies->y[a]), own = _mm256_set1_ps(bodies->reach[a]);
    uint64_t meet = 0;
    for (int32_t b = (a + 1) & ~7; b < bodies->count; b += 8) {
        __m256 dx = _mm256_sub_ps(_mm256_loadu_ps(bodies->x + b), at_x), dy = _mm256_sub_ps(_mm256_loadu_ps(bodies->y + b), at_y);
        __m256 reach = _mm256_add_ps(_mm256_loadu_ps(bodies->reach + b), own);
        __m256 square = _mm256_add_ps(_mm256_mul_ps(dx, dx), _mm256_mul_ps(dy, dy));
        meet |= (uint64_t)_mm256_movemask_ps(_mm256_cmp_ps(square, _mm256_mul_ps(reach, reach), _CMP_LE_OQ)) << b;
    }
    return meet & ~(uint64_t)1 << a;
}
#endif

static inline uint64_t drive_meet(const drive_bodies *bodies, int32_t a)
{
#ifdef DRIVE_NEW_CPU
    if (drive_is_new_cpu()) return drive_meet_avx2(bodies, a);
#endif
    return drive_meet_portable(bodies, a);
}

static inline void drive_fill_bodies(const drive_world *world, int32_t log_index, drive_bodies *bodies)
{
    const drive_scene *scene = world->scene;
    int32_t count = 0;
    for (int32_t i = 0; i < scene->num_agents; i++) {
        if (!drive_can_collide(world, i, log_index)) continue;
        float half_length = scene->length[i] * 0.5f * DRIVE_AGENT_SCALE, half_width = scene->width[i] * 0.5f * DRIVE_AGENT_SCALE;
        bodies->box[count] = (drive_box){world->x[i], world->y[i], world->cos[i], world->sin[i], half_length, half_width,
                                         half_length + half_width, scene->type[i]};
        bodies->x[count] = world->x[i];
        bodies->y[count] = world->y[i];
        bodies->reach[count] = half_length + half_width;
        bodies->slot[count++] = i;
    }
    bodies->count = count;
    for (int32_t b = count; b < count + 8; b++) bodies->x[b] = bodies->y[b] = bodies->reach[b] = __builtin_nanf("");
}

/* Does a body touch a road edge or stop sign? */
static inline int drive_hits_road(const drive_scene *scene, const drive_box *box)
{
    const uint16_t *end, *item = drive_grid_at(&scene->obstacles_near, box->x, box->y, &end);
    for (; item < end; item++) {
        const drive_box *obstacle = &scene->obstacles[*item];
        if (obstacle->type == DRIVE_EDGE && box->type != DRIVE_VEHICLE) continue;
        if (drive_boxes_overlap(box, obstacle)) return 1;
    }
    return 0;
}

/* Adds the collisions of the present positions to the flags. */
static inline void drive_collide(drive_world *world, int32_t log_index)
{
    const drive_scene *scene = world->scene;
    drive_bodies bodies;
    drive_fill_bodies(world, log_index, &bodies);
    for (int32_t a = 0; a < bodies.count; a++) {
        int32_t i = bodies.slot[a];
        for (uint64_t meet = drive_meet(&bodies, a); meet; meet &= meet - 1) {
            int32_t b = __builtin_ctzll(meet), j = bodies.slot[b];
            if (scene->is_static[i] && scene->is_static[j]) continue;
            if (!drive_boxes_overlap(&bodies.box[a], &bodies.box[b])) continue;
            drive_hit_agent(world, i, j);
            drive_hit_agent(world, j, i);
        }
        /* obstacles are static too */
        if (!scene->is_static[i] && drive_hits_road(scene, &bodies.box[a])) world->collided[i] = world->hit_road[i] = 1;
    }
}

#endif
