"""fastvec as a backend of PufferLib's vectorization.

>>> import fastvec.puffer, pufferlib.vector                                             # doctest: +SKIP
>>> vecenv = pufferlib.vector.make(env_creator, backend=fastvec.puffer.Multiprocessing, num_envs=8, num_workers=2)

`python -m fastvec.puffer train ENV --vec.backend Fastvec` is PufferLib's own command line with the backend installed.
"""
from __future__ import annotations

import inspect

import numpy as np

from fastvec_c.errors import StateError, WorkerError
from fastvec_c.puffer_calls import Calls

import fastvec
from fastvec.adapters.puffer import Creator, Layout, NotAsDeclared, close_env, puffer_kinds, transport_action_space

try:
    import pufferlib
    import pufferlib.emulation  # so that its envs are known
    import pufferlib.vector
    from pufferlib.pufferlib import APIUsageError  # not every version has it one level up
except ImportError as error:
    raise ImportError(f"fastvec.puffer needs PufferLib ({error}); pip install 'fastvec[puffer]'") from error


class Multiprocessing(Calls):
    """Takes the place of `pufferlib.vector.Multiprocessing`: the same arguments, attributes and results.

    What is different:

        - A worker that dies or raises is a fastvec.WorkerError in the trainer, not an endless wait; an env's own
          exception is its `__cause__`.
        - Every `send` checks its actions, not only the first.
        - More workers than cores are no problem: `overwork` is accepted and changes nothing.
        - Env i is reset with `seed + i`, as in PufferLib's Serial backend, however many workers there are.
        - Envs may have different numbers of agents.  Each gets the rows of the one with most; those that its agents do not
          need have mask False, and nothing of theirs means anything.
        - Infos that say nothing ({}, or an empty dict for each agent) are left out.

    Args:
        env_creators, env_args, env_kwargs: lists of num_envs, as `pufferlib.vector.make` hands them over.  Env i is built
            in its worker, by `env_creators[i](*env_args[i], buf=..., seed=seed + i, **env_kwargs[i])`; its buffers lie in
            shared memory.  The first is built in this process too (the driver), without buf and seed.
        num_envs: envs, of one agent or many each.
        num_workers: processes; by default one for each env.
        batch_size: envs in one `recv`; by default all.
        zero_copy: with a smaller `batch_size`: batches are blocks of neighbouring workers, read in place; else they are
            copied together from any workers.
        sync_traj: with a smaller `batch_size`: batches come in the order in which they were sent, which PufferLib's
            trainer needs; else the first to finish.
        overwork: ignored.
        seed: of the envs' constructors.
        start_method, affinity, wait, timeout, on_failure, max_restarts, restart_window, debug: as in `fastvec.make`.
            `pufferlib.vector.make` does not pass them on: give it
            `backend=functools.partial(fastvec.puffer.Multiprocessing, start_method="forkserver")`.

    Raises:
        pufferlib.APIUsageError: an argument does not fit; the message says which, and what would.
        WorkerError: an env could not be built.

    Attributes:
        driver_env: an env in this process, which nobody steps: for its spaces and other attributes.
        single_observation_space, single_action_space: of one agent.
        transport_single_action_space: what one agent is sent, where its env takes its actions in another form.
        observation_space, action_space: of the agents of one batch.
        num_agents: rows of all envs.
        agents_per_batch: rows in one `recv`; also called num_envs.
        num_environments, num_workers, envs_per_worker, workers_per_batch: counts.
        agent_ids: int64 [num_workers, rows of a worker].
        batch_mask: the masks of the last batch.
        emulated: the driver's; False of native envs.
    """

    def __init__(self, env_creators, env_args, env_kwargs, num_envs, num_workers=None, batch_size=None, zero_copy=True,
                 sync_traj=True, overwork=False, seed=0, *, start_method=None, affinity=None, wait="auto", timeout=None,
                 on_failure="raise", max_restarts=10, restart_window=600.0, debug=False):
        num_workers = num_envs if num_workers is None else num_workers
        batch_size = num_envs if batch_size is None else batch_size
        _check_counts(num_envs, num_workers, batch_size, zero_copy)
        if seed is not None and not _is_integer(seed):
            raise APIUsageError(f"seed must be an integer or None, not {seed!r}")
        _check_creators(env_creators, env_args, env_kwargs, num_envs)
        self.driver_env = driver = env_creators[0](*env_args[0], **env_kwargs[0])
        if not isinstance(driver, puffer_kinds()):
            kinds = ", ".join(kind.__name__ for kind in puffer_kinds())
            raise APIUsageError(f"env_creator must return one of PufferLib's envs ({kinds}), not {driver!r}")
        try:
            self._vec = _start(
                driver, list(zip(env_creators, env_args, env_kwargs)), seed,
                num_workers=num_workers, batch_size=batch_size, zero_copy=bool(zero_copy), in_order=bool(sync_traj),
                start_method=start_method, affinity=affinity, wait=wait, timeout=timeout,
                on_failure=on_failure, max_restarts=max_restarts, restart_window=restart_window,
                debug=debug,
            )
        except BaseException:
            close_env(driver)
            raise
        vec = self._vec
        self._drive(vec)
        self.zero_copy = zero_copy
        self.sync_traj = sync_traj
        self._in_place = zero_copy or batch_size == num_envs
        self._teacher_actions = vec.fields["teacher_actions"][0] if "teacher_actions" in vec.fields else None
        self.num_environments = num_envs
        self.num_workers = num_workers
        self.envs_per_worker = num_envs // num_workers
        self.workers_per_batch = batch_size // self.envs_per_worker
        self.num_agents = vec.num_rows
        self.agents_per_batch = batch_size * vec.agents_per_env
        self.agent_ids = np.arange(vec.num_rows).reshape(num_workers, -1)
        self.emulated = driver.emulated
        self.single_observation_space = driver.single_observation_space
        self.single_action_space = driver.single_action_space
        self.transport_single_action_space = transport_action_space(driver)
        self.action_space = pufferlib.spaces.joint_space(self.transport_single_action_space, self.agents_per_batch)
        self.observation_space = pufferlib.spaces.joint_space(driver.single_observation_space, self.agents_per_batch)
        self._closed = False

    @property
    def num_envs(self):
        return self.agents_per_batch

    # ---- stepping ----------------------------------------------------------------------------------------------------

    def async_reset(self, seed=0):
        """Begins new episodes in all envs; `recv` gives the first batches.  Steps under way are waited for and dropped.

        Args:
            seed: env i gets `seed + i`; None goes on with the envs' random streams.
        """
        try:
            self._vec.async_reset([None] * self.num_environments if seed is None else seed)
        except (StateError, ValueError) as error:
            raise APIUsageError(str(error)) from error

    def reset(self, seed=42):
        """`async_reset` and `recv`.

        Returns:
            (observations, infos)
        """
        self.async_reset(seed)
        batch = self.recv()
        return batch[0], batch[-3]

    def step(self, actions):
        """`send` and `recv`.

        Returns:
            (observations, rewards, terminals, truncations, infos)
        """
        self.send(actions)
        batch = self.recv()
        return *batch[:4], batch[-3]

    _misuse = APIUsageError  # what Calls raises

    def _check_first(self, actions):
        # Checks what fastvec does not: that continuous actions lie within their bounds.
        actions = np.asarray(actions)
        if not self.action_space.contains(actions):
            raise APIUsageError(
                f"Actions do not match action space: an array of {actions.dtype} {actions.shape}; give "
                f"{self.agents_per_batch} of {self.single_action_space}"
            )
        self.initialized = True

    def _parts(self, batch):
        """What `recv` returns for a batch: what comes before the infos, the infos, and what comes behind them."""
        before, after = tuple(batch[:4]), (batch.rows, batch.masks)
        if self._teacher_actions is not None:
            rows = slice(batch.rows[0], batch.rows[-1] + 1) if self._in_place else batch.rows
            before += (self._teacher_actions[rows],)
        if self._in_place and not batch.infos:
            self._keep(batch, before, after)
        return before, _listed(batch.infos), after

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def notify(self):
        """Calls `notify()` of every env, before its next step; waits for the steps under way.

        Raises:
            pufferlib.APIUsageError: the envs have no such method.
        """
        if not hasattr(self.driver_env, "notify"):
            raise APIUsageError(f"notify(): {type(self.driver_env).__name__} has no such method; add one")
        try:
            self._vec.call("notify")
        except StateError as error:
            raise APIUsageError(str(error)) from error

    def close(self):
        """Closes the envs and ends the workers.  May be called again."""
        if self._closed:
            return
        self._closed = True
        try:
            close_env(self.driver_env)
        finally:
            self._vec.close()

    def __repr__(self):
        return (f"<fastvec.puffer.Multiprocessing: {self.num_environments} envs of {type(self.driver_env).__name__} in "
                f"{self.num_workers} workers, {self.num_agents} agents, {self.agents_per_batch} in a batch>")


def install(name="Fastvec"):
    """Makes the backend known to PufferLib as a string: `backend="Fastvec"`, or in a configuration's [vec] section.

    Raises:
        ValueError: PufferLib has something else of that name.
    """
    if getattr(pufferlib.vector, name, Multiprocessing) is not Multiprocessing:
        raise ValueError(f"name={name!r}: pufferlib.vector has something else of that name; choose another")
    setattr(pufferlib.vector, name, Multiprocessing)


# ---- arguments -------------------------------------------------------------------------------------------------------


def _check_counts(num_envs, num_workers, batch_size, zero_copy):
    for name, value in (("num_envs", num_envs), ("num_workers", num_workers), ("batch_size", batch_size)):
        if not _is_integer(value) or value < 1:
            raise APIUsageError(f"{name} must be an integer of at least 1, not {value!r}")
    if num_envs % num_workers:
        raise APIUsageError(f"num_envs ({num_envs}) must be divisible by num_workers ({num_workers})")
    if batch_size % (num_envs // num_workers):
        raise APIUsageError(
            f"batch_size ({batch_size}) must be divisible by (num_envs / num_workers) ({num_envs // num_workers})"
        )
    if batch_size > num_envs:
        raise APIUsageError(f"batch_size ({batch_size}) must not be larger than num_envs ({num_envs})")
    if zero_copy and num_envs % batch_size:
        raise APIUsageError(
            f"zero_copy: num_envs ({num_envs}) must be divisible by batch_size ({batch_size}); or set zero_copy=False"
        )


def _is_integer(value):
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _check_creators(env_creators, env_args, env_kwargs, num_envs):
    for name, value in (("env_creators", env_creators), ("env_args", env_args), ("env_kwargs", env_kwargs)):
        if not isinstance(value, (list, tuple)) or len(value) != num_envs:
            raise APIUsageError(f"{name} must be a list of length num_envs ({num_envs})")
    for i, (creator, args, kwargs) in enumerate(zip(env_creators, env_args, env_kwargs)):
        if not callable(creator):
            raise APIUsageError(f"env_creators must be a list of callables; at place {i} is {creator!r}")
        try:
            signature = inspect.signature(creator)
        except (TypeError, ValueError):  # some builtins have none
            continue
        try:
            signature.bind(*args, buf=None, seed=0, **kwargs)
        except TypeError as error:
            raise APIUsageError(
                f"env_creators: {creator!r} ({error}) is called with buf=, seed=, env_args and env_kwargs; "
                "pass buf on to the env that it returns"
            ) from None


def _start(driver, creators, seed, **options):
    """A VecEnv of envs that are built in their rows."""
    layout = Layout.of(driver)
    alike = [all(mine is first for mine, first in zip(creator, creators[0])) for creator in creators]
    try:
        return _make(creators, seed, [layout if a else None for a in alike], options)
    except WorkerError as error:
        if not isinstance(error.__cause__, NotAsDeclared):
            raise
    # The same creator builds envs of different sizes, from its seed maybe: look at each before its rows are laid out.
    return _make(creators, seed, [None] * len(creators), options)


def _make(creators, seed, layouts, options):
    creators = [
        Creator(*creator, None if seed is None else seed + i, layout)
        for i, (creator, layout) in enumerate(zip(creators, layouts))
    ]
    try:
        return fastvec.make(creators, **options)
    except ValueError as error:
        raise APIUsageError(str(error)) from error


def _listed(infos):
    """The infos of a batch's envs, dicts and lists of dicts, as one list."""
    flat = []
    for info in infos.values():
        if isinstance(info, list):
            flat.extend(info)
        else:
            flat.append(info)
    return flat


if __name__ == "__main__":
    from pufferlib import pufferl

    import fastvec.puffer

    fastvec.puffer.install()
    pufferl.main()
