/* collide.h: which agents touch which agents, road edges and stop signs. */
#ifndef FASTVEC_DRIVE_COLLIDE_H
#define FASTVEC_DRIVE_COLLIDE_H

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

/* Adds the collisions of the present positions to the flags. */
static inline void drive_collide(drive_world *world, int32_t log_index)
{
    const drive_scene *scene = world->scene;
    drive_box box[DRIVE_AGENTS];
    int32_t slot[DRIVE_AGENTS], count = 0;
    for (int32_t i = 0; i < scene->num_agents; i++) {
        if (!drive_can_collide(world, i, log_index)) continue;
        float half_length = scene->length[i] * 0.5f * DRIVE_AGENT_SCALE, half_width = scene->width[i] * 0.5f * DRIVE_AGENT_SCALE;
        box[count] = (drive_box){world->x[i], world->y[i], world->cos[i], world->sin[i], half_length, half_width,
                                 half_length + half_width, scene->type[i]};
        slot[count++] = i;
    }
    for (int32_t a = 0; a < count; a++) {
        int32_t i = slot[a];
        for (int32_t b = a + 1; b < count; b++) {
            int32_t j = slot[b];
            if (scene->is_static[i] && scene->is_static[j]) continue;
            if (!drive_boxes_overlap(&box[a], &box[b])) continue;
            drive_hit_agent(world, i, j);
            drive_hit_agent(world, j, i);
        }
        if (scene->is_static[i]) continue; /* obstacles are static too */
        const uint16_t *end, *item = drive_grid_at(&scene->obstacles_near, box[a].x, box[a].y, &end);
        for (; item < end; item++) {
            const drive_box *obstacle = &scene->obstacles[*item];
            if (obstacle->type == DRIVE_EDGE && box[a].type != DRIVE_VEHICLE) continue;
            if (!drive_boxes_overlap(&box[a], obstacle)) continue;
            world->collided[i] = world->hit_road[i] = 1;
            break;
        }
    }
}

#endif
