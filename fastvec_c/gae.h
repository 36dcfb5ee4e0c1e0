/* gae.h: one time step of generalized advantage estimation, for all rows at once. */
#ifndef FASTVEC_GAE_H
#define FASTVEC_GAE_H

#include <stddef.h>
#include <stdint.h>

/* advantages[r] = delta + gamma * lambda * next_advantages[r], returns[r] = advantages[r] + values[r], where
 *     delta = rewards[r] + gamma * V - values[r]
 *     V     = next_values[r]; 0 where terminated; final_values[r] where truncated, values[r] if that is NaN
 * and nothing comes from the next step where the episode ends.  Both are 0 where masked.
 *
 * Choices, not products with 0 and 1: what is not chosen may be NaN.  Everything is read before anything is chosen, and
 * nothing written is read (restrict), so that compilers make vectors of it. */
static inline void fv_gae_step(
    ptrdiff_t rows, float gamma, float gamma_lambda, const float *restrict rewards, const float *restrict values,
    const float *restrict next_values, const float *restrict final_values, const uint8_t *restrict terminations,
    const uint8_t *restrict truncations, const uint8_t *restrict masks, const float *restrict next_advantages,
    float *restrict advantages, float *restrict returns)
{
    for (ptrdiff_t r = 0; r < rows; r++) {
        const float value = values[r], next = next_values[r], final = final_values[r], later = next_advantages[r];
        const int terminated = terminations[r] != 0, truncated = truncations[r] != 0, counts = masks[r] != 0;
        float bootstrap = final == final ? final : value;
        bootstrap = truncated ? bootstrap : next;
        bootstrap = terminated ? 0.0f : bootstrap;
        float advantage = rewards[r] + gamma * bootstrap - value;
        const float going_on = advantage + gamma_lambda * later;
        advantage = terminated | truncated ? advantage : going_on;
        const float sum = advantage + value;
        advantages[r] = counts ? advantage : 0.0f;
        returns[r] = counts ? sum : 0.0f;
    }
}

#endif
