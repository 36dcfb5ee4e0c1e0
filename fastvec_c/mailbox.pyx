"""The mailboxes of all workers and their ready set, in the control part of the arena."""
from fastvec_c.control cimport fv_boxes_of, fv_control, fv_control_nbytes, fv_ready_of, fv_rings_of
from fastvec_c.sync cimport fv_now

MAX_WORKERS = FV_MAX_WORKERS


cdef class Mailboxes:
    def __init__(self, Arena arena, int num_workers):
        cdef fv_control *control = <fv_control *>arena.at(0, fv_control_nbytes(num_workers))
        self.arena = arena
        self.num_workers = num_workers
        self.num_words = (num_workers + 63) // 64
        self.ready = fv_ready_of(control)
        self.box = fv_boxes_of(control)
        self.ring = fv_rings_of(control, num_workers) + 1

    def close(self, int worker):
        """Tells a worker to leave: now if it waits, else when it has finished what it does."""
        fv_post(&self.box[worker], FV_CLOSE, fv_now())

    def set_process(self, int worker, int pid, int restarts):
        """Says, for who looks from outside, which process the worker is, and how many came before it."""
        fv_set_process(&self.box[worker], pid, restarts)

    def counters(self, int worker):
        """What WorkerStats has of a worker, in its order."""
        cdef fv_mailbox *m = &self.box[worker]
        return (
            fv_counted(&m.steps),
            fv_counted(&m.busy_ns) * 1e-9,
            fv_counted(&m.wait_ns) * 1e-9,
            fv_counted(&m.parks),
            fv_look(self.ready, m, worker).restarts,
            mean(fv_counted(&m.pickup_ns), fv_counted(&m.pickups)),
            mean(fv_counted(&m.take_ns), fv_counted(&m.takes)),
        )


cdef double mean(int64_t ns, int64_t n) noexcept:
    return ns * 1e-9 / n if n else float("nan")
