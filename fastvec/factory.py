"""fastvec.make: from creators to a running VecEnv."""
from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from multiprocessing import reduction

import numpy as np

from fastvec_c import control
from fastvec_c.arena import Arena
from fastvec_c.errors import RecvTimeout, WorkerError
from fastvec_c.fields import Fields
from fastvec_c.mailbox import MAX_WORKERS, Mailboxes
from fastvec_c.worker import Host

from fastvec import process, resources, waiting
from fastvec.arguments import check_choice, check_count, check_flag, check_limit
from fastvec.autotune import choose_workers
from fastvec.debug import ActionCheck, RowCheck
from fastvec.hosting import Hosting, build_envs, check_alike, describe, lay_out
from fastvec.machine import usable_cpus
from fastvec.recovery import Limits, Recovery
from fastvec.spaces import Spec
from fastvec.vec_env import VecEnv

AUTORESET = ("next_step", "same_step", "disabled")
_MOST_ENVS = 1 << 24  # more are a slip


def make(
    creator,
    num_workers="auto",
    *,
    num_envs=None,
    envs_per_worker=None,
    batch_size=None,
    zero_copy=False,
    in_order=False,
    seed=None,
    slots=None,
    horizon=None,
    double_buffer=False,
    trainer_fields=None,
    autoreset="next_step",
    wait="auto",
    start_method=None,
    affinity=None,
    timeout=None,
    on_failure="raise",
    max_restarts=10,
    restart_window=600.0,
    debug=False,
) -> VecEnv:
    """Starts workers and builds the envs in them.

    Args:
        creator: a callable that returns an env, or a list of them, one for each env.  An env is a gymnasium.Env, a
            fastvec.Env, an env of PufferLib, an object of GPUDrive's, or a compiled env (fastvec_env.h); all of one pool
            have equal spaces.  A creator that has parameters named `env_index` or `num_envs` is called with them.
            Attributes that a creator may have: `start_attempts`, how often a worker that dies while it builds is started;
            `describe(env_index, num_envs)`, a text for the error of one that died in all of them.
        num_workers: worker processes; 0 keeps the envs in this process; "auto" times an env and takes what should be
            fastest, 0 included.
        num_envs: envs in all; by default one for each creator of a list, else `num_workers * envs_per_worker`.
        envs_per_worker: envs that each worker steps one after the other; by default 1, or what `num_envs` demands.
        batch_size: envs in one `recv`; by default all.  Fewer is asynchronous stepping: the first workers to finish.
        zero_copy: with a smaller `batch_size`: batches are fixed blocks of neighbouring workers, read in place, instead
            of the first to finish, copied together.
        in_order: with a smaller `batch_size`: batches come in the order in which they were sent, however long their
            envs take, instead of the first to finish.  The batches of a run are then the same each time.
        seed: an int for the first reset; None draws one.  Env i is seeded with `seed + i`.
        slots: time steps that the arena holds: 1, unless given, takes least memory, 2 keeps the last observations readable
            while the next are written.
        horizon: steps of a rollout: `vec.rollout` then collects so many of each row in the arena itself, which has horizon + 1
            slots.
        double_buffer: with `horizon`, twice as many slots: the last rollout stays as it is while the next one is collected.
        trainer_fields: {name: Spec or (shape, dtype)} of arrays of your own beside the observations, such as
            {"values": ((), "float32")}: one row for each agent in each slot, which `send` fills and no worker touches.
        autoreset: of gymnasium envs that are done, as gymnasium.vector.AutoresetMode: "next_step", "same_step" or
            "disabled".  Other envs reset themselves.
        wait: how processes wait for one another: "auto" decides from the CPUs we may use, "spin", "yield", "park", or
            a fastvec.WaitPolicy.
        start_method: "fork", "forkserver" or "spawn"; by default fork where the system has it.  The others need
            creators that can be pickled (cloudpickle is used if installed).
        affinity: "cores" pins worker i to the i-th usable CPU; or for each worker a CPU number or a list of them.  With a
            worker for each CPU of a machine that nobody else uses, some percent faster and steadier; where others compute
            there, too, much slower, since a pinned worker cannot get out of their way.
        timeout: seconds that any wait for workers may last, their start included; None waits as long as they live.
        on_failure: when a worker dies, or an env raises in `reset` or `step`, or `timeout` passes: "raise" ends the run
            with a WorkerError (RecvTimeout).  "restart" starts a new process for the worker's envs (one that is late is
            killed first) while the others go on.  The worker's rows come back once, with the first observations of new
            episodes, truncations where masks are, rewards 0, and `infos[env]` with "restarted" and "error", the
            WorkerError's text; their seeds are drawn from the run's seed, the env and the number of restarts.  "drop"
            goes on without: the rows come back once, zero and truncated, with "dropped" and "error", and stay masked.
            What cannot be mended raises all the same: a death in `call` or `apply`, while `make` waits, or of the last
            worker.
        max_restarts, restart_window: so many restarts, of all workers together, in so many seconds; the next death raises.
        debug: look through all actions before they are sent, and all rows when envs have written them, and raise of what does
            not belong there: NaN and infinities, numbers out of the spaces' bounds, flags and masks other than 0 and 1.  The
            errors (ValueError of `send`; a WorkerError of `recv` whose cause is a RowError) name env, agent, worker, element,
            value and bounds.  Slow; see docs/debugging.md.

    Returns:
        a VecEnv; call `reset` or `async_reset` next, and `close` in the end (or use `with`).

    Raises:
        ValueError, TypeError: an argument does not fit; the message says which, and what would.
        WorkerError: a creator raised, or a worker died while it built its envs.
        RecvTimeout: the workers were not ready within `timeout`.
        MemoryError: the arena would not fit into the memory available, or allowed by a cgroup or a resource limit.
        OSError: the system allows no more processes, threads or file descriptors.

    >>> import fastvec, gymnasium
    >>> with fastvec.make(lambda: gymnasium.make("CartPole-v1"), num_workers=2, seed=1) as vec:
    ...     observations, infos = vec.reset()
    ...     observations, rewards, terminations, truncations, infos = vec.step([0, 1])
    >>> observations.shape
    (2, 4)
    """
    check_choice("autoreset", autoreset, AUTORESET)
    check_flag("zero_copy", zero_copy)
    check_flag("in_order", in_order)
    check_flag("debug", debug)
    slots = _slots(slots, horizon, double_buffer)
    trainer_fields = _trainer_fields(trainer_fields)
    limits = Limits(on_failure, max_restarts, restart_window)
    if timeout is not None:
        timeout = check_limit("timeout", timeout)
    if seed is not None:
        seed = check_count("seed", seed, 0, (1 << 62) - 1)
    waiting.choose(wait, 1)
    context = _context(start_method)
    num_workers, num_envs, envs_per_worker = _counts(num_workers, num_envs, envs_per_worker)
    creators = _one_for_each_env(creator, num_workers, num_envs, envs_per_worker)
    if isinstance(num_workers, str):
        num_workers = _auto_workers(creators, envs_per_worker, batch_size, zero_copy, affinity, autoreset, context, timeout)
        if on_failure != "raise":
            num_workers = num_workers or 1
    elif num_workers == 0 and on_failure != "raise":
        raise ValueError(f"on_failure={on_failure!r} needs workers that may die; give num_workers of at least 1")
    units = _units(num_workers, len(creators), envs_per_worker)
    units_per_batch = _units_per_batch(batch_size, len(creators), units, zero_copy)
    cpus = _cpus_of_workers(affinity, num_workers)
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    policy = waiting.choose(wait, num_workers)
    deadline = None if timeout is None else time.monotonic() + timeout
    boxes = host = recovery = None
    workers: list[process.Worker] = []
    try:
        if num_workers == 0:
            host, descriptions = _host_here(creators, autoreset)
        else:
            tasks = _tasks(creators, num_workers, autoreset, policy, cpus, context, on_failure != "raise", debug)
            resources.check_descriptors(num_workers)
            descriptions = _start_workers(workers, tasks, creators, context, deadline, timeout)
        check_alike(descriptions)
        hosting = lay_out(descriptions, units, slots, trainer_fields)
        resources.check_memory(hosting.nbytes, hosting.rows, hosting.slots)
        arena = Arena.create(hosting.nbytes)
        fields = Fields(arena, hosting.placed, hosting.slots, hosting.rows)
        _introduce(arena, num_workers, units, units_per_batch, hosting, descriptions)
        if host is not None:
            host.bind(fields, hosting.seeds_at, hosting.whats_at, 0, hosting.rows_per_env)
            if debug:
                host.check = RowCheck(fields.views, descriptions[0], 0, len(creators), hosting.rows_per_env)
        else:
            boxes = Mailboxes(arena, num_workers)
            for worker in workers:
                boxes.set_process(worker.index, worker.process.pid, 0)
            _admit(workers, hosting, arena, deadline, timeout)
        if on_failure != "raise":
            place = process.Place(hosting, descriptions[0], process.SharedFd(arena.fd))
            recovery = Recovery(limits, context, tasks, place, seed)
        vec = VecEnv(
            fields, boxes, host, units, len(creators) // units, hosting.rows // units, units_per_batch, not zero_copy,
            in_order, descriptions[0].action_spec, policy,
            {name: arena.view(at, (slots, hosting.rows, *shape), dtype) for name, shape, dtype, at in hosting.trainer_placed}, horizon or 0,
            workers=workers, hosting=hosting, description=descriptions[0], seed=seed, timeout=timeout,
            recovery=recovery, arena=arena,
        )
        if debug:
            vec.check_actions_with(ActionCheck(fields.views, descriptions[0], hosting.rows_per_env, hosting.rows // units, num_workers))
    except BaseException:
        process.stop(workers, boxes, grace=1.0)
        if host is not None:
            host.close()
        raise
    return vec


def _introduce(arena, num_workers, units, units_per_batch, hosting, descriptions):
    """Has the arena say what it is, for `fastvec top` and `fastvec doctor --dump`."""
    from fastvec import __version__

    control.introduce(
        arena, num_workers=num_workers, num_units=units, envs_per_unit=len(descriptions) // units, rows_per_unit=hosting.rows // units,
        units_per_batch=units_per_batch, slots=hosting.slots, version=__version__, kind=descriptions[0].kind,
    )


# ---- how many of what ------------------------------------------------------------------------------------------------


def _counts(num_workers, num_envs, envs_per_worker):
    """The same as ints, where they are not "auto" or None."""
    if not isinstance(num_workers, str):
        num_workers = check_count("num_workers", num_workers, 0, MAX_WORKERS)
    elif num_workers != "auto":
        raise ValueError(f"num_workers={num_workers!r}; give an int, or 'auto'")
    num_envs = None if num_envs is None else check_count("num_envs", num_envs, most=_MOST_ENVS)
    envs_per_worker = None if envs_per_worker is None else check_count("envs_per_worker", envs_per_worker, most=_MOST_ENVS)
    return num_workers, num_envs, envs_per_worker


def _one_for_each_env(creator, num_workers, num_envs, envs_per_worker) -> list:
    """The creator of every env."""
    if isinstance(creator, (list, tuple)):
        if not creator:
            raise ValueError("creator: an empty list; give at least one callable")
        if num_envs not in (None, len(creator)):
            raise ValueError(f"num_envs={num_envs}, but creator is a list of {len(creator)}; leave num_envs out")
        creators = list(creator)
    else:
        workers = max(1, int(usable_cpus())) if isinstance(num_workers, str) else num_workers or 1
        creators = [creator] * (num_envs or workers * (envs_per_worker or 1))
    for i, c in enumerate(creators):
        if not callable(c):
            raise TypeError(
                f"creator: {c!r} is not callable" + (f" (at place {i} of the list)" if creators[0] is not c else "")
                + "; give a function that returns an env, not the env itself"
            )
    return creators


def _auto_workers(creators, envs_per_worker, batch_size, zero_copy, affinity, autoreset, context, timeout) -> int:
    if envs_per_worker is not None:
        workers = -(-len(creators) // envs_per_worker)
        check_count("num_workers", workers, 1, MAX_WORKERS)
        return workers
    # What can be refused is, before an env is timed.
    if affinity is not None and not isinstance(affinity, str):
        raise ValueError(f"affinity={affinity!r} with num_workers='auto'; give 'cores', or say how many workers there are to be")
    _cpus_of_workers(affinity, 1)
    _units_per_batch(batch_size, len(creators), len(creators), zero_copy)

    def probe():
        mode = "next_step" if autoreset == "disabled" else autoreset  # nobody resets the probe
        return make(creators[:1], 1, autoreset=mode, start_method=context.get_start_method(), timeout=timeout)

    return choose_workers(probe, len(creators), usable_cpus())


def _units(num_workers, num_envs, envs_per_worker) -> int:
    """Workers, or 1 for the envs of this process."""
    units = num_workers or 1
    if num_envs % units:
        raise ValueError(
            f"num_workers={num_workers} does not divide the {num_envs} envs; every worker hosts equally many"
        )
    if envs_per_worker is not None and envs_per_worker * units != num_envs:
        raise ValueError(
            f"envs_per_worker={envs_per_worker} times num_workers={num_workers} is not {num_envs}, the number of envs; "
            "leave one of them out"
        )
    return units


def _units_per_batch(batch_size, num_envs, units, zero_copy) -> int:
    if batch_size is None:
        return units
    batch_size = check_count("batch_size", batch_size)
    per_unit = num_envs // units
    if batch_size % per_unit or batch_size > num_envs:
        raise ValueError(
            f"batch_size={batch_size}; give a multiple of the {per_unit} envs that step together in one worker, "
            f"{num_envs} at most"
        )
    if zero_copy and num_envs % batch_size:
        raise ValueError(
            f"batch_size={batch_size}; with zero_copy=True give a divisor of the {num_envs} envs, which fall into blocks of it"
        )
    return batch_size // per_unit


def _slots(slots, horizon, double_buffer) -> int:
    check_flag("double_buffer", double_buffer)
    if horizon is None:
        if double_buffer:
            raise ValueError("double_buffer=True is for rollouts; give horizon, the steps of one")
        return 1 if slots is None else check_count("slots", slots)
    horizon = check_count("horizon", horizon)
    if slots is not None:
        raise ValueError(f"slots={slots}, but horizon={horizon} says how many there are; leave slots out")
    return (horizon + 1) * (2 if double_buffer else 1)


def _trainer_fields(fields) -> dict[str, Spec]:
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise TypeError(f"trainer_fields={fields!r}; give a dict, such as {{'values': ((), 'float32')}}")
    return {name: _trainer_field(name, row) for name, row in fields.items()}


def _trainer_field(name, row) -> Spec:
    if not isinstance(name, str) or not name:
        raise TypeError(f"trainer_fields: the name {name!r}; give a string")
    try:
        spec = row if isinstance(row, Spec) else Spec(*(row if isinstance(row, tuple) and len(row) == 2 else (None,)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"trainer_fields[{name!r}]={row!r}; give a fastvec.Spec or (shape, dtype), such as ((), 'float32')") from error
    if min(spec.shape, default=1) < 0 or spec.nbytes == 0 or spec.dtype.kind not in "biufcV" or spec.dtype.hasobject:
        raise ValueError(f"trainer_fields[{name!r}]={row!r}; give a row of at least one element, of numbers or bools")
    return spec


# ---- starting --------------------------------------------------------------------------------------------------------


def _context(start_method):
    possible = multiprocessing.get_all_start_methods()
    if start_method is None:
        start_method = "fork" if "fork" in possible else "spawn"
    if not isinstance(start_method, str) or start_method not in possible:
        raise ValueError(f"start_method={start_method!r}; give one of {possible}")
    return multiprocessing.get_context(start_method)


def _host_here(creators, autoreset):
    building = [0]
    try:
        envs = build_envs(creators, 0, len(creators), autoreset, building)
    except Exception as error:
        raise process.failure(None, process.report(error, building[0]), "start", range(len(creators))) from error
    return Host(envs, 0), describe(envs)


def _tasks(creators, num_workers, autoreset, policy, cpus, context, replaceable, debug) -> list[process.Task]:
    per_worker = len(creators) // num_workers
    return [
        process.Task(
            index=i,
            creators=_portable(creators[i * per_worker:(i + 1) * per_worker], context),
            first_env=i * per_worker,
            hosted=per_worker,
            num_envs=len(creators),
            autoreset=autoreset,
            policy=policy,
            cpus=cpus[i],
            trainer=os.getpid(),
            debug=debug,
            replaceable=replaceable,
        )
        for i in range(num_workers)
    ]


def _portable(creators, context):
    """The creators as they can reach a worker: as they are over a fork, else pickled."""
    if context.get_start_method() == "fork":
        return creators
    try:
        return pickle.dumps(creators)
    except Exception as error:
        try:
            import cloudpickle
        except ImportError:
            raise TypeError(
                f"creator: {creators[0]!r} cannot be pickled ({error}), as start_method="
                f"{context.get_start_method()!r} needs; install cloudpickle, use a function of a module, or "
                "start_method='fork'"
            ) from error
        try:
            return cloudpickle.dumps(creators)
        except Exception as deeper:
            raise TypeError(
                f"creator: {creators[0]!r} cannot be pickled, by cloudpickle neither ({deeper}), as start_method="
                f"{context.get_start_method()!r} needs; have it make what it needs itself, or use start_method='fork'"
            ) from deeper


def _cpus_of_workers(affinity, num_workers) -> list:
    """For each worker the CPUs to run on, or None."""
    if affinity is None:
        return [None] * num_workers
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"affinity={affinity!r}: this system cannot pin processes; leave it out")
    usable = sorted(os.sched_getaffinity(0))
    if isinstance(affinity, str) and affinity == "cores":
        return [(usable[i % len(usable)],) for i in range(num_workers)]
    try:
        cpus = None if isinstance(affinity, str) else [tuple(a) if hasattr(a, "__iter__") else (a,) for a in affinity]
    except TypeError:
        cpus = None
    if cpus is None or len(cpus) != num_workers:
        raise ValueError(f"affinity={affinity!r}; give 'cores', or for each of the {num_workers} workers CPU numbers")
    for c in cpus:
        if not c or not all(isinstance(cpu, (int, np.integer)) and cpu in usable for cpu in c):
            raise ValueError(f"affinity: {c} is not among the CPUs that this process may use, {usable}")
    return cpus


def _start_workers(workers, tasks, creators, context, deadline, timeout) -> list:
    """Starts all workers, appending to `workers`; the descriptions of all envs, once they are built."""
    for task in tasks:
        workers.append(process.Worker(context, task, workers))
    descriptions = []
    for i, task in enumerate(tasks):
        hosted = creators[task.first_env:task.first_env + len(creators) // len(tasks)]
        descriptions += _built(workers, i, task, hosted, context, deadline, timeout)
    return descriptions


def _built(workers, i, task, creators, context, deadline, timeout):
    """The descriptions of worker i's envs.  One that dies is started again, where its creators have `start_attempts`."""
    attempts = max(getattr(creator, "start_attempts", 1) for creator in creators)
    for attempt in range(1, attempts + 1):
        try:
            return _hear(workers[i], deadline, timeout, "builds its envs")
        except WorkerError as error:
            if error.exitcode is None:  # an exception: it would come again
                raise
            if attempt == attempts:
                raise _with_scenes(error, attempts, creators, task) from None
        siblings = workers[:i] + workers[i + 1:]
        workers[i].release()
        workers[i] = process.Worker(context, task, siblings)


def _with_scenes(error, attempts, creators, task):
    """The error of a worker that died, with how often it did, and what its creators say of what they host."""
    told = [creator.describe(task.first_env + k, task.num_envs) for k, creator in enumerate(creators) if hasattr(creator, "describe")]
    first, *log = str(error).split("\n", 1)
    times = f" It did so {attempts} times." if attempts > 1 else ""
    message = "\n".join([first + times + "".join(f" It was {what}." for what in told), *log])
    return WorkerError(message, worker=error.worker, env=error.env, envs=error.envs, phase=error.phase, exitcode=error.exitcode)


def _admit(workers, hosting, arena, deadline, timeout):
    """Gives the arena to every worker."""
    for worker in workers:
        try:
            worker.conn.send(hosting)
            reduction.send_handle(worker.conn, arena.fd, worker.process.pid)
        except (BrokenPipeError, ConnectionResetError):
            raise worker.death("start") from None
    for worker in workers:
        _hear(worker, deadline, timeout, "prepares its rows")


def _hear(worker, deadline, timeout, doing):
    try:
        return worker.hear(deadline)
    except TimeoutError:
        raise RecvTimeout(
            f"make(): worker {worker.index} still {doing} after {timeout:g} s; give a larger timeout, "
            f"or look at what the creator waits for.{_stack_of(worker)}"
        ) from None


def _stack_of(worker):
    stack = worker.stack()
    return f"\nIts stack:\n{stack}" if stack else ""
