/* random.h: the worlds' streams of random numbers. */
#ifndef FASTVEC_DRIVE_RANDOM_H
#define FASTVEC_DRIVE_RANDOM_H

#include <stdint.h>

/* splitmix64 (Steele, Lea and Flood 2014) */
static inline uint64_t drive_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* In [low, high). */
static inline float drive_random_between(uint64_t *state, float low, float high)
{
    return low + (float)(drive_random(state) >> 40) * (1.0f / (1 << 24)) * (high - low);
}

#endif
