"""Batches where they lie, several in hand at once: for who copies rows himself, to another device say.

A unit's rows are the trainer's from the `borrow` that returned it until the `give_back` that names it, or a reset, which takes all
loans back; then they are its worker's.  In between the unit has no order and stands in no queue, so nothing else can order it: `send`
answers only what `recv` returned, and `recv` returns only what has come back from an order.
"""
cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastvec_c.errors import StateError

from fastvec_c.control cimport fv_control
from fastvec_c.fields cimport MASKS, REWARDS, TERMINATIONS, TRUNCATIONS, Field, row
from fastvec_c.mailbox cimport fv_count, fv_counted, fv_note
from fastvec_c.pool cimport CAME, FLYING, FRESH, NOWHERE, Pool
from fastvec_c.sync cimport fv_now
from fastvec_c.trace cimport FV_DIED

cnp.import_array()

PACKED_NBYTES = 15  # of a row, in `pack`


def borrow(Pool pool, double wait=-1.0):
    """The next batch, as `recv` would choose it, nothing copied; those borrowed before stay borrowed.

    Args:
        wait: seconds at most, 0 just looks; below 0 it is the VecEnv's own limit.

    Returns:
        (units, runs, infos): workers; where their rows lie, ((slot, first row, number of rows), ...), in the same order, neighbours
        together; infos as in a Batch.  None if nothing came within `wait`.

    Raises:
        StateError: before a reset, amid a rollout, or every batch is in the trainer's hands.
        what `recv` raises.
    """
    pool.enter("recv")
    try:
        if pool.phase != FLYING:
            raise StateError("recv() before reset(): call reset() first" if pool.phase == FRESH
                             else "recv() with a batch of the VecEnv's own in hand: call reset() of the DeviceLoop first")
        if pool.last_slot != NOWHERE:
            raise StateError("recv() of a DeviceLoop amid a rollout: complete the rollout, or call reset() of the DeviceLoop")
        if pool.num_units - pool.num_lent < pool.units_per_batch:
            raise StateError("recv() with nothing sent: call send(actions) for the last batch first")
        began(pool)
        if wait < 0:
            pool.await_units(pool.units_per_batch, None, "recv")
        elif not came(pool, wait):
            waited(pool)
            return None
        return lend(pool)
    finally:
        pool._busy = False


cdef void began(Pool pool) noexcept nogil:
    """What passed since the last send or recv was the trainer's time, not the loop's."""
    cdef int64_t now = fv_now()
    cdef fv_control *c = pool.control
    fv_count(&c.policy_ns, now - max(fv_counted(&c.last_recv), fv_counted(&c.last_send)))
    fv_note(&c.last_send, now)


cdef void waited(Pool pool) noexcept nogil:
    """What passed since `began` was the loop's time, though nothing came of it."""
    cdef int64_t now = fv_now()
    cdef fv_control *c = pool.control
    fv_note(&c.last_recv, now)
    if pool.stepping:
        fv_count(&c.loop_ns, now - fv_counted(&c.last_send))


cdef bint came(Pool pool, double wait) except -1:
    """Whether a batch is there, or comes within `wait` seconds.  Of a worker that died the VecEnv is told."""
    cdef int units = pool.units_per_batch
    # Busy batches would never let wait() come to its naps.
    cdef int rc = pool.dead_worker() if fv_counted(&pool.control.last_send) > pool.next_life_check else CAME
    pool.collect()
    if rc == CAME and not pool.enough(units) and wait > 0 and pool.host is None:
        with nogil:
            rc = pool.wait(units, fv_now() + <int64_t>(wait * 1e9))
        fv_note(&pool.control.waiting_since, 0)
        pool.still_open("recv")
    if rc >= 0:
        pool.trace(FV_DIED, rc)
        pool._on_death(rc)
        pool.still_open("recv")
    return pool.enough(units)


cdef tuple lend(Pool pool):
    """Takes the batch that is there, and notes the loan."""
    cdef int i
    pool.take(pool.units_per_batch)
    if pool.gather and not pool.in_order:
        sort(pool.held, pool.num_held)  # the first to finish, in no particular order: neighbours are copied at once
    infos = pool.messages()
    pool.still_open("recv")
    pool.account()
    for i in range(pool.num_held):
        pool.unit[pool.held[i]].lent = True
    pool.num_lent += pool.num_held
    units = tuple([pool.held[i] for i in range(pool.num_held)])
    runs = runs_of(pool)
    pool.num_held = 0
    return units, runs, infos


cdef void sort(int *x, int n) noexcept nogil:
    cdef int i, k, moved
    for i in range(1, n):
        moved = x[i]
        k = i
        while k > 0 and x[k - 1] > moved:
            x[k] = x[k - 1]
            k -= 1
        x[k] = moved


cdef tuple runs_of(Pool pool):
    """The rows of the held units: ((slot, first row, number of rows), ...)."""
    cdef int i, u, slot = -1, first = 0, n = 0, rows = pool.rows_per_unit
    cdef list runs = []
    for i in range(pool.num_held):
        u = pool.held[i]
        if n and pool.unit[u].slot == slot and u * rows == first + n:
            n += rows
            continue
        if n:
            runs.append((slot, first, n))
        slot, first, n = pool.unit[u].slot, u * rows, rows
    runs.append((slot, first, n))
    return tuple(runs)


def give_back(Pool pool, tuple units, actions=None):
    """Has borrowed units step.

    Args:
        units: of one `borrow`.
        actions: as for `send`; None takes what lies in their rows of the `actions` field, in the slot that `borrow` told.

    Raises:
        StateError: they are not borrowed any more: there was a reset.
        ValueError, TypeError: as in `send`; they stay borrowed then.
    """
    cdef int i
    pool.enter("send")
    try:
        for u in units:
            if pool.phase != FLYING or not pool.unit[<int>u].lent:
                raise StateError("send() for a batch from before a reset of the VecEnv: call reset() of the DeviceLoop")
        for i, u in enumerate(units):
            pool.held[i] = u
        pool.num_held = len(units)
        try:
            pool.scatter(actions)
            if pool.action_check is not None:
                pool.check_held_actions()
            pool.still_open("send")
        except BaseException:
            pool.num_held = 0
            raise
        for i in range(pool.num_held):
            pool.unit[pool.held[i]].lent = False
        pool.num_lent -= pool.num_held
        pool.order_held()
    finally:
        pool._busy = False


def pack(Pool pool, tuple units, cnp.ndarray packed):
    """Writes what is small of n borrowed rows one after the other: rows int64 [n] (their global indices), rewards float32 [n],
    terminations, truncations and masks, bytes [n] each.

    Args:
        packed: uint8 [n * PACKED_NBYTES], contiguous.
    """
    cdef int i, k, r, u, n = pool.rows_per_unit, num_units = len(units)
    cdef int *which = [REWARDS, TERMINATIONS, TRUNCATIONS, MASKS]
    cdef char *data = <char *>cnp.PyArray_DATA(packed)
    cdef int64_t *rows = <int64_t *>data
    cdef Field *f
    if cnp.PyArray_NBYTES(packed) != num_units * n * PACKED_NBYTES:
        raise ValueError(f"packed: {packed.nbytes} bytes; give {num_units * n * PACKED_NBYTES}")
    data += num_units * n * sizeof(int64_t)
    for i in range(num_units):
        u = units[i]
        for r in range(n):
            rows[i * n + r] = u * n + r
    for k in range(4):
        f = &pool.fields.field[which[k]]
        for i in range(num_units):
            u = units[i]
            memcpy(data + i * n * f.row_nbytes, row(f, pool.unit[u].slot, u * n), n * f.row_nbytes)
        data += num_units * n * f.row_nbytes
