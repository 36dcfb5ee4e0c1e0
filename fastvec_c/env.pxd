"""Compiled envs: the C ABI of include/fastvec_env.h."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "fastvec_env.h" nogil:
    enum:
        FASTVEC_ENV_ABI
        FASTVEC_MAX_EXTRA
        FASTVEC_OK
        FASTVEC_INFO
        FASTVEC_ERROR
    const char *FASTVEC_ENV_CAPSULE

    ctypedef struct fastvec_rows:
        const void *actions
        void *observations
        float *rewards
        uint8_t *terminations
        uint8_t *truncations
        uint8_t *masks
        void *extra[8]

    ctypedef struct fastvec_env:
        uint32_t abi
        uint32_t num_agents
        size_t observation_nbytes
        size_t action_nbytes
        void *self
        int (*reset)(void *self, const fastvec_rows *rows, const uint64_t *seed) noexcept nogil
        int (*step)(void *self, const fastvec_rows *rows) noexcept nogil
        const char *(*error)(void *self) noexcept nogil


cdef class CompiledEnv:
    cdef readonly object env             # the Python object: it owns what `c` points to
    cdef fastvec_env *c
    cdef readonly object observation_spec, action_spec
    cdef readonly int num_agents
    cdef readonly dict fields

    cdef raise_error(self)
