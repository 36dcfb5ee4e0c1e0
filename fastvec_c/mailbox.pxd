"""The mailboxes and the ready set of mailbox.h, and the object that keeps them mapped."""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from fastvec_c.arena cimport Arena
from fastvec_c.sync cimport fv_waiter
from fastvec_c.trace cimport fv_ring


cdef extern from "mailbox.h" nogil:
    enum:
        FV_STEP
        FV_RESET
        FV_CALL
        FV_CLOSE
        FV_MAX_WORKERS
        FV_ORDER_BITS

    ctypedef struct fv_mailbox:
        int32_t slot
        int32_t action_slot
        int32_t has_options
        int32_t current
        # These are _Atomic: only through the functions below.
        int32_t pid
        int32_t restarts
        int64_t posted_ns
        int64_t takes
        int64_t take_ns
        int64_t steps
        int64_t busy_ns
        int64_t wait_ns
        int64_t pickups
        int64_t pickup_ns
        int64_t began_ns
        int64_t done_ns
        int64_t parks

    ctypedef struct fv_ready:
        pass

    void fv_count(int64_t *counter, int64_t n)
    int64_t fv_counted(const int64_t *counter)
    void fv_note(int64_t *word, int64_t value)
    int64_t fv_order_ns(const fv_mailbox *m)
    void fv_set_process(fv_mailbox *m, int32_t pid, int32_t restarts)

    ctypedef struct fv_words:
        uint32_t cmd
        uint32_t asleep
        uint32_t taken_up
        uint32_t finished
        int32_t pid
        int32_t restarts
        int32_t current
        int32_t announced
    fv_words fv_look(const fv_ready *r, const fv_mailbox *m, int i)
    int fv_trainer_asleep(const fv_ready *r)

    uint32_t fv_post(fv_mailbox *m, uint32_t order, int64_t now)
    uint32_t fv_begin_here(fv_mailbox *m, uint32_t order, int64_t now, fv_ring *ring)
    uint64_t fv_take(fv_ready *r, int k, uint64_t *messages)
    void fv_forget_message(fv_ready *r, int i)
    int fv_park_trainer(fv_ready *r, int num_words, int64_t timeout_ns)

    int fv_look_for_order(fv_mailbox *m, uint32_t last, const fv_waiter *w, int64_t *now)
    uint32_t fv_await_order(fv_mailbox *m, uint32_t *last, fv_waiter *w, int64_t *now, fv_ring *ring, int i)
    void fv_account(fv_mailbox *m, int64_t began, int64_t now)
    void fv_finish(fv_mailbox *m, uint32_t cmd, int64_t now, fv_ring *ring, int i)
    void fv_announce(fv_ready *r, int i, int message)


cdef class Mailboxes:
    cdef Arena arena           # owns the memory that the two pointers point into
    cdef fv_mailbox *box       # [num_workers]
    cdef fv_ring *ring         # [num_workers]
    cdef fv_ready *ready
    cdef readonly int num_workers
    cdef int num_words         # of the ready set in use
