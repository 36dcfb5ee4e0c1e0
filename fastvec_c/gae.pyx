"""Generalized advantage estimation; gae.h has the formula."""
import numpy as np

from libc.stdint cimport uint8_t

from fastvec_c.gae cimport fv_gae_arrays, fv_gae_step


def estimate(const float[:, :] rewards not None, const float[:, :] values not None, const float[::1] last_values not None,
             const float[:, :] final_values, const uint8_t[:, :] terminations not None, const uint8_t[:, :] truncations not None,
             const uint8_t[:, :] masks not None, float gamma, float gae_lambda,
             float[:, ::1] advantages not None, float[:, ::1] returns not None):
    """Fills `advantages` and `returns`, from the last step to the first, without the GIL.

    Shapes and strides are the caller's to check (fastvec.gae does): from here on there are only pointers.

    Args:
        rewards, values, final_values, terminations, truncations, masks, advantages, returns: [T, rows], one shape for all; the
            rows of a step lie side by side, its steps wherever they like (a stride of 0 is one step for all).
        last_values: [rows], of the observations after the last step.
        final_values: None: the observations that ended episodes are the next ones.
    """
    cdef Py_ssize_t t, steps = rewards.shape[0], rows = rewards.shape[1]
    cdef const float[::1] nothing = np.zeros(rows, np.float32)
    cdef fv_gae_arrays x
    if steps == 0 or rows == 0:
        return
    with nogil:
        x.next_values, x.next_advantages = &last_values[0], &nothing[0]
        for t in range(steps - 1, -1, -1):
            x.rewards, x.values = &rewards[t, 0], &values[t, 0]
            x.final_values = x.next_values if final_values is None else &final_values[t, 0]
            x.terminations, x.truncations, x.masks = &terminations[t, 0], &truncations[t, 0], &masks[t, 0]
            x.advantages, x.returns = &advantages[t, 0], &returns[t, 0]
            fv_gae_step(rows, gamma, gamma * gae_lambda, &x)
            x.next_values, x.next_advantages = x.values, x.advantages
