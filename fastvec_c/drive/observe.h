/* observe.h: writes observation rows, normalised, in place.
 *
 * A row is what GPUDrive's `get_obs(mask)` gives a controlled agent: 6 floats on itself, 63 x 6 on partners, 200 x 13 on
 * roads.  The normalising formulas keep its order of float32 operations.
 */
#ifndef FASTVEC_DRIVE_OBSERVE_H
#define FASTVEC_DRIVE_OBSERVE_H

#include <string.h>

#include "angle.h"
#include "grid.h"

/* The same code twice, chosen when the library is loaded.  avx2 brings no fused multiply-add: both give the same bits. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define DRIVE_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define DRIVE_CLONES
#endif
/* Part of a clone, not a function of its own, which would be compiled for the oldest processor. */
#define DRIVE_PART static inline __attribute__((always_inline))

static inline float drive_normal_position(float x) { return 2.0f * ((x + 1000.0f) / 2000.0f) - 1.0f; }
static inline float drive_normal_heading(float a) { return a / DRIVE_TWO_PI; }
static inline float drive_normal_speed(float v) { return v / 100.0f; }
static inline float drive_normal_length(float v) { return v * DRIVE_AGENT_SCALE / 30.0f; }
static inline float drive_normal_width(float v) { return v * DRIVE_AGENT_SCALE / 15.0f; }
static inline float drive_normal_road(float v) { return v / 100.0f; }

DRIVE_PART void drive_write_ego(const drive_world *world, int32_t i, float *out)
{
    const drive_scene *scene = world->scene;
    float dx = scene->goal_x[i] - world->x[i], dy = scene->goal_y[i] - world->y[i], c = world->cos[i], s = world->sin[i];
    out[0] = drive_normal_speed(world->speed[i]);
    out[1] = scene->seen_length[i];
    out[2] = scene->seen_width[i];
    out[3] = drive_normal_position(dx * c + dy * s);
    out[4] = drive_normal_position(dy * c - dx * s);
    out[5] = world->collided[i];
}

/* Everybody else within the radius, in slot order; what is left is zero. */
DRIVE_PART void drive_write_partners(const drive_world *world, int32_t i, float radius, float *out)
{
    const drive_scene *scene = world->scene;
    float x = world->x[i], y = world->y[i], c = world->cos[i], s = world->sin[i], yaw = world->yaw[i];
    float *end = out + DRIVE_PARTNERS * DRIVE_PARTNER;
    for (int32_t j = 0; j < scene->num_agents; j++) {
        float dx = world->x[j] - x, dy = world->y[j] - y;
        if (j == i || !(dx * dx + dy * dy <= radius * radius)) continue;
        out[0] = drive_normal_speed(world->speed[j]);
        out[1] = drive_normal_position(dx * c + dy * s);
        out[2] = drive_normal_position(dy * c - dx * s);
        out[3] = drive_normal_heading(drive_wrap(world->yaw[j] - yaw));
        out[4] = scene->seen_length[j];
        out[5] = scene->seen_width[j];
        out += DRIVE_PARTNER;
    }
    memset(out, 0, (size_t)(end - out) * sizeof *out);
}

/* What a choice of roads leaves for the writing: ids and centres relative to the observer. */
typedef struct drive_road_choice {
    int32_t count;
    uint16_t id[DRIVE_ROADS];
    float dx[DRIVE_ROADS], dy[DRIVE_ROADS];
} drive_road_choice;

/* The first 200 segments, in index order, whose centre is within the radius. */
DRIVE_PART void drive_first_roads(const drive_scene *scene, float x, float y, float radius, drive_road_choice *roads)
{
    const uint16_t *end, *item = drive_grid_at(&scene->segments_near, x, y, &end);
    int32_t count = 0;
    for (; item < end && count < DRIVE_ROADS; item++) {
        const drive_segment *segment = &scene->segments[*item];
        float dx = segment->x - x, dy = segment->y - y;
        roads->id[count] = *item;
        roads->dx[count] = dx;
        roads->dy[count] = dy;
        count += dx * dx + dy * dy <= radius * radius;
    }
    roads->count = count;
}

/* The 200 nearest segments within the radius, in index order (GPUDrive: the same ones, in heap order).  Keeps the
 * chosen in a max-heap on (distance, index). */
DRIVE_PART void drive_nearest_roads(const drive_scene *scene, float x, float y, float radius, drive_road_choice *roads)
{
    const uint16_t *end, *item = drive_grid_at(&scene->segments_near, x, y, &end);
    float distance[DRIVE_ROADS];
    int32_t heap[DRIVE_ROADS], count = 0;
    uint16_t chosen[DRIVE_ROADS];
    for (; item < end; item++) {
        const drive_segment *segment = &scene->segments[*item];
        float dx = segment->x - x, dy = segment->y - y, d = dx * dx + dy * dy;
        if (!(d <= radius * radius)) continue;
        int32_t at;
        if (count < DRIVE_ROADS) {
            int32_t place = count;
            distance[place] = d;
            chosen[place] = *item;
            for (at = count++; at > 0 && distance[heap[(at - 1) / 2]] < d; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
            heap[at] = place;
        } else if (d < distance[heap[0]]) {
            int32_t place = heap[0];
            distance[place] = d;
            chosen[place] = *item;
            for (at = 0;;) {
                int32_t child = 2 * at + 1;
                if (child >= count) break;
                if (child + 1 < count && distance[heap[child + 1]] > distance[heap[child]]) child++;
                if (distance[heap[child]] <= d) break;
                heap[at] = heap[child];
                at = child;
            }
            heap[at] = place;
        }
    }
    uint64_t is_chosen[(DRIVE_SEGMENTS + 63) / 64];
    memset(is_chosen, 0, (size_t)(scene->num_segments + 63) / 64 * sizeof *is_chosen);
    for (int32_t k = 0; k < count; k++) is_chosen[chosen[k] >> 6] |= (uint64_t)1 << (chosen[k] & 63);
    roads->count = 0;
    for (int32_t word = 0; word < (scene->num_segments + 63) / 64; word++)
        for (uint64_t bits = is_chosen[word]; bits; bits &= bits - 1) {
            uint16_t id = (uint16_t)(word * 64 + __builtin_ctzll(bits));
            roads->id[roads->count] = id;
            roads->dx[roads->count] = scene->segments[id].x - x;
            roads->dy[roads->count++] = scene->segments[id].y - y;
        }
}

DRIVE_PART void drive_write_roads(const drive_world *world, int32_t i, const drive_rules *rules, float *out)
{
    const drive_segment *segments = world->scene->segments;
    float c = world->cos[i], s = world->sin[i], yaw = world->yaw[i];
    drive_road_choice roads;
    float heading[DRIVE_ROADS];
    if (rules->road_algorithm == DRIVE_LINEAR) drive_first_roads(world->scene, world->x[i], world->y[i], rules->radius, &roads);
    else drive_nearest_roads(world->scene, world->x[i], world->y[i], rules->radius, &roads);
    int32_t count = roads.count;
    for (int32_t k = 0; k < count; k++) heading[k] = segments[roads.id[k]].heading;
    for (int32_t k = 0; k < count; k++) {
        float dx = roads.dx[k], dy = roads.dy[k];
        roads.dx[k] = drive_normal_position(dx * c + dy * s);
        roads.dy[k] = drive_normal_position(dy * c - dx * s);
        heading[k] = drive_normal_heading(drive_wrap(heading[k] - yaw));
    }
    for (int32_t k = 0; k < count; k++, out += DRIVE_ROAD) {
        memcpy(out, segments[roads.id[k]].row, DRIVE_ROAD * sizeof *out);
        out[0] = roads.dx[k];
        out[1] = roads.dy[k];
        out[5] = heading[k];
    }
    memcpy(out, rules->empty_roads, (size_t)(DRIVE_ROADS - count) * DRIVE_ROAD * sizeof *out);
}

/* The row of the agent in slot i.  Agents that are away see no road, since the grid ends where the roads do. */
static DRIVE_CLONES void drive_write_row(const drive_world *world, int32_t i, const drive_rules *rules, float *out)
{
    if (rules->row.ego) {
        drive_write_ego(world, i, out);
        out += DRIVE_EGO;
    }
    if (rules->row.weights) {
        memcpy(out, world->weights[i], sizeof world->weights[i]);
        out += DRIVE_WEIGHTS;
    }
    if (rules->row.partners) {
        drive_write_partners(world, i, rules->radius, out);
        out += DRIVE_PARTNERS * DRIVE_PARTNER;
    }
    if (rules->row.roads) drive_write_roads(world, i, rules, out);
}

#endif
