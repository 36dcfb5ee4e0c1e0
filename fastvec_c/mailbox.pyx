"""The mailboxes of all workers and their ready set, at the start of the arena."""

MAX_WORKERS = FV_MAX_WORKERS


def nbytes(int num_workers):
    """Bytes that the mailboxes of `num_workers` workers take at the start of an arena."""
    return sizeof(fv_ready) + num_workers * sizeof(fv_mailbox)


cdef class Mailboxes:
    def __init__(self, Arena arena, int num_workers):
        self.arena = arena
        self.num_workers = num_workers
        self.num_words = (num_workers + 63) // 64
        self.ready = <fv_ready *>arena.at(0, sizeof(fv_ready))
        self.box = <fv_mailbox *>arena.at(sizeof(fv_ready), num_workers * sizeof(fv_mailbox))

    def close(self, int worker):
        """Tells a worker to leave: now if it waits, else when it has finished what it does."""
        fv_post(&self.box[worker], FV_CLOSE)

    def counters(self, int worker):
        """(steps, seconds in steps, seconds waiting for orders, times parked) of a worker."""
        cdef fv_mailbox *m = &self.box[worker]
        return (
            fv_counted(&m.steps),
            fv_counted(&m.busy_ns) * 1e-9,
            fv_counted(&m.wait_ns) * 1e-9,
            fv_counted(&m.parks),
        )
