"""Generalized advantage estimation; gae.h has the formula."""
from libc.stdint cimport uint8_t


cdef extern from "gae.h" nogil:
    struct fv_gae_arrays:
        const float *rewards
        const float *values
        const float *next_values
        const float *final_values
        const uint8_t *terminations
        const uint8_t *truncations
        const uint8_t *masks
        const float *next_advantages
        float *advantages
        float *returns

    void fv_gae_step(Py_ssize_t rows, float gamma, float gamma_lambda, const fv_gae_arrays *x)
