/* pack.h: GPUDrive's raw tensors of one agent as an observation row.
 *
 * What GPUDriveTorchEnv.get_obs(mask) computes from the same tensors, bit for bit, without temporaries.
 */
#ifndef FASTVEC_DRIVE_PACK_H
#define FASTVEC_DRIVE_PACK_H

#include "observe.h"

enum { DRIVE_RAW_SELF = 8, DRIVE_RAW_PARTNER = 9, DRIVE_RAW_ROAD = 9, DRIVE_ROAD_TYPES = 7 };

/* self: [8], partners: [63][9], roads: [200][9], out: [2984]. */
static DRIVE_CLONES void drive_pack_row(const float *self, const float *partners, const float *roads, float *out)
{
    out[0] = drive_normal_speed(self[0]);
    out[1] = drive_normal_length(self[1]);
    out[2] = drive_normal_width(self[2]);
    out[3] = drive_normal_position(self[4]);
    out[4] = drive_normal_position(self[5]);
    out[5] = self[6];
    out += DRIVE_EGO;
    for (int32_t k = 0; k < DRIVE_PARTNERS; k++, partners += DRIVE_RAW_PARTNER, out += DRIVE_PARTNER) {
        out[0] = drive_normal_speed(partners[0]);
        out[1] = drive_normal_position(partners[1]);
        out[2] = drive_normal_position(partners[2]);
        out[3] = drive_normal_heading(partners[3]);
        out[4] = drive_normal_length(partners[4]);
        out[5] = drive_normal_width(partners[5]);
    }
    for (int32_t k = 0; k < DRIVE_ROADS; k++, roads += DRIVE_RAW_ROAD, out += DRIVE_ROAD) {
        out[0] = drive_normal_position(roads[0]);
        out[1] = drive_normal_position(roads[1]);
        out[2] = drive_normal_road(roads[2]);
        out[3] = drive_normal_road(roads[3]);
        out[4] = drive_normal_road(roads[4]);
        out[5] = drive_normal_heading(roads[5]);
        for (int32_t type = 0; type < DRIVE_ROAD_TYPES; type++) out[6 + type] = roads[6] == (float)type;
    }
}

#endif
