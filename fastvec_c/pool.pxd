"""The trainer's end: actions out, batches in."""
from libc.stdint cimport int64_t

from fastvec_c.control cimport fv_control
from fastvec_c.fields cimport Fields
from fastvec_c.mailbox cimport Mailboxes
from fastvec_c.sync cimport fv_waiter
from fastvec_c.trace cimport fv_ring
from fastvec_c.worker cimport Host


cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents


cdef enum:
    # Phases.
    FRESH = 0      # never reset
    HOLDING = 1    # a batch is in the user's hands
    FLYING = 2     # recv has something to wait for
    CLOSED = 3

    NOWHERE = -1   # no slot

    # What wait() returns beside the index of a dead worker.
    CAME = -1
    LATE = -2
    SIGNAL = -3


cdef struct WorkerState:
    int slot           # that it wrote last
    int order          # that it works on; 0: its rows are ours
    int last_order     # that it was given last
    int action_slot    # whose actions it takes
    int64_t taken_ns   # when we took its announcement; 0: not looked
    bint message       # something waits on its pipe
    int interrupted    # its worker died in this order, and the user has not been told yet; or 0
    bint dropped       # it has no worker any more: its rows are masked
    bint lent          # its rows are ours, but not of the batch in the user's hands: see loans.pyx


cdef class Pool:
    cdef Fields fields
    cdef readonly Mailboxes boxes      # None with num_workers=0
    cdef readonly Host host            # None with workers
    cdef fv_control *control           # the start of the arena: our account for stats, and for who looks from outside
    cdef fv_ring *ring                 # our events; those of unit i follow at 1 + i
    cdef public list conns             # pipe to each worker
    cdef public object _timeout        # seconds that any wait may last; None: no limit
    cdef dict early                    # {unit: infos} that had to be taken off the pipe before their batch was received
    cdef list options                  # of the reset that the host is to do
    cdef readonly int num_units        # workers, or 1 for the host in this process
    cdef readonly int envs_per_unit, rows_per_unit, units_per_batch
    cdef readonly bint gather          # batches are copied together from any workers; else blocks, in place
    cdef readonly bint in_order        # batches come in the order in which they were sent; else the first to finish
    cdef readonly dict trainer_fields  # {name: array [slots, rows, ...]} that workers know nothing of
    cdef int phase                     # FRESH, HOLDING, FLYING or CLOSED
    cdef str why_closed                # what follows a call's name in its ClosedError
    cdef readonly bint _busy            # a call is under way,
    cdef unsigned long owner           # of this thread
    cdef readonly bint _env_is_working  # of this process: it must not be closed

    cdef WorkerState *unit             # [num_units]
    cdef int *queue                    # [num_units] ring of what recv takes next: units that were sent (in_order), units
                                       # that are ready (gather), or blocks that are ready
    cdef int queue_head, queue_len
    cdef int *missing                  # [blocks] units of each block that are not ready
    cdef int num_flying
    cdef int num_interrupted, num_dropped
    cdef int *held                     # [num_units] the units of the batch in the user's hands
    cdef int num_held
    cdef int num_lent                  # units
    cdef list batches                  # [block][slot] of Batch, made when first needed
    cdef object all_rows               # 0, 1, 2, …: what these batches' `rows` are parts of
    cdef list gathered                 # Batch objects on copied rows, used in turn
    cdef int next_gathered

    # Rollouts: rollout n fills slot 0 to `horizon` of buffer n modulo their number.
    cdef int horizon                   # steps of each unit; 0: there are none
    cdef int last_slot                 # of the rollout under way: who has written it waits for the others; NOWHERE: none is
    cdef int num_left                  # units that will not have written it with the order they have
    cdef long long num_rollouts        # begun so far
    cdef readonly long long oldest_rollout   # whose slots nobody has written since

    cdef fv_waiter waiter
    cdef pollfd *life                  # [num_units] readable when a worker is dead
    cdef int64_t next_life_check

    # Actions: what a row may hold.
    cdef object action_dtype
    cdef tuple action_shape
    cdef int action_type               # NumPy's type number, -1 for structured
    cdef int action_items              # numbers in a row
    cdef int64_t *low                  # [action_items] inclusive bounds of integers, or NULL
    cdef int64_t *high
    cdef object action_check           # debug=True: looks through all of them; else None

    # Time spent, in ns, beside what is in `control`: see VecEnv.stats.
    cdef bint stepping                 # the last order was a step
    cdef int64_t host_ns               # how long the host's last order took
    cdef int since_sample              # batches since we last looked how long the workers took,
    cdef int64_t slowest_ns            # which was this, for the slowest of a batch
    cdef int64_t taken_ns              # when collect() found what it hands to ready(), if it is to be sampled; else 0

    # `send` and `recv` without a Python call.
    cdef give(self, actions, dict fields)
    cdef object receive(self, timeout)

    cdef enter(self, str call)
    cdef int still_open(self, str call) except -1
    cdef int hold(self, str call) except -1
    cdef list answers(self, message, timeout)
    cdef set_bounds(self, spec)
    cdef dict step_rows(self, actions)
    cdef order_step(self, actions, dict fields)
    cdef check_held_actions(self)
    cdef void trace(self, int kind, int u) noexcept nogil
    cdef void order_held(self) noexcept nogil
    cdef void order(self, int u, int what, int64_t now) noexcept nogil
    cdef void finish_dropped(self) noexcept nogil
    cdef void blank(self, int u, bint masks) noexcept nogil
    cdef void truncate(self, int u) noexcept nogil
    cdef void collect(self) noexcept nogil
    cdef void ready(self, int u, bint message) noexcept nogil
    cdef int units_in_turn(self) noexcept nogil
    cdef int next_buffer(self) noexcept nogil
    cdef void carry(self, int u, int slot) noexcept nogil
    cdef void enqueue(self, int entry) noexcept nogil
    cdef bint enough(self, int units) noexcept nogil
    cdef int wait(self, int units, int64_t deadline) noexcept nogil
    cdef int dead_worker(self) noexcept nogil
    cdef await_units(self, int units, timeout, str call)
    cdef run_host(self)
    cdef work_host(self)
    cdef leave_host(self)
    cdef take(self, int units)
    cdef object batch(self)
    cdef object batch_in_place(self)
    cdef object batch_gathered(self)
    cdef dict messages(self)
    cdef scatter(self, actions)
    cdef scatter_fields(self, dict fields)
    cdef const char *fast_actions(self, actions, int *type) except? NULL
    cdef check_bounds(self, const char *data, int type, Py_ssize_t rows)
    cdef void account(self) noexcept nogil
    cdef void sample(self) noexcept nogil
