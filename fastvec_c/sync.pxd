"""Waiting: the clock, the wait policy and the waiter of sync.h."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "sync.h" nogil:
    int64_t fv_now()
    void fv_pause()

    enum:
        FV_HAVE_FUTEX
        FV_WOKEN
        FV_TIMED_OUT
        FV_INTERRUPTED

    ctypedef struct fv_policy:
        int64_t spin_ns
        int64_t yields
        int64_t yield_ns

    ctypedef struct fv_waiter:
        fv_policy policy
        int64_t mean_ns

    void fv_wait_begin(fv_waiter *w, int64_t now)
    int fv_wait_turn(fv_waiter *w)
    void fv_wait_end(fv_waiter *w, int64_t now)
    int fv_eager_looks(const fv_waiter *w)
    void fv_wait_none(fv_waiter *w)


cdef class WaitPolicy:
    cdef fv_policy c
