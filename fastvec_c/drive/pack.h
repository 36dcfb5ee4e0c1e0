/* pack.h: GPUDrive's raw tensors of one agent as an observation row.
 *
 * What GPUDriveTorchEnv.get_obs(mask) computes from the same tensors, bit for bit, without temporaries.
 */
#ifndef FASTVEC_DRIVE_PACK_H
#define FASTVEC_DRIVE_PACK_H

#include "observe.h"

enum { DRIVE_RAW_SELF = 8, DRIVE_RAW_PARTNER = 9, DRIVE_RAW_ROAD = 9, DRIVE_ROAD_TYPES = 7 };

/* One agent's part of the tensors. */
typedef struct drive_raw {
    const float *self;     /* [8] */
    const float *weights;  /* [3], of conditioned rewards */
    const float *partners; /* [63][9] */
    const float *roads;    /* [200][9] */
    const float *lidar;    /* [3][50][4] */
    const float *bev;      /* [200][200] */
} drive_raw;

DRIVE_PART float *drive_pack_ego(const float *self, int normalised, float *out)
{
    float length = self[1] * DRIVE_AGENT_SCALE, width = self[2] * DRIVE_AGENT_SCALE;
    out[0] = normalised ? drive_normal_speed(self[0]) : self[0];
    out[1] = normalised ? drive_normal_length(length) : length;
    out[2] = normalised ? drive_normal_width(width) : width;
    out[3] = normalised ? DRIVE_NORMAL_POSITION(self[4]) : self[4];
    out[4] = normalised ? DRIVE_NORMAL_POSITION(self[5]) : self[5];
    out[5] = self[6];
    return out + DRIVE_EGO;
}

DRIVE_PART float *drive_pack_partners(const float *in, int normalised, float *out)
{
    for (int32_t k = 0; k < DRIVE_PARTNERS; k++, in += DRIVE_RAW_PARTNER, out += DRIVE_PARTNER) {
        float length = in[4] * DRIVE_AGENT_SCALE, width = in[5] * DRIVE_AGENT_SCALE;
        out[0] = normalised ? drive_normal_speed(in[0]) : in[0];
        out[1] = normalised ? DRIVE_NORMAL_POSITION(in[1]) : in[1];
        out[2] = normalised ? DRIVE_NORMAL_POSITION(in[2]) : in[2];
        out[3] = normalised ? in[3] / DRIVE_TWO_PI : in[3];
        out[4] = normalised ? drive_normal_length(length) : length;
        out[5] = normalised ? drive_normal_width(width) : width;
    }
    return out;
}

DRIVE_PART float *drive_pack_roads(const float *in, int normalised, float *out)
{
    for (int32_t k = 0; k < DRIVE_ROADS; k++, in += DRIVE_RAW_ROAD, out += DRIVE_ROAD) {
        out[0] = normalised ? DRIVE_NORMAL_POSITION(in[0]) : in[0];
        out[1] = normalised ? DRIVE_NORMAL_POSITION(in[1]) : in[1];
        for (int32_t size = 2; size < 5; size++) out[size] = normalised ? drive_normal_road(in[size]) : in[size];
        out[5] = normalised ? in[5] / DRIVE_TWO_PI : in[5];
        for (int32_t type = 0; type < DRIVE_ROAD_TYPES; type++) out[6 + type] = in[6] == (float)type;
    }
    return out;
}

DRIVE_PART void drive_pack_parts(const drive_row *parts, const drive_raw *raw, int normalised, float *out)
{
    if (parts->ego) out = drive_pack_ego(raw->self, normalised, out);
    if (parts->weights) {
        memcpy(out, raw->weights, DRIVE_WEIGHTS * sizeof *out);
        out += DRIVE_WEIGHTS;
    }
    if (parts->partners) out = drive_pack_partners(raw->partners, normalised, out);
    if (parts->roads) out = drive_pack_roads(raw->roads, normalised, out);
    if (parts->lidar) {
        memcpy(out, raw->lidar, 3 * DRIVE_LIDAR * DRIVE_LIDAR_SAMPLE * sizeof *out);
        out += 3 * DRIVE_LIDAR * DRIVE_LIDAR_SAMPLE;
    }
    if (parts->bev) memcpy(out, raw->bev, DRIVE_BEV * DRIVE_BEV * sizeof *out);
}

/* The row that consists of `parts`, float32. */
static void drive_pack_row(const drive_row *parts, const drive_raw *raw, float *out)
{
    if (parts->normalised) drive_pack_parts(parts, raw, 1, out);
    else drive_pack_parts(parts, raw, 0, out);
}

#endif
