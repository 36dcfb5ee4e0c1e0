"""The trainer's end: actions out, batches in."""
from multiprocessing.reduction import ForkingPickler
from types import MappingProxyType

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastvec_c.actions import as_rows, out_of_bounds
from fastvec_c.batch import Batch
from fastvec_c.errors import ClosedError, RecvTimeout, StateError, WorkerError
from fastvec_c.seconds import check_seconds

from fastvec_c.fields cimport ACTIONS, MASKS, OBSERVATIONS, REWARDS, TERMINATIONS, TRUNCATIONS, Field, row
from fastvec_c.control cimport fv_boxes_of, fv_control, fv_control_nbytes, fv_rings_of
from fastvec_c.mailbox cimport (
    FV_CALL, FV_RESET, FV_STEP, fv_account, fv_begin_here, fv_count, fv_counted, fv_finish, fv_forget_message, fv_mailbox, fv_note,
    fv_order_ns, fv_park_trainer, fv_post, fv_take,
)
from fastvec_c.sync cimport (
    FV_WOKEN, WaitPolicy, fv_eager_looks, fv_now, fv_pause, fv_wait_begin, fv_wait_end, fv_wait_none, fv_wait_turn,
)
from fastvec_c.trace cimport FV_DIED, FV_DROPPED, FV_LATE, FV_RECEIVED, FV_REPLACED, FV_SENT, fv_trace, fv_trace_sleep

cnp.import_array()


cdef extern from "<poll.h>" nogil:
    int poll(pollfd *fds, unsigned long n, int timeout_ms)
    short POLLIN

cdef extern from "<pythread.h>" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned microseconds)

cdef extern from *:
    int __builtin_ctzll(unsigned long long x) noexcept nogil

cdef int64_t LIFE_NS = 100_000_000      # how often a waiting trainer looks whether all workers live
cdef int64_t NEVER = 0x7fffffffffffffff
cdef int SAMPLED = 16                    # batches for one look at how long the workers took,
cdef int64_t LOOK_NS = 5_000             # unless they took so long, for each, that a look costs nothing beside it

# What the standard fields are called, with their place in a Batch.
_IN_BATCH = ("observations", "rewards", "terminations", "truncations", "masks")
_PHASES = {FV_STEP: "step", FV_RESET: "reset", FV_CALL: "call"}
_NO_INFOS = MappingProxyType({})


cdef class Pool:
    """Hands actions to workers and batches to the trainer.  `fastvec.VecEnv` is this plus processes and resets.

    Args:
        fields: the arena's arrays.
        boxes, host: the workers' mailboxes, or the envs in this process; the other is None.
        num_units: workers, or 1.
        envs_per_unit, rows_per_unit: of each.
        units_per_batch: how many `recv` waits for.
        gather: copy the rows of any workers together; else blocks of neighbours, in place.
        in_order: batches come in the order in which they were sent; else the first to finish.
        action_spec: fastvec.Spec of one action.
        policy: how to wait.
        trainer_fields: {name: array [slots, rows, ...]} that only the trainer writes and reads.
        horizon: steps of a rollout, which needs `horizon + 1` slots; the slots are so many buffers for one.  0: no rollouts.
    """

    def __cinit__(self, Fields fields, Mailboxes boxes, Host host, int num_units, int envs_per_unit, int rows_per_unit,
                  int units_per_batch, bint gather, bint in_order, action_spec, WaitPolicy policy, dict trainer_fields, int horizon, **_):
        self.fields = fields
        self.boxes = boxes
        self.host = host
        self.num_units = num_units
        self.envs_per_unit = envs_per_unit
        self.rows_per_unit = rows_per_unit
        self.units_per_batch = units_per_batch
        self.gather = gather and units_per_batch < num_units
        self.in_order = in_order
        self.waiter.policy = policy.c
        self.trainer_fields = trainer_fields
        self.horizon = horizon
        self.last_slot = NOWHERE
        self.control = <fv_control *>fields.arena.at(0, fv_control_nbytes(num_units))
        self.ring = fv_rings_of(self.control, num_units)
        if host is not None:
            host.current = &fv_boxes_of(self.control).current  # for who looks from outside
        self.conns = []
        self.early = {}
        self.unit = <WorkerState *>calloc(num_units, sizeof(WorkerState))
        self.queue = <int *>calloc(num_units, sizeof(int))
        self.missing = <int *>calloc(num_units, sizeof(int))
        self.held = <int *>calloc(num_units, sizeof(int))
        self.life = <pollfd *>calloc(num_units, sizeof(pollfd))
        if not (self.unit and self.queue and self.missing and self.held and self.life):
            raise MemoryError()
        self.all_rows = np.arange(fields.rows)
        self.all_rows.flags.writeable = False
        self.batches = [[None] * fields.slots for _ in range(num_units // units_per_batch + 1)]
        # With a horizon the slots keep what was seen; the copies are for the policy, and last until they are answered.
        self.gathered = [self._buffers() for _ in range(1 if horizon else fields.slots)] if self.gather else []
        for u in range(num_units):
            self.life[u].fd = -1
            self.life[u].events = POLLIN
        self.set_bounds(action_spec)

    def __dealloc__(self):
        free(self.unit)
        free(self.queue)
        free(self.missing)
        free(self.held)
        free(self.life)
        free(self.low)
        free(self.high)

    def _buffers(self):
        """The arrays of one gathered batch."""
        n = self.units_per_batch * self.rows_per_unit
        arrays = [np.zeros((n, *self.fields.views[name].shape[2:]), self.fields.views[name].dtype) for name in _IN_BATCH]
        return Batch(*arrays, _NO_INFOS, np.zeros(n, np.int64))

    cdef set_bounds(self, spec):
        """Integer actions must lie within the spec's bounds, or a compiled env might read outside its tables."""
        cdef int i
        self.action_dtype = spec.dtype
        self.action_shape = spec.shape
        self.action_items = int(np.prod(spec.shape, dtype=np.int64))
        self.action_type = -1 if spec.dtype.names is not None else spec.dtype.num
        if spec.dtype.kind not in "iu" or spec.low is None or spec.high is None:
            return
        low = np.broadcast_to(np.asarray(spec.low), spec.shape).ravel()
        high = np.broadcast_to(np.asarray(spec.high), spec.shape).ravel()
        self.low = <int64_t *>calloc(max(1, self.action_items), sizeof(int64_t))
        self.high = <int64_t *>calloc(max(1, self.action_items), sizeof(int64_t))
        if not (self.low and self.high):
            raise MemoryError()
        for i in range(self.action_items):
            self.low[i] = max(int(low[i]), np.iinfo(spec.dtype).min)
            self.high[i] = min(int(high[i]), np.iinfo(spec.dtype).max, (1 << 63) - 1)

    def leave_bounds_to_envs(self):
        """From here on actions reach the envs unchecked: as gymnasium has it, whose envs check what they need to."""
        free(self.low)
        free(self.high)
        self.low = self.high = NULL

    def watch(self, int worker, int fd):
        """`fd` becomes readable when the worker is dead."""
        self.life[worker].fd = fd

    def check_actions_with(self, check):
        """debug=True: `check([(first row, rows, slot)])` looks through the actions of a batch before they are sent, instead of
        the bounds of integers alone, and raises ValueError."""
        self.leave_bounds_to_envs()
        self.action_check = check

    # ---- the user's calls --------------------------------------------------------------------------------------------

    def send(self, actions=None, dict fields=None):
        """Gives the actions for the batch that `recv` (or `reset`) returned to its workers; returns at once.

        From here on until the `recv` that returns them again, the batch's rows are the workers' (with `slots=k`: one
        slot of them; the observations just seen stay readable until the k-th next send).

        Args:
            actions: [rows of the batch, *action shape], an array of the action dtype for speed; anything that casts to
                it without loss of kind, a torch tensor, or a dict or tuple of arrays for structured actions.  None
                takes what the caller wrote into the `actions` field itself.
            fields: {name: [rows of the batch, ...]} of trainer fields, kept in the slot of the observations that they were
                computed from, beside the actions.  Names left out are what the caller wrote there itself.

        Raises:
            StateError: there is no batch to answer.
            ValueError, TypeError: wrong shape, dtype, range or name; nothing has been sent then.
        """
        self.give(actions, fields)

    cdef give(self, actions, dict fields):
        self.enter("send")
        try:
            self.order_step(actions, fields)
        finally:
            self._busy = False

    def recv(self, timeout=None):
        """The next batch: waits until the workers it needs have finished.

        Args:
            timeout: seconds to wait at most, 0 only looks; None is the VecEnv's own limit.  Envs of this process
                (`num_workers=0`) step in `recv`, and are not timed.

        Raises:
            StateError: nothing is under way: call `send`, `reset` or `async_reset` first.
            ValueError: `timeout` is no number of seconds.
            RecvTimeout: the time has passed; `recv` may be called again.
            WorkerError: an env raised or a worker died; the VecEnv is closed then.
        """
        return self.receive(timeout)

    cdef object receive(self, timeout):
        cdef int units
        self.enter("recv")
        try:
            if self.phase != FLYING:
                raise StateError(
                    "recv() before reset(): call async_reset() first" if self.phase == FRESH
                    else "recv() with nothing sent: call send(actions) for the last batch first"
                )
            if timeout is not None:
                timeout = check_seconds("recv(timeout=%r)", timeout)
            if self.num_units - self.num_lent < self.units_per_batch:
                raise StateError("recv() with nothing sent: a DeviceLoop has the rows; use its recv() and send(), or call reset()")
            units = self.units_in_turn()
            self.await_units(units, timeout, "recv")
            self.take(units)
            return self.batch()
        finally:
            self._busy = False

    def step(self, actions):
        """`send` and `recv` in one.

        Returns:
            (observations, rewards, terminations, truncations, infos) of a Batch; its masks are in `vec.masks`.

        Raises:
            what `send` and `recv` raise.
        """
        self.send(actions)
        batch = self.recv()
        return batch[0], batch[1], batch[2], batch[3], batch[5]

    cdef dict step_rows(self, actions):
        """Steps all rows, and returns the infos: `step` for those who have the views on the rows."""
        self.enter("step")
        try:
            self.order_step(actions, None)
            self.await_units(self.num_units, None, "step")
            self.take(self.num_units)
            infos = self.messages()
            self.account()
            self.hold("step")
            return infos
        finally:
            self._busy = False

    # ---- for VecEnv --------------------------------------------------------------------------------------------------

    def _await_all(self, timeout, str call):
        """Waits until every worker has finished; batches that nobody received are dropped, their infos too."""
        self.enter(call)
        try:
            self.await_units(self.num_units, timeout, call)
            self.take(self.num_units)
            self.messages()
            if self.phase == FLYING:
                self.phase = HOLDING
        finally:
            self._busy = False

    def _options_for_workers(self, list options):
        """[the pickled options of each worker's envs], or None where nothing is to be sent.  `options`: of each env, or None.

        Raises:
            TypeError: they cannot be pickled.
        """
        cdef int n = self.envs_per_unit
        if self.boxes is None or options is None:
            return None
        return [_pickled("options", options[u * n:(u + 1) * n]) for u in range(self.num_units)]

    def _order_reset(self, list options, list messages, bint keep_rows):
        """Resets the envs that the arena's table tells to; the others keep their rows if all are to be kept.

        Args:
            options: of each env, or None.
            messages: what `_options_for_workers` made of them.
        """
        cdef int u, slot = 0
        cdef int64_t now
        self.enter("reset")
        try:
            now = fv_now()
            fv_note(&self.control.last_send, now)
            self.stepping = False
            self.options = options
            self.num_held = 0
            self.num_lent = 0
            self.phase = FLYING  # before anything that may close the VecEnv, which must stay closed
            if not keep_rows:
                self.last_slot = NOWHERE  # a rollout under way is given up
            if self.horizon and self.last_slot == NOWHERE:
                slot = self.next_buffer()  # the last rollout keeps its own
            for u in range(self.num_units):
                self.unit[u].lent = False
                if not keep_rows:
                    self.unit[u].slot = slot
                elif self.horizon and self.last_slot == NOWHERE:
                    self.carry(u, slot)
                if self.boxes is not None:
                    self.boxes.box[u].has_options = options is not None
                self.order(u, FV_RESET, now)
                if messages is not None:
                    self._tell(u, messages[u])
            self.finish_dropped()
        except BaseException:  # Ctrl-C amid a message: what follows on the pipe would be taken for its rest
            self.close()
            raise
        finally:
            self._busy = False

    def _recv_all(self, timeout, str call):
        """One batch of all rows, in place."""
        self.enter(call)
        try:
            self.await_units(self.num_units, timeout, call)
            self.take(self.num_units)
            return self.batch()
        finally:
            self._busy = False

    def _order_call(self, request, timeout):
        """[answer of each worker, None where it was dropped] to a request on the slow path.  Batches on their way stay
        receivable.

        Raises:
            RecvTimeout: of the batches that are waited for first: nothing is lost; or of the answers: the VecEnv is closed, since
                they would be mistaken for others.  Likewise after Ctrl-C.
        """
        self.enter("call")
        try:
            message = _pickled("call", request) if self.host is None else None
            self.await_units(self.num_units, timeout, "call")
            if self.host is not None:
                answer = self._call_host(request)
                self.still_open("call")
                return [answer]
            return self.answers(message, timeout)
        finally:
            self._busy = False

    cdef list answers(self, message, timeout):
        """What all workers answer to a call; nothing else is under way."""
        cdef int u, i
        try:
            queued = [self.queue[(self.queue_head + i) % self.num_units] for i in range(self.queue_len)]
            for u in range(self.num_units):
                if self.unit[u].dropped:
                    continue
                if self.unit[u].message:  # infos lie on the pipe before the answer
                    self.early[u] = self._hear(u)
                self.order(u, FV_CALL, fv_now())
                self._tell(u, message)
            self.await_units(self.num_units, timeout, "call")
            self.queue_head = 0
            self.queue_len = len(queued)
            for i, u in enumerate(queued):
                self.queue[i] = u
            return [None if self.unit[u].dropped else self._hear(u) for u in range(self.num_units)]
        except BaseException:
            self.close()
            raise

    def _call_host(self, request):
        cdef fv_mailbox *m = fv_boxes_of(self.control)
        cdef uint32_t cmd = fv_begin_here(m, FV_CALL, fv_now(), self.ring + 1)
        self._env_is_working = True
        try:
            return self.host.call(*request)
        except Exception as error:
            self._on_exception(error, "call")
        finally:
            fv_finish(m, cmd, fv_now(), self.ring + 1, 0)
            self.leave_host()

    def _tell(self, int worker, message):
        """Puts a pickled message on a worker's pipe.  After the order that makes it read: a large one needs a reader."""
        try:
            self.conns[worker].send_bytes(message)
        except TimeoutError:  # of a signal handler
            raise
        except OSError:  # the worker is dead: await_units will find out and say how
            pass

    def _hear(self, int worker):
        """What a worker put on its pipe; an error it reports is raised."""
        self.unit[worker].message = False
        try:
            kind, content = self.conns[worker].recv()
        except (EOFError, OSError) as error:
            self.still_open("recv")
            if isinstance(error, TimeoutError):  # of a signal handler: what follows on the pipe would be taken for the rest
                self.close()
                raise
            self._on_silence(worker, _PHASES[self.unit[worker].last_order])
            return {}
        except BaseException as error:  # a class that cannot be unpickled here; or Ctrl-C: the rest of it would be taken for something else
            self.close()
            if not isinstance(error, Exception):
                raise
            phase = _PHASES[self.unit[worker].last_order]
            raise WorkerError(
                f"what worker {worker} sent in {phase}() cannot be unpickled: {type(error).__name__} ({error})", worker=worker,
                envs=range(worker * self.envs_per_unit, (worker + 1) * self.envs_per_unit), phase=phase,
            ) from error
        if kind == "failed":
            self._on_failure(worker, content, _PHASES[self.unit[worker].last_order])
        return content

    def _order_of(self, int worker):
        """What the worker was told last and has not finished: "step", "reset", "call" or None."""
        return _PHASES.get(self.unit[worker].order)

    def _env_at_work(self, int worker):
        """Global index of the env that the worker dealt with last."""
        return worker * self.envs_per_unit + self.boxes.box[worker].current

    def _order_anew(self, int worker):
        """Puts another in the place of the order that a dead worker left open: to reset all its envs, without options.
        To be called when the old process has ended, and before the one that takes its place starts."""
        self.life[worker].fd = -1
        self._interrupt(worker)
        fv_forget_message(self.boxes.ready, worker)
        self.boxes.box[worker].current = -1
        self.boxes.box[worker].has_options = False
        self.trace(FV_REPLACED, worker)
        fv_post(&self.boxes.box[worker], FV_RESET, fv_now())

    def _drop(self, int worker):
        """A dead worker has no successor: its rows come back once, truncated, and are masked from then on."""
        self.life[worker].fd = -1
        self._interrupt(worker)
        self.unit[worker].dropped = True
        self.num_dropped += 1
        fv_forget_message(self.boxes.ready, worker)
        self.trace(FV_DROPPED, worker)
        self.ready(worker, False)

    def _collect(self):
        """Takes what workers have announced."""
        self.collect()

    def _interrupt(self, int worker):
        self.num_interrupted += not self.unit[worker].interrupted
        self.unit[worker].interrupted = self.unit[worker].order

    @property
    def _dropped(self):
        """Workers that have no successor."""
        return [u for u in range(self.num_units) if self.unit[u].dropped]

    def _begin_rollout(self):
        """Brings all rows, which are in hand, to the first slot of the next buffer, and deals them out in batches again: each
        unit until it has made `horizon` steps.  The number of the rollout."""
        cdef int u
        cdef int64_t now
        self.enter("rollout")
        try:
            if self.phase == FRESH:
                raise StateError("rollout before reset(): call reset() first")
            if self.phase != HOLDING or self.num_held < self.num_units:
                raise StateError("a rollout begins with all rows in hand: complete the last one, or call reset() first")
            self.last_slot = self.next_buffer()
            for u in range(self.num_units):
                self.carry(u, self.last_slot)
            self.last_slot += self.horizon
            self.num_left = self.num_units
            self.num_held = self.queue_len = 0
            for u in range(self.num_units if self.gather or self.in_order else self.num_units // self.units_per_batch):
                self.enqueue(u)
            if self.host is not None:
                self.host.infos = {}  # told already, with the rows in hand
            now = fv_now()
            fv_note(&self.control.last_send, now)
            fv_count(&self.control.policy_ns, now - fv_counted(&self.control.last_recv))
            self.stepping = False
            self.phase = FLYING
            self.num_rollouts += 1
            return self.num_rollouts - 1
        finally:
            self._busy = False

    def _end_rollout(self):
        """The rollout is complete, or given up: whoever waits at its end is dealt out like the others from here on."""
        cdef int u, block
        if self.last_slot == NOWHERE:
            return
        for u in range(self.num_units):
            if self.unit[u].slot != self.last_slot or self.num_held == self.num_units:
                continue
            block = u // self.units_per_batch
            if self.in_order or self.gather and not self.unit[u].order:
                self.enqueue(u)
            elif not self.gather and self.missing[block] == 0 and u == block * self.units_per_batch:
                self.enqueue(block)
        self.last_slot = NOWHERE

    @property
    def _units_left(self):
        """Units that the rollout under way will deal out again."""
        return self.num_left

    def _slot_of(self, int env):
        """The slot that was written last of an env's rows."""
        return self.unit[env // self.envs_per_unit].slot

    @property
    def batch_slots(self):
        """int64 [rows of the batch in hand]: the slot that each row's observation lies in, and into which belongs what answers it.
        `vec.fields["values"][vec.batch_slots, batch.rows] = values` writes what `send(actions, {"values": values})` would."""
        slots = np.array([self.unit[self.held[i]].slot for i in range(self.num_held)], np.int64)
        return np.repeat(slots, self.rows_per_unit)

    @property
    def _slot(self):
        """The slot that was written last (of worker 0: of all, unless batches are smaller than all)."""
        return self.unit[0].slot

    @property
    def _pending(self):
        """Workers that have not finished."""
        return [u for u in range(self.num_units) if self.unit[u].order]

    @property
    def _holds_all(self):
        return self.phase == HOLDING and self.num_held == self.num_units

    def _mark_closed(self, str why="after close(): make a new VecEnv"):
        """From here on every call raises ClosedError, one that waits (in another thread, or under a signal handler that
        closes) too: whatever its wait() returns, at the next nap's end at the latest, still_open() is asked first.  So the
        descriptors in `life`, which another thread may be polling this moment, are left as they are."""
        if self.phase != CLOSED:
            self.why_closed = why
        self.phase = CLOSED

    def _disown(self, str why):
        """In a forked child: no call is under way here, whatever the parent's threads were doing."""
        self._busy = False
        self._mark_closed(why)

    def _await_others(self, double seconds):
        """When closed: waits until no other thread is inside a call, for `seconds` at most."""
        cdef int64_t end = fv_now() + <int64_t>(seconds * 1e9)
        while self._busy and self.owner != PyThread_get_thread_ident() and fv_now() < end:
            with nogil:
                usleep(1000)

    def _times(self):
        """(seconds outside of step, in send and recv, thereof in the envs; batches; rows), since the start."""
        cdef fv_control *c = self.control
        return (fv_counted(&c.policy_ns) * 1e-9, fv_counted(&c.loop_ns) * 1e-9, fv_counted(&c.env_ns) * 1e-9, fv_counted(&c.batches),
                fv_counted(&c.rows))

    def _clock(self):
        """For fastvec.StepTimes, in ns: (now; time in flights, thereof in the envs; when the flight under way began, and
        when its slowest env is done: now if there is none).

        A flight lasts from a send to the end of its recv.  The flight under way is counted up to now, so that the numbers
        grow steadily.  The host's envs step within recv: they are never done earlier.
        """
        cdef fv_control *c = self.control
        cdef int64_t now = fv_now(), sent = now, done = now
        if self.phase == FLYING and self.stepping and fv_counted(&c.last_send) > fv_counted(&c.last_recv):
            sent = fv_counted(&c.last_send)
            done = sent if self.host is not None else min(now, sent + self.slowest_ns)
        return now, fv_counted(&c.loop_ns) + now - sent, fv_counted(&c.env_ns) + done - sent, sent, done

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _check_open(self, str call):
        """For calls that look at their arguments first.

        Raises:
            ClosedError: the VecEnv is closed.
        """
        if self.phase == CLOSED:
            raise ClosedError(f"{call}() {self.why_closed}")

    cdef enter(self, str call):
        if self.phase == CLOSED:
            self._check_open(call)  # raises; a call of Python's, which costs
        if self._busy:
            raise StateError(f"{call}() while another call is under way: a VecEnv is for one thread at a time")
        self._busy = True
        self.owner = PyThread_get_thread_ident()

    cdef int still_open(self, str call) except -1:
        """Raises ClosedError if another thread, or a signal handler, has closed the VecEnv amid a call.  To be asked after all
        that runs Python or gives up the GIL: nothing else may be done to a VecEnv that is closed."""
        if self.phase == CLOSED:
            raise ClosedError(f"{call}() was waiting when the VecEnv was closed")
        return 0

    cdef int hold(self, str call) except -1:
        """What was taken is in the user's hands."""
        self.still_open(call)
        self.phase = HOLDING
        return 0

    cdef order_step(self, actions, dict fields):
        """What `send` does."""
        if self.phase != HOLDING:
            raise StateError(
                "send() before reset(): call reset() first" if self.phase == FRESH
                else "send() twice: call recv() for a batch first"
            )
        self.scatter(actions)
        if self.action_check is not None:
            self.check_held_actions()
        if fields is not None:
            self.scatter_fields(fields)
        self.still_open("send")
        self.order_held()

    cdef void order_held(self) noexcept nogil:
        """Has the held units step: their actions lie in their rows."""
        cdef int i
        cdef int64_t now = fv_now()
        cdef fv_control *c = self.control
        if self.horizon and self.last_slot == NOWHERE:
            self.oldest_rollout = self.num_rollouts  # steps outside of rollouts write wherever their turn is
        # Since the later of them: batches may overlap (loans.pyx).
        fv_count(&c.policy_ns, now - max(fv_counted(&c.last_recv), fv_counted(&c.last_send)))
        fv_note(&c.last_send, now)
        fv_count(&c.batches, 1)
        fv_count(&c.rows, self.num_held * self.rows_per_unit)
        self.stepping = True
        for i in range(self.num_held):
            self.order(self.held[i], FV_STEP, now)
        self.finish_dropped()
        self.num_held = 0
        self.phase = FLYING

    cdef check_held_actions(self):
        cdef int i, n = self.rows_per_unit
        self.action_check([(self.held[i] * n, n, self.unit[self.held[i]].slot) for i in range(self.num_held)])

    cdef void trace(self, int kind, int u) noexcept nogil:
        """An event of unit u that is not of every day."""
        fv_trace(self.ring, kind, fv_now(), 0, u, self.unit[u].slot)

    cdef void order(self, int u, int what, int64_t now) noexcept nogil:
        """Tells a unit to step, reset or be called.  Its rows are not ours until it is ready()."""
        cdef WorkerState *w = &self.unit[u]
        w.action_slot = w.slot
        if what == FV_STEP:
            w.slot = (w.slot + 1) % self.fields.slots
            self.num_left -= w.slot == self.last_slot
        w.order = w.last_order = what
        self.num_flying += 1
        if self.in_order and what != FV_CALL and w.slot != self.last_slot:
            self.enqueue(u)
        self.missing[u // self.units_per_batch] += 1
        if self.boxes is not None:
            self.boxes.box[u].slot = w.slot
            self.boxes.box[u].action_slot = w.action_slot
            if not w.dropped:
                fv_trace(self.ring, FV_SENT, now, fv_post(&self.boxes.box[u], what, now), u, w.slot)

    cdef void finish_dropped(self) noexcept nogil:
        """Units without a worker are done with their order at once.  Called when all of a batch have theirs: a block is
        complete when none of its units has an order."""
        cdef int u
        if self.num_dropped == 0:
            return
        for u in range(self.num_units):
            if self.unit[u].dropped and self.unit[u].order:
                self.blank(u, True)
                self.ready(u, False)

    cdef void blank(self, int u, bint masks) noexcept nogil:
        """Zeroes a unit's rows in the slot that is its turn, with `masks` these too; not the actions, which are the user's."""
        cdef int k, n = self.rows_per_unit
        cdef Field *f
        for k in range(self.fields.num_fields):
            if k != ACTIONS and (k != MASKS or masks):
                f = &self.fields.field[k]
                memset(row(f, self.unit[u].slot, u * n), 0, n * f.row_nbytes)

    cdef void truncate(self, int u) noexcept nogil:
        """A step that its worker did not live to finish ends the episodes of its agents."""
        cdef Field *f = self.fields.field
        cdef WorkerState *w = &self.unit[u]
        cdef int first = u * self.rows_per_unit, n = self.rows_per_unit
        if w.dropped:
            # With one slot these are the masks as the worker left them: those of the step before, or of this one.
            if w.slot != w.action_slot:
                memcpy(row(&f[MASKS], w.slot, first), row(&f[MASKS], w.action_slot, first), n)
            self.blank(u, False)
        memset(row(&f[REWARDS], w.slot, first), 0, n * f[REWARDS].row_nbytes)
        memset(row(&f[TERMINATIONS], w.slot, first), 0, n)
        memcpy(row(&f[TRUNCATIONS], w.slot, first), row(&f[MASKS], w.slot, first), n)

    cdef void ready(self, int u, bint message) noexcept nogil:
        """A unit has finished: queues it, or its block when that was the last one missing."""
        cdef int block = u // self.units_per_batch
        self.unit[u].order = 0
        self.unit[u].taken_ns = self.taken_ns
        self.unit[u].message = message
        self.num_flying -= 1
        self.missing[block] -= 1
        if self.in_order:
            return  # queued when it was sent
        if self.unit[u].slot == self.last_slot:
            return  # nobody answers it in this rollout
        if self.gather:
            self.enqueue(u)
        elif self.missing[block] == 0:
            self.enqueue(block)

    cdef int units_in_turn(self) noexcept nogil:
        """How many units the next `recv` returns: fewer when a rollout runs out, and all of them at its end."""
        if self.last_slot == NOWHERE:
            return self.units_per_batch
        return min(self.units_per_batch, self.num_left) if self.num_left else self.num_units

    cdef int next_buffer(self) noexcept nogil:
        """The first slot of the next rollout, which from here on is not that of an older one."""
        cdef int buffers = self.fields.slots // (self.horizon + 1)
        self.oldest_rollout = max(self.oldest_rollout, self.num_rollouts - buffers + 1)
        return self.num_rollouts % buffers * (self.horizon + 1)

    cdef void carry(self, int u, int slot) noexcept nogil:
        """Copies what a unit wrote last to another slot, from which it goes on.  Not the actions, which it is to be given.
        The unit has no order, so its rows in all slots are ours; the next order hands them over, slot and all (mailbox.h)."""
        cdef int k, n = self.rows_per_unit
        cdef Field *f
        for k in range(self.fields.num_fields if slot != self.unit[u].slot else 0):
            if k != ACTIONS:
                f = &self.fields.field[k]
                memcpy(row(f, slot, u * n), row(f, self.unit[u].slot, u * n), n * f.row_nbytes)
        self.unit[u].slot = slot

    cdef void enqueue(self, int entry) noexcept nogil:
        self.queue[(self.queue_head + self.queue_len) % self.num_units] = entry
        self.queue_len += 1

    cdef void collect(self) noexcept nogil:
        cdef uint64_t bits, messages = 0
        cdef int k, i
        if self.boxes is None:
            return
        for k in range(self.boxes.num_words):
            bits = fv_take(self.boxes.ready, k, &messages)
            self.taken_ns = fv_now() if bits and self.since_sample == SAMPLED - 1 else 0
            while bits:
                i = __builtin_ctzll(bits)
                self.ready(64 * k + i, (messages >> i) & 1)
                bits &= bits - 1
        self.taken_ns = 0

    cdef bint enough(self, int units) noexcept nogil:
        cdef int i
        if units == self.num_units:
            return self.num_flying == 0
        if self.in_order:
            for i in range(units):
                if self.unit[self.queue[(self.queue_head + i) % self.num_units]].order:
                    return False
            return True
        return self.queue_len >= (units if self.gather else 1)

    cdef int wait(self, int units, int64_t deadline) noexcept nogil:
        """Waits for `units` units.  CAME, LATE, SIGNAL (look whether Ctrl-C came), or the index of a dead worker."""
        cdef int64_t now = fv_now()
        cdef int rc, result = CAME
        fv_wait_begin(&self.waiter, now)
        if fv_counted(&self.control.waiting_since) == 0:  # it is no new wait that goes on after a nap
            fv_note(&self.control.waiting_since, now)
        while True:
            self.collect()
            if self.enough(units):
                break
            if fv_wait_turn(&self.waiter):
                continue
            # A worker killed just before it rang would ring for ever in vain: sleep in short naps, and look.
            now = fv_now()
            if now >= deadline:
                return LATE
            fv_count(&self.control.parks, 1)
            fv_trace_sleep(self.ring, now, 0, 0)
            rc = fv_park_trainer(self.boxes.ready, self.boxes.num_words, min(LIFE_NS, deadline - now))
            result = self.dead_worker()
            if result != CAME:
                return result
            if rc != FV_WOKEN:  # a signal, or the nap is over: it may have come a moment before the nap
                return SIGNAL
        fv_wait_end(&self.waiter, fv_now())
        return CAME

    cdef int dead_worker(self) noexcept nogil:
        """The index of a dead worker whose rows are awaited, or CAME; asks the kernel at most every LIFE_NS."""
        cdef int u
        cdef int64_t now = fv_now()
        if now < self.next_life_check:
            return CAME
        self.next_life_check = now + LIFE_NS
        if poll(self.life, self.num_units, 0) > 0:
            self.collect()  # what it finished before it died is valid
            for u in range(self.num_units):
                if self.life[u].revents and self.unit[u].order:
                    return u
        return CAME

    cdef await_units(self, int units, timeout, str call):
        cdef int64_t deadline = NEVER
        cdef int i, rc
        cdef bint own
        if self.host is not None:
            if self.num_flying:
                self.run_host()
                self.still_open(call)
            return
        own = timeout is None  # the VecEnv's own limit, not one of this call alone
        timeout = self._timeout if own else timeout
        if timeout is not None:
            deadline = fv_now() + <int64_t>(timeout * 1e9)
        # Busy batches would never let wait() come to its naps.
        rc = self.dead_worker() if fv_counted(&self.control.last_send) > self.next_life_check else CAME
        if rc == CAME:
            for i in range(fv_eager_looks(&self.waiter)):
                self.collect()
                if self.enough(units):
                    fv_wait_none(&self.waiter)
                    return
                fv_pause()
            rc = SIGNAL
        try:
            while rc != CAME:
                if rc >= 0:
                    self.trace(FV_DIED, rc)
                    self._on_death(rc)  # raises, or has another take its place
                elif rc == LATE:
                    self.trace(FV_LATE, 0)
                    self._on_late(call, timeout, own)  # likewise
                    deadline = fv_now() + <int64_t>(timeout * 1e9)
                PyErr_CheckSignals()  # Ctrl-C raises here; nothing is lost by it, recv may be called again
                self.still_open(call)
                with nogil:
                    rc = self.wait(units, deadline)
                self.still_open(call)
        finally:
            fv_note(&self.control.waiting_since, 0)

    cdef run_host(self):
        """Has the envs of this process do what was ordered."""
        self._env_is_working = True
        try:
            self.work_host()
        finally:
            self.leave_host()

    cdef leave_host(self):
        """The envs of this process are not at work any more; whoever has closed the VecEnv meanwhile left that to us."""
        self._env_is_working = False
        if self.phase == CLOSED:
            self.close()

    cdef work_host(self):
        cdef WorkerState *w = &self.unit[0]
        cdef fv_mailbox *m = fv_boxes_of(self.control)
        cdef int order = w.order
        cdef int64_t began = fv_now(), now
        cdef uint32_t cmd = fv_begin_here(m, order, began, self.ring + 1)
        try:
            if order == FV_STEP:
                self.host.step(w.action_slot, w.slot)
            else:
                self.host.reset(w.slot, self.options)
        except Exception as error:
            self._on_exception(error, _PHASES[order])
        except BaseException:  # Ctrl-C amid a step: the envs are in no known state
            self.num_flying = self.missing[0] = w.order = 0
            self.phase = FRESH
            fv_finish(m, cmd, fv_now(), self.ring + 1, 0)
            raise
        now = fv_now()
        self.host_ns = now - began
        if order == FV_STEP:
            fv_account(m, began, now)
        fv_finish(m, cmd, now, self.ring + 1, 0)
        self.ready(0, False)

    cdef take(self, int units):
        """Moves the batch that wait() promised from the queue to `held`."""
        cdef int i
        cdef int entries = units if self.gather or self.in_order else 1
        for i in range(units):
            if units == self.num_units:
                self.held[i] = i
            elif entries == units:
                self.held[i] = self.queue[(self.queue_head + i) % self.num_units]
            else:
                self.held[i] = self.queue[self.queue_head] * units + i
        if units == self.num_units:
            self.queue_len = 0
        else:
            self.queue_head = (self.queue_head + entries) % self.num_units
            self.queue_len -= entries
        self.num_held = units

    cdef object batch(self):
        """The Batch of what is held; from here on it is the user's."""
        infos = self.messages()
        if self.gather and self.num_held < self.num_units:
            batch = self.batch_gathered()
        else:
            batch = self.batch_in_place()
        if infos:
            batch = batch._replace(infos=infos)
        self.account()
        self.hold("recv")
        return batch

    cdef object batch_in_place(self):
        cdef int first = self.held[0], slot = self.unit[first].slot
        cdef int blocks = self.num_units // self.units_per_batch  # the last entry is the batch of all
        cdef int block = blocks if self.num_held == self.num_units else first // self.units_per_batch
        batch = self.batches[block][slot]
        if batch is None:
            rows = slice(first * self.rows_per_unit, (first + self.num_held) * self.rows_per_unit)
            views = [self.fields.views[name][slot, rows] for name in _IN_BATCH]
            batch = Batch(*views, _NO_INFOS, self.all_rows[rows])
            self.batches[block][slot] = batch
        return batch

    cdef object batch_gathered(self):
        cdef cnp.ndarray array
        cdef Field *f
        cdef int i, k, u, n = self.rows_per_unit
        cdef int *which = [OBSERVATIONS, REWARDS, TERMINATIONS, TRUNCATIONS, MASKS]
        cdef char *data
        cdef int64_t *rows
        batch = self.gathered[self.next_gathered]
        self.next_gathered = (self.next_gathered + 1) % len(self.gathered)
        for k in range(5):
            f = &self.fields.field[which[k]]
            array = batch[k]
            data = <char *>cnp.PyArray_DATA(array)
            with nogil:
                for i in range(self.num_held):
                    u = self.held[i]
                    memcpy(data + i * n * f.row_nbytes, row(f, self.unit[u].slot, u * n), n * f.row_nbytes)
        array = batch[6]
        rows = <int64_t *>cnp.PyArray_DATA(array)
        for i in range(self.num_held):
            for k in range(n):
                rows[i * n + k] = self.held[i] * n + k
        if self.num_held < self.units_per_batch:  # the rest of a rollout
            return Batch(*[part if part is _NO_INFOS else part[:self.num_held * n] for part in batch])
        return batch

    cdef dict messages(self):
        """The infos of the units held; an error that one of them reports is raised."""
        cdef int i, u
        if self.host is not None:
            return self.host.infos
        infos = {}
        for i in range(self.num_held):
            u = self.held[i]
            if self.unit[u].message:
                infos.update(self._hear(u))
            elif self.early and u in self.early:
                infos.update(self.early.pop(u))
            if self.num_interrupted and self.unit[u].interrupted:
                if self.unit[u].interrupted == FV_STEP:
                    self.truncate(u)
                elif self.unit[u].dropped:
                    self.blank(u, True)
                self.unit[u].interrupted = 0
                self.num_interrupted -= 1
                for env, info in self._on_return(u).items():
                    infos[env] = {**infos.get(env, {}), **info}
        return infos

    cdef scatter(self, actions):
        """Writes the actions of the held units into their rows of the arena."""
        cdef const char *data = NULL
        cdef Field *f = &self.fields.field[ACTIONS]
        cdef int i, u, n = self.rows_per_unit, type = self.action_type
        cdef int items = n * self.action_items
        cdef size_t nbytes = n * f.row_nbytes
        cdef char *target
        cdef const int64_t *wide
        if actions is not None:
            data = self.fast_actions(actions, &type)
            if data == NULL:
                actions = as_rows(actions, self.num_held * n, self.action_shape, self.action_dtype)
                data = <const char *>cnp.PyArray_DATA(actions)
            if type == self.action_type:
                self.check_bounds(data, type, self.num_held * n)
        for i in range(self.num_held):
            u = self.held[i]
            target = row(f, self.unit[u].slot, u * n)
            if data == NULL:
                self.check_bounds(target, type, n)
            elif type != self.action_type:
                # First to where they belong: numbers of 32 bits are compared four at a time.
                wide = <const int64_t *>data + i * items
                if not (narrow(<int32_t *>target, wide, items)
                        and within(<const int32_t *>target, n, self.action_items, self.low, self.high)):
                    self.check_bounds(data, type, self.num_held * n)  # raises
            elif target != data + i * nbytes:
                memcpy(target, data + i * nbytes, nbytes)

    cdef scatter_fields(self, dict fields):
        """Writes the trainer's own fields of the held units into their rows of the arena."""
        cdef int i, u, n = self.rows_per_unit
        cdef cnp.ndarray field, rows
        cdef const char *data
        cdef char *target
        cdef size_t nbytes
        for name, values in fields.items():
            if name not in self.trainer_fields:
                declared = _listed(self.trainer_fields) or "none were"
                raise ValueError(f"fields: {name!r} is not a trainer field; declared in make(trainer_fields=...): {declared}")
            field = self.trainer_fields[name]
            if is_rows(values, self.num_held * n, field):
                rows = values
            else:
                rows = as_rows(values, self.num_held * n, (<object>field).shape[2:], (<object>field).dtype, f"fields[{name!r}]")
            data = <const char *>cnp.PyArray_DATA(rows)
            nbytes = n * <size_t>cnp.PyArray_STRIDE(field, 1)
            for i in range(self.num_held):
                u = self.held[i]
                target = <char *>cnp.PyArray_DATA(field) + self.unit[u].slot * cnp.PyArray_STRIDE(field, 0) + u * nbytes
                if target != data + i * nbytes:
                    memcpy(target, data + i * nbytes, nbytes)

    cdef const char *fast_actions(self, actions, int *type) except? NULL:
        """The data of an array that is as the arena wants it, or of int64 for bounded int32; NULL for anything else.
        *type becomes NumPy's type number."""
        cdef int i
        cdef cnp.ndarray array
        cdef bint wide
        if not cnp.PyArray_CheckExact(actions):
            return NULL
        array = actions
        # What torch samples, and what PufferLib's envs take: too frequent for the slow way.
        wide = cnp.PyArray_TYPE(array) == cnp.NPY_INT64 and self.action_type == cnp.NPY_INT32 and self.low != NULL
        if (
            not (cnp.PyArray_TYPE(array) == self.action_type or wide)
            or not cnp.PyArray_ISCARRAY_RO(array)
            or cnp.PyArray_NDIM(array) != 1 + len(self.action_shape)
            or cnp.PyArray_DIM(array, 0) != self.num_held * self.rows_per_unit
        ):
            return NULL
        for i in range(len(self.action_shape)):
            if cnp.PyArray_DIM(array, i + 1) != <Py_ssize_t>self.action_shape[i]:
                return NULL
        type[0] = cnp.PyArray_TYPE(array)
        return <const char *>cnp.PyArray_DATA(array)

    cdef check_bounds(self, const char *data, int type, Py_ssize_t rows):
        """Raises ValueError for actions of NumPy's type number `type` that are out of bounds."""
        if self.low == NULL:
            return
        if type == cnp.NPY_INT64 and within(<const int64_t *>data, rows, self.action_items, self.low, self.high):
            return
        if type == cnp.NPY_INT32 and within(<const int32_t *>data, rows, self.action_items, self.low, self.high):
            return
        dtype = self.action_dtype if type == self.action_type else np.dtype(np.int64)
        nbytes = rows * self.action_items * dtype.itemsize
        array = np.frombuffer(<const char[:nbytes]>data, dtype).reshape((rows, *self.action_shape))
        low = np.array(<int64_t[:self.action_items]>self.low).reshape(self.action_shape)
        high = np.array(<int64_t[:self.action_items]>self.high).reshape(self.action_shape)
        if (array < low).any() or (array > high).any():
            raise out_of_bounds(array, low, high)

    cdef void account(self) noexcept nogil:
        """Where the time since send went: the slowest env, and the rest.

        The slowest is looked up where a batch took long, else for one in SAMPLED only: its number lies on a line that the
        worker writes in every step, and fetching that costs as much as the handoff itself.
        """
        cdef int first = self.held[0]
        cdef fv_control *c = self.control
        cdef int64_t now = fv_now(), passed = now - fv_counted(&c.last_send)
        fv_note(&c.last_recv, now)
        fv_trace(self.ring, FV_RECEIVED, now, self.num_held, first, self.unit[first].slot)
        if not self.stepping:
            return
        fv_count(&c.loop_ns, passed)
        if self.host is not None:
            fv_count(&c.env_ns, self.host_ns)
            return
        self.since_sample += 1
        if self.since_sample == SAMPLED or passed > LOOK_NS * self.num_held:
            self.sample()
        self.since_sample %= SAMPLED
        fv_count(&c.env_ns, min(self.slowest_ns, passed))

    cdef void sample(self) noexcept nogil:
        """Looks how long the workers of this batch took, and how long their announcements were on their way to us."""
        cdef fv_mailbox *m
        cdef int i
        self.slowest_ns = 0
        for i in range(self.num_held):
            m = &self.boxes.box[self.held[i]]
            self.slowest_ns = max(self.slowest_ns, fv_order_ns(m))
            if self.unit[self.held[i]].taken_ns:
                fv_count(&m.takes, 1)
                fv_count(&m.take_ns, self.unit[self.held[i]].taken_ns - fv_counted(&m.done_ns))


cdef bint is_rows(values, Py_ssize_t rows, cnp.ndarray field):
    """Whether `values` are so many rows of a field [slots, rows, ...] as they are: too frequent for as_rows."""
    cdef int i, dims = cnp.PyArray_NDIM(field) - 1
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(values):
        return False
    array = values
    if (
        cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(field) or cnp.PyArray_ITEMSIZE(array) != cnp.PyArray_ITEMSIZE(field)
        or cnp.PyArray_TYPE(array) == cnp.NPY_VOID  # one structure may differ from another
        or not cnp.PyArray_ISCARRAY_RO(array) or cnp.PyArray_NDIM(array) != dims or cnp.PyArray_DIM(array, 0) != rows
    ):
        return False
    for i in range(1, dims):
        if cnp.PyArray_DIM(array, i) != cnp.PyArray_DIM(field, i + 1):
            return False
    return True


ctypedef fused integer:
    int32_t
    int64_t


cdef bint within(const integer *x, Py_ssize_t rows, int items, const int64_t *low, const int64_t *high) noexcept nogil:
    """Whether all numbers of all rows lie within their bounds."""
    cdef Py_ssize_t r
    cdef int k
    cdef bint bad = False
    cdef integer least = <integer>low[0], most = <integer>high[0]
    if items == 1:
        for r in range(rows):
            bad |= (x[r] < least) | (x[r] > most)
        return not bad
    for r in range(rows):
        for k in range(items):
            bad |= x[k] < low[k] or x[k] > high[k]
        x += items
    return not bad


cdef bint narrow(int32_t *target, const int64_t *x, Py_ssize_t n) noexcept nogil:
    """Whether all numbers fit."""
    cdef Py_ssize_t i
    cdef int64_t lost = 0
    for i in range(n):
        target[i] = <int32_t>x[i]
        lost |= x[i] ^ target[i]
    return lost == 0


def _listed(items):
    return ", ".join(map(str, items))


def _pickled(what, message):
    """In bytes, before anybody is told to read them: a worker would wait for ever for what cannot be pickled."""
    try:
        return ForkingPickler.dumps(message)
    except Exception as error:
        raise TypeError(f"{what}: {message!r:.200} cannot be pickled to reach the workers ({error}); give functions and objects of "
                        "modules, or take num_workers=0") from error
