"""What `fastvec.tune` tries: which choices there are, and which of them are worth the time, foreseen from what one env costs."""
from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastvec.autotune import handoff

PER_WORKER = (1, 4, 16, 64)
ROWS_TOO_MANY = 1.25  # so many times the rows asked for are still taken
FOR_STARTING = 0.5  # the share of the time that starts and first steps may take, of all choices together
OVERHEAD = 0.05  # seconds to begin with a choice and to look at its memory
FIRST_STEPS = 8  # steps of all its envs that a choice makes at least before it can be out


class Line(NamedTuple):
    """base + slope * n"""

    base: float
    slope: float

    def __call__(self, n) -> float:
        return self.base + self.slope * n

    def least(self, y) -> int:
        """The least n of 1 and more that has y, as far as that can be had."""
        return max(1, math.ceil((y - self.base) / self.slope - 1e-9)) if self.slope > 0 else 1

    @classmethod
    def through(cls, points) -> "Line":
        """The line through one or two (n, y), neither part negative."""
        (x, y), *more = points
        if not more:
            return cls(0.0, y / x)
        (x2, y2), = more
        slope = max(0.0, (y2 - y) / (x2 - x))
        return cls(max(0.0, y - slope * x), slope)


@dataclass
class Plan:
    """What to measure, the most promising first (but this process last); and [(choice, why not)] of the rest."""

    choices: list = field(default_factory=list)
    left_out: list[tuple[Any, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Costs:
    """What it costs to have n envs (or worlds) in one worker: seconds to start it and to step them all, bytes, rows; and the
    trainer's seconds for a batch of so many rows."""

    start: Line
    step: Line
    nbytes: Line
    rows: Line
    policy: Line
    cpus: float
    known: frozenset = frozenset()  # numbers of envs that one worker was measured with

    @classmethod
    def of(cls, trials, cpus) -> "Costs":
        """From [(n, Trial)] of one worker with one number of envs or two."""
        def line(figure):
            return Line.through([(n, figure(trial)) for n, trial in trials])

        policy = sorted({trial.rows: _least(trial, lambda s: s.policy) for _, trial in trials}.items())
        return cls(
            line(lambda t: t.startup), line(lambda t: _least(t, lambda s: s.seconds - s.policy)), line(lambda t: t.memory), line(lambda t: t.rows),
            Line.through(policy), cpus, frozenset(n for n, _ in trials),
        )

    def plan(self, choices, seconds: float, patience: float) -> Plan:
        """Which choices to measure in `seconds`: the most promising ones, as many as can be started in half of the time.  One whose start
        or step should take longer than `patience` is left out."""
        plan, spent = Plan(), 0.0
        for choice in self._promising(choices):
            known = choice.num_workers == 1 and choice.batches == "all" and choice.per_worker in self.known
            start, step = (0.0 if known else self.startup(choice)), self.seconds(choice)
            cost = start + OVERHEAD + FIRST_STEPS * step
            if start > patience:
                plan.left_out.append((choice, f"starting it should take {start:.2g} s"))
            elif step > patience:
                plan.left_out.append((choice, f"a step of all should take {step:.2g} s"))
            elif spent + cost > FOR_STARTING * seconds and plan.choices and not known:
                plan.left_out.append((choice, "others seemed better, and time for all was too short"))
            else:
                spent += cost
                plan.choices.append(choice)
        # Last those in this process: what their envs start here (threads, devices) must not be there when workers are forked.
        plan.choices.sort(key=lambda choice: choice.num_workers == 0)
        return plan

    def _promising(self, choices) -> list:
        """Best first: for each number of workers the one that should do best, then the second of each, and so on: what is foreseen is
        rough, and most so for many workers."""
        order = sorted(choices, key=self.rate, reverse=True)
        seen, place = Counter(), {}
        for choice in order:
            place[choice] = seen[choice.num_workers]
            seen[choice.num_workers] += 1
        return sorted(order, key=place.get)

    def startup(self, choice) -> float:
        """Seconds to start it.  Processes are started one after the other, and build their envs side by side."""
        workers = choice.num_workers
        return self.start.base * workers + self.start.slope * choice.per_worker * choice.units / self._parallel(choice)

    def memory(self, choice) -> float:
        """Bytes."""
        return choice.units * self.nbytes(choice.per_worker)

    def seconds(self, choice) -> float:
        """Between two steps of the same env, roughly: of batches of half the envs, one is stepped while the trainer has the other."""
        work = choice.units * self.step(choice.per_worker)
        trainer = self.policy(choice.units_per_batch * self.rows(choice.per_worker))
        between = handoff(choice.num_workers, self.cpus) if choice.num_workers else 0.0
        if choice.batches == "all":
            return work / self._parallel(choice) + trainer + between
        batches = choice.units / choice.units_per_batch
        everybody = (work + batches * trainer) / min(self.cpus, choice.units + 1)
        return max(work / self._parallel(choice), batches * trainer, everybody) + batches * between

    def rate(self, choice) -> float:
        """Rows per second, roughly."""
        return choice.units * self.rows(choice.per_worker) / max(self.seconds(choice), 1e-9)

    def _parallel(self, choice):
        return max(1.0, min(choice.units, self.cpus))


def _least(trial, seconds):
    """Of a batch, in the slice that was disturbed least."""
    return min(seconds(s) / s.batches for s in trial.slices)


def grid(workers, per_worker, batches) -> list[tuple]:
    """All (workers, envs of each, batches)."""
    return [(w, n, b) for w in workers for n in per_worker for b in batches if _possible(w, b)]


def grid_of_rows(workers, rows, batches, costs) -> list[tuple]:
    """For each number of workers the least envs with which a batch has so many rows; those that come closest, within a quarter."""
    found = {}
    for w in workers:
        for b in batches:
            if _possible(w, b):
                units = (w or 1) if b == "all" else w // 2
                n = costs.rows.least(rows / units)
                found[w, n, b] = units * costs.rows(n)
    least = min(found.values(), default=0.0)
    return [choice for choice, has in found.items() if has <= ROWS_TOO_MANY * least]


def worker_counts(cpus) -> list[int]:
    """0, 1, 2, 4 and so on up to the CPUs, one less than these (the trainer wants one, too), and twice as many (while some wait,
    others step)."""
    cpus = max(1, int(cpus))
    powers = {2**i for i in range(cpus.bit_length())}
    return sorted({0, cpus, 2 * cpus, max(1, cpus - 1)} | powers)


def _possible(workers, batches):
    """Whether there are halves: any for gathering, equal ones for blocks."""
    return batches == "all" or workers >= 2 and (batches == "gathered" or workers % 2 == 0)
