/* gae.h: one time step of generalized advantage estimation, for all rows at once. */
#ifndef FASTVEC_GAE_H
#define FASTVEC_GAE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t fv_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

/* which ? a : b, as arithmetic on bits: compilers make no vectors of branches, nor of comparisons that might trap. */
static inline float fv_pick(uint32_t which, float a, float b)
{
    const uint32_t mask = 0u - which, bits = (fv_bits(a) & mask) | (fv_bits(b) & ~mask);
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* The arrays of one step, one number a row. */
typedef struct fv_gae_arrays {
    const float *rewards, *values, *next_values, *final_values;
    const uint8_t *terminations, *truncations, *masks; /* 0 or another number */
    const float *next_advantages;
    float *advantages, *returns; /* none of the others */
} fv_gae_arrays;

/* advantages[r] = delta + gamma * lambda * next_advantages[r], returns[r] = advantages[r] + values[r], where
 *     delta = rewards[r] + gamma * V - values[r]
 *     V     = next_values[r]; 0 where terminated; final_values[r] where truncated, values[r] if that is NaN
 * and nothing comes from the next step where the episode ends.  Both are 0 where masked.
 * (Picked, not multiplied by 0 and 1: what is left out may be NaN.) */
static inline __attribute__((always_inline)) void fv_gae_rows(
    ptrdiff_t rows, float gamma, float gamma_lambda, const float *restrict rewards, const float *restrict values,
    const float *restrict next_values, const float *restrict final_values, const uint8_t *restrict terminations,
    const uint8_t *restrict truncations, const uint8_t *restrict masks, const float *restrict next_advantages,
    float *restrict advantages, float *restrict returns)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float value = values[r], final = final_values[r];
        const uint32_t terminated = terminations[r] != 0, truncated = truncations[r] != 0, counts = masks[r] != 0;
        const uint32_t unknown = (fv_bits(final) & 0x7fffffffu) > 0x7f800000u; /* NaN */
        const float cut_off = fv_pick(unknown, value, final);
        const float following = fv_pick(terminated, 0.0f, fv_pick(truncated, cut_off, next_values[r]));
        const float delta = rewards[r] + gamma * following - value;
        const float advantage = fv_pick(terminated | truncated, delta, delta + gamma_lambda * next_advantages[r]);
        advantages[r] = fv_pick(counts, advantage, 0.0f);
        returns[r] = fv_pick(counts, advantage + value, 0.0f);
    }
}

/* Compilers believe `restrict` of parameters, and make vectors. */
static inline __attribute__((always_inline)) void fv_gae_arrays_of(ptrdiff_t rows, float gamma, float gamma_lambda, const fv_gae_arrays *x)
{
    fv_gae_rows(rows, gamma, gamma_lambda, x->rewards, x->values, x->next_values, x->final_values, x->terminations, x->truncations,
                x->masks, x->next_advantages, x->advantages, x->returns);
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) static void fv_gae_rows_avx2(ptrdiff_t rows, float gamma, float gamma_lambda, const fv_gae_arrays *x)
{
    fv_gae_arrays_of(rows, gamma, gamma_lambda, x);
}
#endif

/* The same bits on any processor. */
static inline void fv_gae_step(ptrdiff_t rows, float gamma, float gamma_lambda, const fv_gae_arrays *x)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (__builtin_cpu_supports("avx2")) {
        fv_gae_rows_avx2(rows, gamma, gamma_lambda, x);
        return;
    }
#endif
    fv_gae_arrays_of(rows, gamma, gamma_lambda, x);
}

#endif
