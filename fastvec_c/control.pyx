"""The start of the arena: what it says of itself, written by the trainer, read by whoever looks from outside."""
import os

from libc.errno cimport errno
from libc.stdlib cimport free, malloc
from libc.string cimport strncpy
from libc.stdint cimport uint64_t

from fastvec_c.arena cimport Arena
from fastvec_c.mailbox cimport (
    FV_CALL, FV_CLOSE, FV_ORDER_BITS, FV_RESET, FV_STEP, fv_counted, fv_look, fv_note, fv_trainer_asleep,
    fv_words,
)
from fastvec_c.sync cimport fv_now
from fastvec_c.trace cimport (
    FV_DIED, FV_DROPPED, FV_EVENTS, FV_FINISHED, FV_LATE, FV_PARKED, FV_RECEIVED, FV_REPLACED, FV_SENT, FV_TAKEN_UP, fv_read_ring,
    fv_seen,
)


cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t nbytes, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t nbytes)
    int PROT_READ
    int MAP_SHARED
    void *MAP_FAILED

ORDERS = {FV_STEP: "step", FV_RESET: "reset", FV_CALL: "call", FV_CLOSE: "close"}
EVENTS = {
    FV_SENT: "sent", FV_RECEIVED: "received", FV_DIED: "died", FV_REPLACED: "replaced", FV_DROPPED: "dropped", FV_LATE: "late",
    FV_TAKEN_UP: "taken up", FV_FINISHED: "finished", FV_PARKED: "parked",
}


def nbytes(int num_units):
    """Bytes that control.h takes at the start of an arena."""
    return fv_control_nbytes(num_units)


def introduce(Arena arena, *, int num_workers, int num_units, int envs_per_unit, int rows_per_unit, int units_per_batch,
              int slots, str version, str kind):
    """Writes what the arena says of itself.  Once, by the trainer, before the first order."""
    cdef fv_control *c = <fv_control *>arena.at(0, fv_control_nbytes(num_units))
    c.trainer = os.getpid()
    c.num_workers, c.num_units, c.envs_per_unit, c.rows_per_unit = num_workers, num_units, envs_per_unit, rows_per_unit
    c.units_per_batch, c.slots = units_per_batch, slots
    c.made_ns = fv_now()
    put(c.version, version, sizeof(c.version))
    put(c.kind, kind, sizeof(c.kind))
    fv_introduce(c)


cdef put(char *target, str text, size_t size):
    encoded = text.encode("utf-8", "replace")
    strncpy(target, encoded, size - 1)  # the memory was zero: it ends with \0


def conclude(Arena arena):
    """Says that the VecEnv has been closed."""
    fv_note(&(<fv_control *>arena.at(0, sizeof(fv_control))).closed, 1)


def now():
    """Seconds, on the clock of all the times here."""
    return fv_now() * 1e-9


class NotIntroduced(Exception):
    """The arena does not say anything of itself (yet)."""


class OtherLayout(Exception):
    """The arena was made by a fastvec whose arenas look different.  `args`: its version."""


cdef class View:
    """The control part of somebody else's arena, mapped so that it can only be read.

    Args:
        fd: a descriptor of the arena, which stays the caller's.
        size: the arena's bytes.

    Raises:
        NotIntroduced, OtherLayout: there is nothing to be read.
        OSError: the system refuses to map it.
    """

    def __cinit__(self, int fd, size_t size):
        if size < sizeof(fv_control):
            raise NotIntroduced()
        self.map(fd, sizeof(fv_control))
        if not fv_introduced(self.control):
            raise NotIntroduced()
        if not fv_same_layout(self.control) or self.control.num_units < 1 or size < fv_control_nbytes(self.control.num_units):
            raise OtherLayout(self.control.version[:sizeof(self.control.version)].split(b"\0")[0].decode("utf-8", "replace"))
        self.map(fd, fv_control_nbytes(self.control.num_units))

    cdef map(self, int fd, size_t size):
        cdef void *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0)
        if p == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.unmap()
        self.base, self.nbytes, self.control = <const char *>p, size, <fv_control *>p

    cdef unmap(self):
        if self.base != NULL:
            munmap(<void *>self.base, self.nbytes)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(<void *>self.base, self.nbytes)

    def introduction(self):
        """What never changes, as a dict."""
        cdef fv_control *c = self.control
        return dict(
            trainer=c.trainer, num_workers=c.num_workers, num_units=c.num_units, envs_per_unit=c.envs_per_unit,
            rows_per_unit=c.rows_per_unit, units_per_batch=c.units_per_batch, slots=c.slots, made=c.made_ns * 1e-9,
            version=c.version.decode("utf-8", "replace"), kind=c.kind.decode("utf-8", "replace"),
        )

    def trainer(self):
        """The trainer's account, as a dict; times and durations in seconds."""
        cdef fv_control *c = self.control
        return dict(
            batches=fv_counted(&c.batches), rows=fv_counted(&c.rows), policy=fv_counted(&c.policy_ns) * 1e-9,
            loop=fv_counted(&c.loop_ns) * 1e-9, env=fv_counted(&c.env_ns) * 1e-9, last_send=fv_counted(&c.last_send) * 1e-9,
            last_recv=fv_counted(&c.last_recv) * 1e-9, waiting_since=fv_counted(&c.waiting_since) * 1e-9,
            parks=fv_counted(&c.parks), closed=bool(fv_counted(&c.closed)), asleep=bool(fv_trainer_asleep(fv_ready_of(c))),
        )

    def unit(self, int i):
        """The words and counters of unit i, as a dict; times and durations in seconds."""
        cdef fv_mailbox *m = fv_boxes_of(self.control) + i
        # The words first: times that are newer than they understate how long something has lasted, older ones would invent it.
        cdef fv_words w = fv_look(fv_ready_of(self.control), m, i)
        return dict(
            cmd=w.cmd, asleep=bool(w.asleep), taken_up=w.taken_up, finished=w.finished, pid=w.pid, restarts=w.restarts,
            current=w.current, announced=bool(w.announced), posted=fv_counted(&m.posted_ns) * 1e-9,
            began=fv_counted(&m.began_ns) * 1e-9, done=fv_counted(&m.done_ns) * 1e-9,
            steps=fv_counted(&m.steps), busy=fv_counted(&m.busy_ns) * 1e-9, waiting=fv_counted(&m.wait_ns) * 1e-9,
            parks=fv_counted(&m.parks), pickups=fv_counted(&m.pickups), pickup=fv_counted(&m.pickup_ns) * 1e-9,
            takes=fv_counted(&m.takes), take=fv_counted(&m.take_ns) * 1e-9,
        )

    def events(self, int ring):
        """[(seconds, kind of EVENTS, worker, cmd, slot)] of ring 0, the trainer's, or 1 + i, unit i's; oldest first."""
        cdef fv_seen *seen = <fv_seen *>malloc(FV_EVENTS * sizeof(fv_seen))
        cdef uint64_t first
        cdef int i, count
        if seen == NULL:
            raise MemoryError()
        try:
            count = fv_read_ring(fv_rings_of(self.control, self.control.num_units) + ring, seen, &first)
            return [(seen[i].ns * 1e-9, EVENTS.get(seen[i].kind, "?"), seen[i].worker, seen[i].cmd, seen[i].slot) for i in range(count)]
        finally:
            free(seen)


def order_of(unsigned cmd):
    """(number of the order, its kind of ORDERS) that a cmd stands for."""
    return cmd >> FV_ORDER_BITS, ORDERS.get(cmd & ((1 << FV_ORDER_BITS) - 1), "none")
