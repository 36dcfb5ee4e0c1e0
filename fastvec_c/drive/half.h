/* half.h: float32 to float16, rounded to the nearest, ties to even; the same bits with and without the processor's help. */
#ifndef FASTVEC_DRIVE_HALF_H
#define FASTVEC_DRIVE_HALF_H

#include <string.h>

#include "cpu.h"

static inline uint16_t drive_half(float value)
{
    uint32_t bits, size;
    memcpy(&bits, &value, sizeof bits);
    size = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (size > 0x7f800000) return sign | 0x7e00 | (uint16_t)(size >> 13 & 0x3ff); /* NaN, made quiet */
    if (size >= 0x477ff000) return sign | 0x7c00;                                 /* 65520 and more: infinity */
    if (size < 0x38800000) {
        /* Below 2^-14.  Next to a half, floats are spaced like these halves, so that the addition rounds. */
        float rounded;
        memcpy(&rounded, &size, sizeof rounded);
        rounded += 0.5f;
        memcpy(&size, &rounded, sizeof size);
        return sign | (uint16_t)(size - 0x3f000000);
    }
    size += 0xfff + (size >> 13 & 1);
    return sign | (uint16_t)((size - 0x38000000) >> 13);
}

static void drive_halves_portable(const float *in, int32_t n, uint16_t *out)
{
    for (int32_t k = 0; k < n; k++) out[k] = drive_half(in[k]);
}

#ifdef DRIVE_NEW_CPU
/* Eight at a time: up to seven more than n are read and written. */
static DRIVE_NEW_CPU void drive_halves_f16c(const float *in, int32_t n, uint16_t *out)
{
    for (int32_t k = 0; k < n; k += 8)
        _mm_storeu_si128((__m128i *)(out + k), _mm256_cvtps_ph(_mm256_loadu_ps(in + k), _MM_FROUND_TO_NEAREST_INT));
}
#endif

#endif
