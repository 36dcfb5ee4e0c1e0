"""The start of the arena, as control.h lays it out."""
from libc.stdint cimport int32_t, int64_t, uint32_t

from fastvec_c.mailbox cimport fv_mailbox, fv_ready
from fastvec_c.trace cimport fv_ring


cdef extern from "control.h" nogil:
    enum:
        FV_LAYOUT

    ctypedef struct fv_control:
        uint32_t layout
        int32_t trainer
        int32_t num_workers
        int32_t num_units
        int32_t envs_per_unit
        int32_t rows_per_unit
        int32_t units_per_batch
        int32_t slots
        int64_t made_ns
        char version[24]
        char kind[64]
        # These are _Atomic: only through fv_count, fv_counted and fv_note.
        int64_t batches
        int64_t rows
        int64_t policy_ns
        int64_t loop_ns
        int64_t env_ns
        int64_t last_send
        int64_t last_recv
        int64_t waiting_since
        int64_t parks
        int64_t closed

    fv_ready *fv_ready_of(fv_control *c)
    fv_mailbox *fv_boxes_of(fv_control *c)
    fv_ring *fv_rings_of(fv_control *c, int num_units)
    size_t fv_control_nbytes(int num_units)
    void fv_introduce(fv_control *c)
    int fv_introduced(const fv_control *c)
    int fv_same_layout(const fv_control *c)


cdef class View:
    cdef const char *base      # the mapped part, read-only
    cdef size_t nbytes
    cdef fv_control *control   # base; const but for helpers that find the parts

    cdef map(self, int fd, size_t size)
    cdef unmap(self)
