"""VecEnv: many envs behind one policy."""
from __future__ import annotations

import logging
import operator
import os
import time
import traceback
import weakref
from dataclasses import dataclass

import numpy as np

from fastvec_c import control
from fastvec_c.errors import RecvTimeout, StateError, WorkerError
from fastvec_c.pool import Pool
from fastvec_c.seconds import check_seconds
from fastvec_c.worker import KEEP, RESEED, RESET

from fastvec import process
from fastvec.rollout import Rollout
from fastvec.torch_views import TorchViews, tensors

_log = logging.getLogger("fastvec")
_open = weakref.WeakSet()
_GRACE_OF_OTHERS = 0.2  # seconds to close their envs when a worker has failed: the caller wants to know of it soon
_LEAVING = 1.0  # seconds for another thread to notice, in a call, that the VecEnv is closed: it looks at least every 0.1 s
_POLLING = 0.25  # seconds: who waits no longer than that is looking whether something has come, not wondering why nothing has


def _disown_all():
    """In a forked child: the workers belong to the parent, so the child must not talk to them."""
    for vec in _open:
        vec._disown(f"in process {os.getpid()}, a fork of the one that made the VecEnv: its workers obey that one alone; make a new VecEnv")


os.register_at_fork(after_in_child=_disown_all)


@dataclass(frozen=True)
class WorkerStats:
    """Of one worker, since its start.

    Attributes:
        steps: orders to step it has carried out.
        busy: seconds in them.
        waiting: seconds waiting for orders.
        parks: waits that were long enough to sleep.
        restarts: processes that took the place of a dead one; the other numbers go on counting.
        pickup_latency: mean seconds from an order (`send`) until the worker began with it, of the orders that it waited for.
        take_latency: mean seconds from the end of an order until the trainer took notice, whatever it did meanwhile; of a sample.

    The two latencies are NaN where nothing has been timed yet.
    """

    steps: int
    busy: float
    waiting: float
    parks: int
    restarts: int
    pickup_latency: float = float("nan")
    take_latency: float = float("nan")

    @property
    def step_time(self) -> float:
        """Mean seconds of an order to step; NaN before the first."""
        return self.busy / self.steps if self.steps else float("nan")

    @property
    def wait_share(self) -> float:
        """Part of its time in which the worker waited for orders; NaN before the first."""
        total = self.busy + self.waiting
        return self.waiting / total if total else float("nan")


@dataclass(frozen=True)
class Stats:
    """Where the time of the trainer went, in seconds, since the VecEnv was made.

    Attributes:
        batches: batches sent.
        rows: rows in them, masked ones included.
        env: time in which a batch waited for its slowest env.
        handoff: the rest of the time from `send` to the end of `recv`: waking, copying, gathering.
        policy: time from the end of `recv` to `send`: the trainer's own.
        workers: a WorkerStats for each worker; empty with `num_workers=0`.
    """

    batches: int
    rows: int
    env: float
    handoff: float
    policy: float
    workers: tuple[WorkerStats, ...]

    @property
    def waits_for(self) -> str | None:
        """What takes most of the trainer's time: "envs", "handoff" or "policy"; None before the first batch."""
        return bottleneck(self.env, self.handoff, self.policy)


def bottleneck(env: float, handoff: float, policy: float) -> str | None:
    """The largest of three parts of the time, as `Stats.waits_for` names it; None if there is no time."""
    parts = {"envs": env, "handoff": handoff, "policy": policy}
    return max(parts, key=parts.get) if any(parts.values()) else None


class VecEnv(Pool):
    """Steps many envs with one batch of actions; made by `fastvec.make`.

    Env e owns the rows `e * agents_per_env` to `(e + 1) * agents_per_env - 1` of every field.  Rows that its agents do
    not need are masked.

    Ownership: the rows of a batch are yours from the `recv` (or `reset`, `step`) that returned it until the `send` that
    answers it; in between their workers write nothing.  With `slots=k`, that send gives away one slot only, so what you
    received stays readable until the k-th next one.  With a `horizon` all steps of a rollout stay readable, as its
    `Rollout` says, and batches that were gathered are yours until the send that answers them.  Views stay readable memory
    after `close`.

    For one thread at a time, and for the process that made it.

    Attributes:
        num_envs, num_workers, envs_per_worker: as made; `num_workers` 0 means in this process.
        autoreset: as made, for envs that fastvec resets when their episode is over; None: they reset themselves.
        agents_per_env: rows of each env (of the one with most agents).
        num_rows: rows of all.
        batch_size: envs in one `recv`.
        slots: time steps that the arena holds.
        horizon: steps of a rollout, or None.
        single_observation_space, single_action_space: as the first env declares them.
        observation_spec, action_spec: fastvec.Spec of one row.
        policy: the WaitPolicy in use.
        fields: {name: array [slots, num_rows, ...]}, views on the whole arena, trainer fields among them.
        trainer_fields: those of them that are the trainer's own.
        torch: the same arrays as torch tensors (see TorchViews).
    """

    def __init__(self, fields, boxes, host, num_units, envs_per_unit, rows_per_unit, units_per_batch, gather, in_order,
                 action_spec, policy, trainer_fields, horizon, *, workers, hosting, description, seed, timeout, recovery, arena):
        self._workers = workers
        self._recovery = recovery  # None: a worker that dies ends the run
        self._description = description
        self._seed = seed  # for the first reset; None after that
        self._timeout = timeout
        self.policy = policy
        self.num_workers = len(workers)
        self.envs_per_worker = envs_per_unit
        self.num_envs = num_units * envs_per_unit
        self.agents_per_env = hosting.rows_per_env
        self.num_rows = hosting.rows
        self.batch_size = units_per_batch * envs_per_unit
        self.slots = hosting.slots
        self.horizon = horizon or None
        self.fields = {**fields.views, **trainer_fields}
        self._collecting = None  # the Rollout under way
        self._begun_anew = []  # rows whose episodes began in the last one's last step, in workers that took a dead one's place
        self._tensors = None  # the same, of torch, when asked for
        self.autoreset = description.autoreset
        self._resets_late = description.resets_late
        self.single_observation_space = description.observation_space
        self.single_action_space = description.action_space
        self.observation_spec = description.observation_spec
        self.action_spec = description.action_spec
        self._reset_seeds = arena.view(hosting.seeds_at, (self.num_envs,), np.int64)
        self._reset_what = arena.view(hosting.whats_at, (self.num_envs,), np.uint8)
        for worker in workers:
            self.conns.append(worker.conn)
            self.watch(worker.index, worker.life_fd)
        # Also runs when the VecEnv is garbage or the interpreter exits; holds no reference to self.
        self._stop = weakref.finalize(self, _stop_if_ours, os.getpid(), workers, boxes, host, arena)
        _open.add(self)

    # ---- resetting ---------------------------------------------------------------------------------------------------

    def reset(self, seed=None, options=None, env_mask=None):
        """Begins new episodes in all envs; steps under way are waited for and dropped.

        Args:
            seed: an int: env i gets `seed + i`, however many workers there are; or num_envs ints or Nones.  None goes
                on with the envs' random streams; at the first reset it is the seed given to `make`.
            options: handed to every env's reset; or a list of num_envs options or Nones, one for each env.
            env_mask: bool [num_envs]; only these envs are reset, the others keep their rows.  Needs all rows in hand:
                the last batch was one of all envs.

        Returns:
            (observations [num_rows, ...], infos {env index: dict})

        Raises:
            ValueError, TypeError: an argument does not fit.
            RecvTimeout, WorkerError: as in `recv`.
        """
        self._begin_reset(seed, options, env_mask)
        batch = self._recv_all(None, "reset")
        if self._collecting is not None:
            self._collecting._note(batch.infos)
        return batch.observations, batch.infos

    def async_reset(self, seed=None, options=None, env_mask=None):
        """Like `reset`, but returns at once: `recv` then gives the first batches."""
        self._begin_reset(seed, options, env_mask)

    def _begin_reset(self, seed, options, env_mask):
        self._check_open("reset")
        seeds = self._seeds(self._seed if seed is None else seed)
        options = self._options(options)
        messages = self._options_for_workers(options)
        if env_mask is not None:
            env_mask = np.asarray(env_mask)
            if env_mask.dtype != np.bool_ or env_mask.shape != (self.num_envs,):
                raise ValueError(
                    f"env_mask: {env_mask.dtype} array of shape {env_mask.shape}; give bool ({self.num_envs},)"
                )
            if not self._holds_all:
                raise StateError("reset(env_mask=...) needs all rows in hand: step all envs, or reset all first")
        else:
            self._collecting = None  # a rollout under way is given up
            self._await_all(None, "reset")
        self._reset_seeds[:] = [0 if s is None else s for s in seeds]
        self._reset_what[:] = [RESET if s is None else RESEED for s in seeds]
        if env_mask is not None:
            self._reset_what[~env_mask] = KEEP
            if self._collecting is not None:
                self._collecting._before_reset(env_mask)
        self._order_reset(options, messages, env_mask is not None)
        self._seed = None

    def _seeds(self, seed):
        """A seed or None for every env."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
            if not 0 <= seed < 1 << 62:
                raise ValueError(f"seed={seed}; give an int from 0 to 2**62 - 1")
            return [int(seed) + i for i in range(self.num_envs)]
        seeds = list(seed) if isinstance(seed, (list, tuple, np.ndarray)) and np.ndim(seed) else None
        if seeds is None or len(seeds) != self.num_envs or any(
            not (s is None or isinstance(s, (int, np.integer)) and 0 <= s < 1 << 63) for s in seeds
        ):
            raise ValueError(f"seed={seed!r}; give an int, or a list of {self.num_envs} ints >= 0 or Nones")
        return seeds

    def _options(self, options):
        """Options for every env, or None."""
        if options is None:
            return None
        if self._description.compiled:
            raise TypeError(f"options={options!r}: {self._description.kind} is a compiled env and takes none; leave it out")
        if not isinstance(options, (list, tuple)):
            return [options] * self.num_envs
        if len(options) != self.num_envs:
            raise ValueError(f"options: a {type(options).__name__} of {len(options)}; give one for each of the {self.num_envs} "
                             "envs, or a dict for all")
        return list(options)

    # ---- rollouts ----------------------------------------------------------------------------------------------------

    def rollout(self, policy=None) -> Rollout:
        """The next `horizon` steps of every row, kept in the arena.

        Args:
            policy: called with each Batch, returns what `send` takes, (actions, {name: trainer field}) or (actions, None); the
                rollout that is returned is complete then.  None: it is collected by its own `collect`.

        Raises:
            TypeError: the policy returned something else.
            StateError: there is no `horizon`; or rows are not in hand: call `reset` first, and complete the last rollout.
            what `send`, `recv` and the policy raise: the rollout is given up then, and the next one begins where the rows are
                (with batches smaller than all: after a `reset`).
        """
        if self.horizon is None:
            raise StateError("rollout(): this VecEnv keeps no rollouts; give make() a horizon, the steps of one")
        rollout = Rollout(self)
        if policy is not None:
            for batch in rollout.collect():
                answer = policy(batch)
                if type(answer) is not tuple or len(answer) != 2 or not (answer[1] is None or isinstance(answer[1], dict)):
                    raise TypeError(f"policy: returned {answer!r:.200}; give (actions, fields) as send() takes them, fields a dict or None")
                self.send(*answer)
        return rollout

    # ---- the slow path -----------------------------------------------------------------------------------------------

    def call(self, name, *args, **kwargs):
        """Attribute `name` of every env, called with the arguments if it can be called.

        Returns:
            a list of num_envs results; None for the envs of a worker that was dropped (`on_failure="drop"`).

        Raises:
            TypeError: `name` is no string, or the arguments cannot be pickled.
            WorkerError: an env raised (it has no such attribute, say); the VecEnv is closed then.
            RecvTimeout: as in `recv`; if it is the call itself that took too long, the VecEnv is closed.
        """
        self._check_open("call")
        if not isinstance(name, str):
            raise TypeError(f"name={name!r}; give the name of an attribute of the envs (and see `apply` for functions)")
        return self._ask(name, args, kwargs)

    def apply(self, function, *args, envs=None):
        """`function(env, *args)`, where the envs live.

        Args:
            function: called with what the creator returned.  It crosses to the workers pickled: take a function of a
                module.
            envs: indices of envs; by default all.

        Returns:
            a list of results, in the order of `envs`; None for envs of a worker that was dropped.

        Raises:
            TypeError: `function` is none, `envs` are no indices, or the function or its arguments cannot be pickled.
            IndexError: there is no such env.
            WorkerError: the function raised; the VecEnv is closed then.
            RecvTimeout: as in `call`.
        """
        self._check_open("apply")
        if not callable(function):
            raise TypeError(f"function={function!r}; give a function of an env (and see `call` for attributes by name)")
        envs = self._indices(range(self.num_envs) if envs is None else envs)
        results = dict(zip(sorted(set(envs)), self._ask(function, args, {}, frozenset(envs)), strict=True))
        return [results[e] for e in envs]

    def _indices(self, envs):
        try:
            indices = [_index(e) for e in envs]
        except TypeError:
            raise TypeError(f"envs={envs!r}; give a list of env indices (of a mask: np.flatnonzero(mask))") from None
        for e in indices:
            if not 0 <= e < self.num_envs:
                raise IndexError(f"envs: {e}; there are {self.num_envs} envs, 0 to {self.num_envs - 1}")
        return indices

    def _ask(self, *request):
        answers = self._order_call(request, None)
        which = request[3] if len(request) > 3 else range(self.num_envs)
        results = []
        for worker, answer in enumerate(answers):
            first = worker * self.envs_per_worker
            hosted = range(first, first + self.envs_per_worker)
            results += [None] * sum(env in which for env in hosted) if answer is None else answer
        return results

    # ---- reading -----------------------------------------------------------------------------------------------------

    @property
    def observations(self):
        """[num_rows, ...], the slot written last; a view.  (With batches smaller than all, workers may be at different
        slots: `fields` has them all.)"""
        return self.fields["observations"][self._slot]

    @property
    def actions(self):
        """[num_rows, ...], a view on the slot that answers `observations`: write here and `send()` without copying."""
        return self.fields["actions"][self._slot]

    @property
    def rewards(self):
        """float32 [num_rows], a view; see `observations`."""
        return self.fields["rewards"][self._slot]

    @property
    def terminations(self):
        """bool [num_rows], a view; see `observations`."""
        return self.fields["terminations"][self._slot]

    @property
    def truncations(self):
        """bool [num_rows], a view; see `observations`."""
        return self.fields["truncations"][self._slot]

    @property
    def masks(self):
        """bool [num_rows], a view; see `observations`."""
        return self.fields["masks"][self._slot]

    @property
    def torch(self) -> TorchViews:
        """The same arrays as torch tensors on the same memory: `vec.torch.observations` and so on.

        Raises:
            ImportError: torch is not installed.
            TypeError: torch lacks a field's dtype.
        """
        if self._tensors is None:
            self._tensors = {name: tensors(array) for name, array in self.fields.items()}
        return TorchViews(self, self._tensors)

    def stats(self) -> Stats:
        """Where the time went so far: waiting for envs, handing over, or in the trainer."""
        policy, loop, env, batches, rows = self._times()
        workers = [WorkerStats(*self.boxes.counters(w)) for w in range(self.num_workers)] if self.boxes is not None else []
        return Stats(batches, rows, env, loop - env, policy, tuple(workers))

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close(self, grace=5.0):
        """Closes the envs and ends the workers.  May be called again, by another thread or a signal handler too: a call that waits
        there raises ClosedError.

        Args:
            grace: seconds for the envs to close; a worker that takes longer is killed.  Interrupted (Ctrl-C), all are killed at once.

        Raises:
            ValueError: `grace` is no number of seconds.  Nothing else: what an env raises when it is closed is logged.
        """
        grace = check_seconds("grace=%r", grace)
        self._mark_closed()
        self._await_others(_LEAVING)
        if self._env_is_working:
            return  # in this process, in another thread or below a signal handler: the call that is under way closes it at its end
        stop = self._stop.detach()
        if stop is not None:
            _, function, args, _ = stop
            function(*args, grace)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        where = f"{self.num_workers} workers" if self.num_workers else "this process"
        return f"<fastvec.VecEnv: {self.num_envs} envs of {self._description.kind} in {where}, {self.num_rows} rows>"

    # ---- what the pool asks for --------------------------------------------------------------------------------------

    def _on_death(self, worker):
        """A worker died: raises how, after ending the others; or returns, when the run can go on without it."""
        phase = self._order_of(worker)
        env = self._env_at_work(worker)
        if env < worker * self.envs_per_worker:  # it has not taken up the order that its predecessor left
            phase, env = "start", None
        dead = self._workers[worker]
        report = dead.last_report() if dead.ended(0) else None
        error = process.failure(worker, report, phase, dead.envs) if report else dead.death(phase, env if phase else None)
        self._go_on_without(worker, phase, error)

    def _on_silence(self, worker, phase):
        """A worker died after it had announced what it then did not send.  Its rows are whole; its infos are lost."""
        if self._recovery is None or phase == "call":
            self._go_on_without(worker, "call", self._workers[worker].death(phase, self._env_at_work(worker)))

    def _on_late(self, call, timeout, own):
        """Workers took longer than `timeout` seconds: raises, unless this is the VecEnv's `own` limit and the run can go on
        without them."""
        late = self._pending
        told = f"{call}(): no answer within {timeout:g} s from worker {', '.join(map(str, late))}"
        if self._recovery is None or not own or call == "call":
            stacks = self._stacks(late) if timeout > _POLLING else ""
            raise RecvTimeout(f"{told}; the envs may be slow or stuck: wait again, or close().{stacks}")
        for worker in late:
            dead = self._workers[worker]
            if time.monotonic() - dead.started < timeout:  # has just taken another's place
                continue
            stack = self._stacks([worker])
            dead.kill()
            gone = dead.ended(process.GRACE)
            self._collect()
            if worker not in self._pending:  # it was done a moment before it was killed; its death is noticed at the next order
                continue
            phase, env = self._order_of(worker), self._env_at_work(worker)
            message = f"{told}; worker {worker} was killed in {phase}(), at env {env}.{stack}{dead.last_lines()}"
            error = WorkerError(message, worker=worker, env=env, envs=dead.envs, phase=phase)
            if not gone:  # the kernel still has it in its hands, and its rows perhaps: nobody may take its place
                self.close(_GRACE_OF_OTHERS)
                raise error
            self._go_on_without(worker, phase, error)

    def _stacks(self, late):
        """Where late workers are: of the first few."""
        told = ""
        for worker in late[:3]:
            stack = self._workers[worker].stack()
            told += f"\nWorker {worker} is in {self._order_of(worker)}(), at env {self._env_at_work(worker)}:\n{stack}" if stack else ""
        return told

    def _go_on_without(self, worker, phase, error):
        """Has another process take a dead worker's place, or drops it; raises `error` where that is not possible."""
        try:
            if self._recovery is None or phase == "call":  # an answer is missing, which nobody else can give
                raise error
            if self._recovery.limits.on_failure == "drop":
                self._recovery.drop(self._workers, worker, error, self._dropped)
                self._drop(worker)
                return
            self._recovery.restart(worker, error)
            first = worker * self.envs_per_worker
            envs = slice(first, first + self.envs_per_worker)
            self._reset_seeds[envs] = self._recovery.seeds(worker, self.envs_per_worker)
            self._reset_what[envs] = RESEED
            self._order_anew(worker)  # before there is anybody who could take the old order for its own
            new = self._recovery.start(self._workers, worker)
            self.boxes.set_process(worker, new.process.pid, self._recovery.restarts[worker])
            self.conns[worker] = new.conn
            self.watch(worker, new.life_fd)
        except BaseException:
            self.close(_GRACE_OF_OTHERS)
            raise

    def _on_return(self, worker):
        """{env: info} for the rows of a worker that died, when they come back."""
        first = worker * self.envs_per_worker
        info = self._recovery.info(worker)
        return {env: dict(info) for env in range(first, first + self.envs_per_worker)}

    def _on_failure(self, worker, report, phase):
        """An env in a worker raised."""
        error = process.failure(worker, report, phase, self._workers[worker].envs)
        self.close(_GRACE_OF_OTHERS)
        raise error

    def _on_exception(self, exception, phase):
        """An env in this process raised."""
        error = process.failure(None, process.report(exception, self.host.env_at_work), phase, range(self.num_envs))
        self.close()
        raise error from exception


def _index(e):
    if isinstance(e, bool):  # of a mask
        raise TypeError
    return operator.index(e)


def _close_here(host):
    """Closes the envs of this process; what they raise is logged, as of those in workers."""
    try:
        host.close()
    except Exception:
        _log.warning("an env of this process raised in close():\n%s", traceback.format_exc())


def _stop_if_ours(pid, workers, boxes, host, arena, grace=5.0):
    if os.getpid() != pid:
        return
    control.conclude(arena)
    arena.close_fd()  # the mappings are enough; with the last of them the memory is gone
    if host is not None:
        _close_here(host)
    process.stop(workers, boxes, grace)
