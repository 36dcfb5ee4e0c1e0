"""The mailboxes and the ready set of mailbox.h, and the object that keeps them mapped."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastvec_c.arena cimport Arena
from fastvec_c.sync cimport fv_waiter


cdef extern from "mailbox.h" nogil:
    enum:
        FV_STEP
        FV_RESET
        FV_CALL
        FV_CLOSE
        FV_MAX_WORKERS

    ctypedef struct fv_mailbox:
        int32_t slot
        int32_t action_slot
        int32_t has_options
        int32_t current
        # These are _Atomic: only through fv_counted.
        int64_t steps
        int64_t busy_ns
        int64_t order_ns
        int64_t wait_ns
        int64_t parks

    ctypedef struct fv_ready:
        pass

    int64_t fv_counted(int64_t *counter)

    void fv_post(fv_mailbox *m, uint32_t order)
    uint64_t fv_take(fv_ready *r, int k, uint64_t *messages)
    void fv_forget_message(fv_ready *r, int i)
    int fv_park_trainer(fv_ready *r, int num_words, int64_t timeout_ns)

    int fv_look_for_order(fv_mailbox *m, uint32_t last, const fv_waiter *w, int64_t *now)
    uint32_t fv_await_order(fv_mailbox *m, uint32_t *last, fv_waiter *w, int64_t *now)
    void fv_account(fv_mailbox *m, int is_step, int64_t began, int64_t now)
    void fv_announce(fv_ready *r, int i, int message)


cdef class Mailboxes:
    cdef Arena arena           # owns the memory that the two pointers point into
    cdef fv_mailbox *box       # [num_workers]
    cdef fv_ready *ready
    cdef readonly int num_workers
    cdef int num_words         # of the ready set in use
