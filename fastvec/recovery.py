"""How a run goes on when a worker has died: another takes its place, or its rows are masked."""
from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from fastvec_c.errors import WorkerError

from fastvec import process
from fastvec.arguments import check_choice, check_count, check_limit

ON_FAILURE = ("raise", "restart", "drop")

_log = logging.getLogger("fastvec")


@dataclass(frozen=True)
class Limits:
    """What becomes of a worker that died.

    Attributes:
        on_failure: "raise" ends the run, "restart" starts another, "drop" goes on without it.
        max_restarts: restarts, of all workers together, within any `restart_window`; the next death ends the run.
        restart_window: seconds.
    """

    on_failure: str = "raise"
    max_restarts: int = 10
    restart_window: float = 600.0

    def __post_init__(self):
        check_choice("on_failure", self.on_failure, ON_FAILURE)
        check_count("max_restarts", self.max_restarts)
        check_limit("restart_window", self.restart_window)


class Recovery:
    """Restarts or drops the workers of one VecEnv.

    Args:
        limits: what to do, and how often.
        context: of multiprocessing, which starts processes.
        tasks: of all workers.
        place: what a new worker needs to take its place in the arena.
        seed: of the run.

    Attributes:
        restarts: how often each worker was started again.
    """

    def __init__(self, limits: Limits, context, tasks: list[process.Task], place: process.Place, seed: int):
        self.limits = limits
        self.restarts = [0] * len(tasks)
        self._context = context
        self._tasks = tasks
        self._place = place
        self._seed = seed
        self._recent: deque[float] = deque()
        self._errors: dict[int, WorkerError] = {}  # of workers whose rows have not come back

    def restart(self, i: int, error: WorkerError):
        """Decides to put a new process in the place of worker i, which has ended.

        Raises:
            WorkerError: it happened too often.
        """
        self._count(error)
        self.restarts[i] += 1
        self._note(i, error, f"started again ({self.restarts[i]}. time)")

    def start(self, workers: list[process.Worker], i: int) -> process.Worker:
        """Does it, in `workers` too.

        Raises:
            OSError: the system cannot start another process.
        """
        siblings = workers[:i] + workers[i + 1:]
        workers[i].release()
        workers[i] = process.Worker(self._context, replace(self._tasks[i], place=self._place), siblings)
        return workers[i]

    def _count(self, error):
        """Raises `error` if this restart would be one too many."""
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - self.limits.restart_window:
            self._recent.popleft()
        if len(self._recent) == self.limits.max_restarts:
            raise _said_more(
                error, f"It was not started again: workers were {self.limits.max_restarts} times within the last "
                f"{self.limits.restart_window:g} s, as many as max_restarts and restart_window allow."
            )
        self._recent.append(now)

    def drop(self, workers: list[process.Worker], i: int, error: WorkerError, dropped: list[int]):
        """Goes on without worker i, which has ended; `dropped` are those before it.

        Raises:
            WorkerError: it was the last one.
        """
        if len(dropped) + 1 == len(workers):
            raise _said_more(error, "It was the last worker; all others had been dropped.")
        self._note(i, error, "dropped: its rows stay masked")
        workers[i].process.join()

    def _note(self, i, error, what):
        self._errors[i] = error
        _log.warning("worker %d is %s. %s", i, what, error)

    def seeds(self, i: int, num_envs: int) -> np.ndarray:
        """int64 [num_envs] for the envs of worker i, from the run's seed and how often the worker was started."""
        first = self._tasks[i].first_env
        return np.array([
            np.random.SeedSequence([self._seed, env, self.restarts[i]]).generate_state(1)[0] for env in range(first, first + num_envs)
        ], np.int64)

    def info(self, i: int) -> dict:
        """What the infos of worker i's envs say when its rows come back."""
        fate = "restarted" if self.limits.on_failure == "restart" else "dropped"
        return {fate: True, "error": str(self._errors.pop(i))}


def _said_more(error, more):
    first, *log = str(error).split("\n", 1)
    message = "\n".join([f"{first} {more}", *log])
    return WorkerError(message, worker=error.worker, env=error.env, envs=error.envs, phase=error.phase, exitcode=error.exitcode)
