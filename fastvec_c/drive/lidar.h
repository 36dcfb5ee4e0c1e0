/* lidar.h: what an agent's lidar beams hit.
 *
 * Three fans of 50 beams, of 120 degrees about where the agent looks, at three heights.  The lowest passes under the
 * agents and hits lines, lanes, crosswalks and bumps; the others hit agents, the lower of them also road edges.  Stop
 * signs stand in the way of all.  As in GPUDrive, a beam that begins in a box leaves it without noticing.
 */
#ifndef FASTVEC_DRIVE_LIDAR_H
#define FASTVEC_DRIVE_LIDAR_H

#include <math.h>
#include <string.h>

#include "angle.h"
#include "layout.h"

#define DRIVE_LIDAR_RANGE 200.0f
#define DRIVE_LIDAR_ANGLE 1.04719758f /* from the middle of the fan to its first beam: pi/3 */
#define DRIVE_LIDAR_STEP (DRIVE_LIDAR_ANGLE / 25)

/* The fan, in the frame of the agent's gaze: its origin, x the way it looks. */
typedef struct drive_gaze {
    float x, y, cos, sin;
    float beam_cos[DRIVE_LIDAR], beam_sin[DRIVE_LIDAR];
} drive_gaze;

typedef struct drive_echoes {
    float depth[DRIVE_LIDAR], type[DRIVE_LIDAR]; /* type 0: nothing within the range */
} drive_echoes;

/* tan of beams' angles, so |t| <= 1.75: right to 3.1e-4 rad. */
static inline float drive_atan_of_beam(float t)
{
    float q = t * t;
    return t * (0.99992866f + q * (-0.330562f + q * (0.18152851f + q * (-0.0922924f + q * (0.03308873f + q * (-0.00683432f + q * 0.00059682f))))));
}

/* The beams that may hit a rectangle, from the bearings of its corners: first <= k <= last.  u: forward, v: to the left. */
static inline void drive_beams_on(float u, float v, float along_u, float along_v, float across_u, float across_v, int32_t *first, int32_t *last)
{
    float cu[4] = {u + along_u + across_u, u + along_u - across_u, u - along_u + across_u, u - along_u - across_u};
    float cv[4] = {v + along_v + across_v, v + along_v - across_v, v - along_v + across_v, v - along_v - across_v};
    float low = 1.75f, high = -1.75f;
    for (int k = 0; k < 4; k++) {
        if (!(cu[k] > 1e-3f)) { /* not wholly in front */
            *first = 0;
            *last = DRIVE_LIDAR - 1;
            return;
        }
        float t = cv[k] / cu[k];
        low = t < low ? t : low;
        high = t > high ? t : high;
    }
    low = low < -1.75f ? -1.75f : low > 1.75f ? 1.75f : low;
    high = high < -1.75f ? -1.75f : high > 1.75f ? 1.75f : high;
    /* 1e-3: more than the error of the arcus tangent */
    *first = (int32_t)((drive_atan_of_beam(low) - 1e-3f) * (1 / DRIVE_LIDAR_STEP) + 26);
    *last = (int32_t)((drive_atan_of_beam(high) + 1e-3f) * (1 / DRIVE_LIDAR_STEP) + 25);
    if (*first < 0) *first = 0;
    if (*last > DRIVE_LIDAR - 1) *last = DRIVE_LIDAR - 1;
}

/* Shortens the beams that a box stops. */
static inline void drive_look_at(const drive_gaze *gaze, const drive_box *box, drive_echoes *echoes)
{
    float dx = box->x - gaze->x, dy = box->y - gaze->y, reach = box->reach, far = DRIVE_LIDAR_RANGE + reach;
    float u = dx * gaze->cos + dy * gaze->sin, v = dy * gaze->cos - dx * gaze->sin;
    /* Beyond the range, or beside the fan, whose edges are at 60 degrees: cos 0.5, sin 0.866.  Also what is not finite. */
    if (!(u * u + v * v <= far * far) || !(__builtin_fabsf(v) * 0.5f - u * 0.8660254f <= reach * 1.001f + 1e-3f)) return;
    float c = box->cos * gaze->cos + box->sin * gaze->sin, s = box->sin * gaze->cos - box->cos * gaze->sin;
    float half_length = box->half_length, half_width = box->half_width;
    int32_t first, last;
    drive_beams_on(u, v, c * half_length, s * half_length, -s * half_width, c * half_width, &first, &last);
    float ox = -(u * c + v * s), oy = u * s - v * c; /* the agent in the frame of the box */
    for (int32_t k = first; k <= last; k++) {
        float bx = gaze->beam_cos[k] * c + gaze->beam_sin[k] * s, by = gaze->beam_sin[k] * c - gaze->beam_cos[k] * s;
        float in = -1, out = echoes->depth[k];
        if (bx != 0) {
            float a = (-half_length - ox) / bx, b = (half_length - ox) / bx;
            in = a < b ? a : b;
            out = (a < b ? b : a) < out ? (a < b ? b : a) : out;
        } else if (__builtin_fabsf(ox) > half_length) continue;
        if (by != 0) {
            float a = (-half_width - oy) / by, b = (half_width - oy) / by;
            in = (a < b ? a : b) > in ? (a < b ? a : b) : in;
            out = (a < b ? b : a) < out ? (a < b ? b : a) : out;
        } else if (__builtin_fabsf(oy) > half_width) continue;
        if (in >= 0 && in <= out) {
            echoes->depth[k] = in;
            echoes->type[k] = (float)box->type;
        }
    }
}

static inline void drive_look_at_agents(const drive_gaze *gaze, const drive_world *world, int32_t slot, drive_echoes *echoes)
{
    const drive_scene *scene = world->scene;
    for (int32_t j = 0; j < scene->num_agents; j++) {
        if (j == slot || world->away[j]) continue;
        float half_length = scene->length[j] * 0.5f * DRIVE_AGENT_SCALE, half_width = scene->width[j] * 0.5f * DRIVE_AGENT_SCALE;
        drive_box box = {world->x[j], world->y[j], world->cos[j], world->sin[j], half_length, half_width,
                         half_length + half_width, scene->type[j]};
        drive_look_at(gaze, &box, echoes);
    }
}

/* The samples of the agent in a slot: out[3][DRIVE_LIDAR][DRIVE_LIDAR_SAMPLE], beams from right to left, as GPUDrive's
 * lidar: those that look for agents, for road edges, for road lines.  A sample is depth (m), entity type, x, y (in the
 * agent's frame); zeros where there is nothing within 200 m.  The third float of the last action of a driven agent tilts
 * its head, under whatever dynamics. */
static void drive_lidar(const drive_world *world, int32_t slot, float *out)
{
    const drive_scene *scene = world->scene;
    drive_echoes fan[3];
    drive_gaze gaze;
    float tilt_cos = 1, tilt_sin = 0;
    memset(fan, 0, sizeof fan);
    if (!world->away[slot]) {
        if (scene->is_controlled[slot]) drive_sincos(world->action[slot][2], &tilt_sin, &tilt_cos);
        gaze.x = world->x[slot];
        gaze.y = world->y[slot];
        gaze.cos = world->cos[slot] * tilt_cos - world->sin[slot] * tilt_sin;
        gaze.sin = world->sin[slot] * tilt_cos + world->cos[slot] * tilt_sin;
        for (int32_t k = 0; k < DRIVE_LIDAR; k++) {
            drive_sincos(DRIVE_LIDAR_ANGLE * (2 * (float)k / DRIVE_LIDAR - 1), &gaze.beam_sin[k], &gaze.beam_cos[k]);
            fan[2].depth[k] = DRIVE_LIDAR_RANGE;
        }
        const drive_box *line = scene->boxes, *sign = line + scene->num_lines, *edge = sign + scene->num_signs;
        const drive_box *end = line + scene->num_segments;
        for (const drive_box *box = sign; box < edge; box++) drive_look_at(&gaze, box, &fan[2]);
        fan[0] = fan[2];
        drive_look_at_agents(&gaze, world, slot, &fan[0]);
        fan[1] = fan[0];
        for (const drive_box *box = edge; box < end; box++) drive_look_at(&gaze, box, &fan[1]);
        for (const drive_box *box = line; box < sign; box++) drive_look_at(&gaze, box, &fan[2]);
    }
    for (int32_t f = 0; f < 3; f++)
        for (int32_t k = 0; k < DRIVE_LIDAR; k++, out += DRIVE_LIDAR_SAMPLE) {
            memset(out, 0, DRIVE_LIDAR_SAMPLE * sizeof *out);
            if (fan[f].type[k] == 0) continue;
            out[0] = fan[f].depth[k];
            out[1] = fan[f].type[k];
            out[2] = out[0] * (gaze.beam_cos[k] * tilt_cos - gaze.beam_sin[k] * tilt_sin);
            out[3] = out[0] * (gaze.beam_sin[k] * tilt_cos + gaze.beam_cos[k] * tilt_sin);
        }
}

#endif
