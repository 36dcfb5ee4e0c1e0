/* bev.h: the bird's-eye view, a grid of entity types around an agent. */
#ifndef FASTVEC_DRIVE_BEV_H
#define FASTVEC_DRIVE_BEV_H

#include <math.h>
#include <string.h>

#include "angle.h"
#include "layout.h"

/* What may be a hair outside a rectangle and still be drawn. */
#define DRIVE_BEV_SLACK 1e-3f

static inline int32_t drive_bev_cell(float metres, float radius)
{
    int32_t cell = (int32_t)((metres + radius) * (DRIVE_BEV / (2 * radius)));
    return cell < 0 ? 0 : cell > DRIVE_BEV - 1 ? DRIVE_BEV - 1 : cell;
}

/* Is cell (column, row) in the rectangle?  Cells are judged by their lower corner. */
static inline int drive_bev_inside(int32_t column, float dy, float x, float c, float s, float half_length, float half_width,
                                   float radius, float cell)
{
    float dx = ((float)column * cell - radius) - x;
    return __builtin_fabsf(dx * c + dy * s) <= half_length + DRIVE_BEV_SLACK && __builtin_fabsf(dy * c - dx * s) <= half_width + DRIVE_BEV_SLACK;
}

/* Fills the cells of a rectangle that lies at (x, y) in the agent's frame, turned by (c, s).  It is convex, so each row of
 * it is a run of cells: about known from its equations, then moved in until both ends are inside. */
static inline void drive_bev_draw(float x, float y, float c, float s, float length, float width, uint8_t type, float radius, uint8_t *out)
{
    float half_length = length / 2, half_width = width / 2, cell = 2 * radius / DRIVE_BEV;
    float longest = half_length > half_width ? half_length : half_width;
    float reach = __builtin_ceilf(__builtin_sqrtf(2 * (longest * longest)) / cell);
    if (!(reach < 1e6f) || !(__builtin_fabsf(c) <= 1.001f) || !(__builtin_fabsf(s) <= 1.001f)) return;
    int32_t column = drive_bev_cell(x, radius), row = drive_bev_cell(y, radius), most = (int32_t)reach;
    int32_t left = column - most, right = column + most, low = row - most, high = row + most;
    left = left < 0 ? 0 : left;
    right = right > DRIVE_BEV - 1 ? DRIVE_BEV - 1 : right;
    low = low < 0 ? 0 : low;
    high = high > DRIVE_BEV - 1 ? DRIVE_BEV - 1 : high;
    /* |dx c + dy s| <= half_length bounds dx where c is not 0, and |dy c - dx s| <= half_width where s is not. */
    int use_length = __builtin_fabsf(c) > 1e-4f, use_width = __builtin_fabsf(s) > 1e-4f;
    float by_c = use_length ? 1 / c : 0, by_s = use_width ? 1 / s : 0;
    float length_run = __builtin_fabsf((half_length + DRIVE_BEV_SLACK) * by_c), width_run = __builtin_fabsf((half_width + DRIVE_BEV_SLACK) * by_s);
    for (int32_t r = low; r <= high; r++) {
        float dy = ((float)r * cell - radius) - y, from = -4 * radius, to = 4 * radius;
        if (use_length) {
            float middle = -dy * s * by_c;
            from = middle - length_run > from ? middle - length_run : from;
            to = middle + length_run < to ? middle + length_run : to;
        }
        if (use_width) {
            float middle = dy * c * by_s;
            from = middle - width_run > from ? middle - width_run : from;
            to = middle + width_run < to ? middle + width_run : to;
        }
        /* Now as cells, with room for rounding. */
        from = (from + x + radius) / cell - 1;
        to = (to + x + radius) / cell + 1;
        if (!(from <= to)) continue;
        int32_t a = from > (float)left ? (int32_t)(from < DRIVE_BEV ? from : DRIVE_BEV) : left;
        int32_t b = to < (float)right ? (int32_t)(to > -1 ? to : -1) : right;
        while (a <= b && !drive_bev_inside(a, dy, x, c, s, half_length, half_width, radius, cell)) a++;
        while (a <= b && !drive_bev_inside(b, dy, x, c, s, half_length, half_width, radius, cell)) b--;
        if (a <= b) memset(out + r * DRIVE_BEV + a, type, (size_t)(b - a) + 1);
    }
}

/* Draws what the agent in a slot has around it: out[DRIVE_BEV][DRIVE_BEV] entity types, the agent in the middle, x (the
 * way it heads) along the rows, which follow each other by y, to its left.  First the first 200 road segments in file
 * order whose centres are within `radius`, then the other agents there, each over those before it.  As GPUDrive does it: the half extents of a segment are taken for its extents, its width at least a cell;
 * agents are of full size. */
static void drive_bev(const drive_world *world, int32_t slot, float radius, uint8_t *out)
{
    const drive_scene *scene = world->scene;
    float x = world->x[slot], y = world->y[slot], c = world->cos[slot], s = world->sin[slot], cell = 2 * radius / DRIVE_BEV;
    const float *segment = scene->map_observation, *end = segment + DRIVE_MAP * (size_t)scene->num_segments;
    memset(out, 0, DRIVE_BEV * DRIVE_BEV);
    for (int32_t count = 0; segment < end && count < DRIVE_ROADS; segment += DRIVE_MAP) {
        float dx = segment[0] - x, dy = segment[1] - y, turn_cos, turn_sin;
        if (!(dx * dx + dy * dy <= radius * radius)) continue;
        count++;
        drive_sincos(segment[5] - world->yaw[slot], &turn_sin, &turn_cos);
        drive_bev_draw(dx * c + dy * s, dy * c - dx * s, turn_cos, turn_sin, segment[2], segment[3] > cell ? segment[3] : cell,
                       (uint8_t)segment[6], radius, out);
    }
    for (int32_t j = 0; j < scene->num_agents; j++) {
        float dx = world->x[j] - x, dy = world->y[j] - y;
        if (j == slot || !(dx * dx + dy * dy <= radius * radius)) continue;
        drive_bev_draw(dx * c + dy * s, dy * c - dx * s, world->cos[j] * c + world->sin[j] * s, world->sin[j] * c - world->cos[j] * s,
                       scene->length[j], scene->width[j], scene->type[j], radius, out);
    }
}

#endif
