"""The rings of events of trace.h."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "trace.h" nogil:
    enum:
        FV_EVENTS
        FV_SENT
        FV_RECEIVED
        FV_DIED
        FV_REPLACED
        FV_DROPPED
        FV_LATE
        FV_TAKEN_UP
        FV_FINISHED
        FV_PARKED

    ctypedef struct fv_ring:
        pass

    ctypedef struct fv_seen:
        int64_t ns
        int32_t kind
        int32_t worker
        int32_t slot
        uint32_t cmd

    void fv_trace(fv_ring *r, int kind, int64_t ns, uint32_t cmd, int worker, int slot)
    void fv_trace_sleep(fv_ring *r, int64_t ns, uint32_t cmd, int worker)
    int fv_read_ring(const fv_ring *r, fv_seen *out, uint64_t *first)
