"""Choices of `fastvec.tune` at work: VecEnvs that a simulated trainer steps, and what that costs."""
from __future__ import annotations

import os
import resource
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import psutil

from fastvec_c.errors import RecvTimeout, WorkerError
from fastvec_c.probe import burn_cpu

from fastvec.autotune import random_actions
from fastvec.machine import cpu_seconds, memory_rooms
from fastvec.resources import DESCRIPTORS
from fastvec.tuning.halving import Score, Unusable

MOST_WAITING = 1024  # workers of VecEnvs that wait for their next turn
GRACE = 0.5  # seconds for the envs of one to close
PAGE = 4096
FDS_OF_OTHERS = 256  # descriptors for other things than workers
ACTIONS = 16  # batches of random actions, used in turn


class Slice(NamedTuple):
    """A choice stepped for a while: what came of it."""

    round: int
    seconds: float
    batches: int
    rows: int  # live ones: agent-steps
    cpu: float  # seconds, of the trainer and all workers
    envs: float  # seconds that the trainer waited for, as in fastvec.Stats; and so on
    handoff: float
    policy: float


@dataclass
class Trial:
    """What is known of a choice that was started.  Seconds, bytes; `rows` are those of a batch."""

    startup: float = 0.0
    memory: float = 0.0
    rows: int = 0
    slices: list[Slice] = field(default_factory=list)

    def latest(self) -> list[Slice]:
        """The slices of its latest round."""
        return [s for s in self.slices if s.round == self.slices[-1].round]

    def total(self, figure: str) -> float:
        """Of its latest round."""
        return sum(getattr(s, figure) for s in self.latest())

    def rates(self) -> list[float]:
        """Rows per second, of each slice."""
        return [s.rows / s.seconds for s in self.latest()]


class Trials:
    """Starts choices, steps them in turn and keeps those waiting that may be needed again: the bench of `fastvec.tuning.halving`.

    Args:
        start: start(choice) makes its VecEnv.
        needs: needs(choice) is how many bytes that should take, as far as is known.
        policy: observations to actions; None: random actions, and the observations are copied, as somebody must read them.
        policy_us: microseconds of CPU time that the trainer is busy for each batch, beside that.

    Attributes:
        known: {choice: Trial}.
    """

    def __init__(self, start, needs, policy=None, policy_us=0.0):
        self._start, self._needs = start, needs
        self._policy, self._policy_us = policy, policy_us
        self.known: dict[Any, Trial] = {}
        self._open = {}  # {choice: _Running}, the one used last at the end

    def measure(self, choice, round: int, seconds: float):
        """Steps a choice for about so many seconds, and at least until all of its envs have stepped.

        Raises:
            Unusable: it cannot be started, or stepped.
            whatever the policy raises, or sending what it returned.
        """
        with _unusable(MemoryError, RecvTimeout, WorkerError):
            running = self._open.pop(choice, None) or self._begin(choice)
            self._open[choice] = running
            self.known[choice].slices.append(running.run(round, seconds))

    def score(self, choice) -> Score | None:
        """Of its latest round; None where it has not been measured."""
        trial = self.known.get(choice)
        if trial is None or not trial.slices:
            return None
        rows = trial.total("rows")
        return Score(statistics.median(trial.rates()), trial.total("cpu") / rows if rows else np.inf, trial.memory)

    def drop(self, choice):
        """Closes it."""
        running = self._open.pop(choice, None)
        if running is not None:
            running.vec.close(GRACE)

    def close(self):
        """Closes all."""
        for choice in list(self._open):
            self.drop(choice)

    def _begin(self, choice):
        self._make_room(choice)
        before, began = _own(os.getpid()), time.monotonic()
        with _unusable(OSError, ValueError):  # too many processes, arguments that do not fit this choice
            vec = self._start(choice)
        try:
            running = _Running(vec, self._policy, self._policy_us)
            trial = self.known.setdefault(choice, Trial())
            trial.startup = time.monotonic() - began
            trial.memory = _memory(vec, before)
            trial.rows = running.rows
        except BaseException:
            vec.close(GRACE)
            raise
        return running

    def _make_room(self, choice):
        """Closes others where this one would be too much beside them; they start again when it is their turn.  Those used last go first:
        all have a turn before it is theirs again."""
        needed, most = self._needs(choice), _most_workers()
        while self._open and (choice.num_workers + sum(c.num_workers for c in self._open) > most or needed > _available()):
            self.drop(next(reversed(self._open)))
        if needed > _available():
            raise MemoryError(f"it should take {needed / 2**20:,.0f} MiB, {_available() / 2**20:,.0f} MiB are available")


class _Running:
    """A VecEnv with a batch in hand."""

    def __init__(self, vec, policy, policy_us):
        self.vec = vec
        vec.async_reset()
        self._batch = vec.recv()
        self.rows = len(self._batch.rows)
        self._cycle = -(-vec.num_envs // vec.batch_size)  # batches until all envs have stepped
        random = np.random.default_rng(0)
        self._actions = [random_actions(vec.action_spec, self.rows, random) for _ in range(ACTIONS)]
        self._policy, self._policy_us = policy, policy_us
        self._copy = None  # of observations: taken only after memory was looked at
        self._step(0, self._cycle)

    def run(self, round, seconds) -> Slice:
        """Steps for about so many seconds, after a few steps that wake what sleeps."""
        if self._copy is None and self._policy is None:
            self._copy = np.empty_like(self._batch.observations)
        self._step(0, self._cycle)
        before, cpu = self.vec.stats(), self._cpu()
        took, rows = self._step(seconds, self._cycle)
        after = self.vec.stats()
        return Slice(round, took, after.batches - before.batches, rows, self._cpu() - cpu,
                     after.env - before.env, after.handoff - before.handoff, after.policy - before.policy)

    def _step(self, seconds, batches):
        """Steps for so many seconds, and so many batches at least.  Returns (seconds, live rows)."""
        vec, batch, rows = self.vec, self._batch, 0
        began = time.perf_counter()
        end = began + seconds
        while True:
            vec.send(self._act(batch.observations, batches))
            batch = vec.recv()
            rows += int(np.count_nonzero(batch.masks))
            batches -= 1
            now = time.perf_counter()
            if batches <= 0 and now >= end:
                self._batch = batch
                return now - began, rows

    def _act(self, observations, number):
        if self._policy_us:
            burn_cpu(self._policy_us)
        if self._policy is not None:
            return self._policy(observations)
        if self._copy is not None:
            np.copyto(self._copy, observations)
        return self._actions[number % ACTIONS]

    def _cpu(self):
        return time.process_time() + sum(cpu_seconds(worker.process.pid) for worker in self.vec._workers)


@contextmanager
def _unusable(*errors):
    """Makes Unusable of these errors."""
    try:
        yield
    except errors as error:
        what = "too large: " if isinstance(error, MemoryError) else "too slow: " if isinstance(error, RecvTimeout) else ""
        told = str(error).splitlines()[0].rstrip(":;") if str(error) else type(error).__name__  # the rest is the worker's traceback
        raise Unusable(what + told) from error


def _most_workers():
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_WAITING if descriptors == resource.RLIM_INFINITY else min(MOST_WAITING, (descriptors - FDS_OF_OTHERS) // DESCRIPTORS)


def _available():
    """Bytes of memory, under the limits of cgroups and of this process too."""
    return min(memory_rooms())[0]


def _memory(vec, before):
    """Bytes: the arena, what each worker has to itself, and what the trainer took since it had `before`."""
    arena = 0
    for array in vec.fields.values():
        arena += array.nbytes
        array.reshape(-1).view(np.uint8)[::PAGE].sum()  # seen here, too: else these pages would be the worker's own
    grown = _own(os.getpid()) - before - (0 if vec.num_workers else arena)  # which is nobody else's then
    return arena + max(0, grown) + sum(_own(worker.process.pid) for worker in vec._workers)


def _own(pid):
    """Bytes that would be free if the process ended."""
    try:
        return psutil.Process(pid).memory_full_info().uss
    except (psutil.Error, OSError):  # not ours to look at
        return 0
