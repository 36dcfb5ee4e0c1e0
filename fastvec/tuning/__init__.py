"""fastvec.tune: how many workers, envs and batches, found by measuring."""
from __future__ import annotations

import dataclasses
import functools
import inspect
import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

from fastvec_c.errors import FastvecError, RecvTimeout
from fastvec_c.mailbox import MAX_WORKERS

from fastvec.factory import make
from fastvec.machine import usable_cpus
from fastvec.tuning.halving import Halving, Unusable
from fastvec.tuning.plan import PER_WORKER, Costs, Plan, grid, grid_of_rows, worker_counts
from fastvec.tuning.trials import Trials

BATCHES = ("all", "gathered", "zero_copy")
PASSED_ON = ("in_order", "slots", "autoreset", "wait", "start_method", "affinity")  # to make
PROBED, PROBES = 0.02, 3  # the share of the time for looking at one env, and at four, in so many pieces
PATIENCE = 0.25  # the share of the time that a start, or a step, may take


class Choice(NamedTuple):
    """What `fastvec.tune` chooses.

    Attributes:
        num_workers: 0 is the trainer's own process.
        per_worker: envs, or worlds of the one env, that each worker hosts.
        batches: "all"; "gathered" or "zero_copy" for batches of half the workers, the first to finish or in fixed blocks.
        vary: what `per_worker` counts, "envs" or "worlds".
    """

    num_workers: int
    per_worker: int
    batches: str
    vary: str

    @property
    def units(self) -> int:
        """Workers, or 1 for this process."""
        return self.num_workers or 1

    @property
    def units_per_batch(self) -> int:
        return self.units if self.batches == "all" else self.units // 2

    def arguments(self) -> dict:
        """What to give to `fastvec.make` beside the creator."""
        envs = self.per_worker if self.vary == "envs" else 1
        given = {"num_workers": self.num_workers}
        if self.vary == "envs":
            given["envs_per_worker"] = envs
        if self.batches != "all":
            given["batch_size"] = self.units_per_batch * envs
        if self.batches == "zero_copy":
            given["zero_copy"] = True
        return given

    def __str__(self):
        where = f"{self.num_workers} worker{'s' * (self.num_workers != 1)}" if self.num_workers else "this process"
        batches = {"all": "", "gathered": ", batches of half, gathered", "zero_copy": ", batches of half, zero-copy"}[self.batches]
        return f"{where} x {self.per_worker} {self.vary[:-1] if self.per_worker == 1 else self.vary}{batches}"


@dataclass(frozen=True)
class Measured:
    """A choice, and how it did in the latest round that it was measured in.

    Attributes:
        choice: the Choice.
        batch_rows: rows of a batch, masked ones included.
        rows_per_second: the median, over the times it was measured, of agent-steps per second; masked rows do not count.
        slowest, fastest: the least and the most of them.
        cpu_seconds_per_million: CPU-seconds of trainer and workers for a million agent-steps.
        megabytes: the arena, what each worker has to itself, and what the trainer's process grew by; 1e6 bytes.
        envs, handoff, policy: shares of the trainer's time, as in `fastvec.Stats`; they add up to 1.
        startup: seconds that `make` and the first batches took.
        round: the latest, from 1; later ones are measured longer.
        seconds: measured in it.
    """

    choice: Choice
    batch_rows: int
    rows_per_second: float
    slowest: float
    fastest: float
    cpu_seconds_per_million: float
    megabytes: float
    envs: float
    handoff: float
    policy: float
    startup: float
    round: int
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """What `fastvec.tune` found; picklable.

    Attributes:
        chosen: the best, a Measured.
        measured: all that were measured, best first; those of later rounds before those that went out earlier.
        left_out: (Choice, why) of those that were not.
        seconds: that it took.
        finished: whether all rounds were gone through.
        cpus: that this process may use.
        options: handed on to `fastvec.make`.
    """

    chosen: Measured
    measured: tuple[Measured, ...]
    left_out: tuple[tuple[Choice, str], ...]
    seconds: float
    finished: bool
    cpus: float
    options: dict

    def arguments(self) -> dict:
        """What to give to `fastvec.make` beside the creator: `fastvec.make(creator, **tuning.arguments())`.  Where worlds were
        varied, the creator must build `tuning.chosen.choice.per_worker` of them; `make` sees to it."""
        return {**self.chosen.choice.arguments(), **self.options}

    def make(self, creator, **more):
        """`fastvec.make` with what was chosen, for the creator that was given to `tune`."""
        return make(_with_size(creator, self.chosen.choice), **{**self.arguments(), **more})


class Standing(NamedTuple):
    """How far a Tuner has come: seconds, the round (0: finding out what an env costs), choices left in it, and the best so far with
    its rows per second (None before the first)."""

    seconds: float
    round: int
    left: int
    best: Choice | None
    rate: float


def tune(creator, seconds=30.0, *, workers=None, per_worker=None, rows=None, batches=BATCHES, policy=None, policy_us=0.0, vary=None,
         seed=0, **options) -> Tuning:
    """Which number of workers, envs of each worker and batch size steps a creator's envs fastest, found by measuring.

    All choices are measured side by side in turn, briefly; then the better half of them longer, and so on until a few are left
    (successive halving).  Of those within 3 % of the most agent-steps per second the one that takes least CPU time is chosen, and of
    those within 3 % of that the one that takes least memory.

    The trainer takes random actions, and copies the observations of every batch, as somebody must read them.  What else it does changes
    what is best, so say so: `policy` or `policy_us`.

    Args:
        creator: a callable, as for `fastvec.make`.  It is called in workers, and in this process for choices without any: where that must
            not be (JAX's and CUDA's threads do not bear forking), give `workers` without 0.
        seconds: how long it may take, at least 1.  A start or a step that takes a quarter of that is given up.
        workers: numbers of worker processes to try; by default 0, 1, 2, 4 and so on up to twice the CPUs (without 0 for a creator that has
            `start_attempts`: what dies now and then must not do so here).
        per_worker: numbers of envs of each worker to try, or of worlds; by default 1, 4, 16 and 64.
        rows: how many rows a batch shall have: for each number of workers the least envs or worlds are tried that give so many (with
            worlds that differ in their agents: about so many).  By default batches may be of any size, and large ones tend to win.
        batches: which to try: "all" envs in a batch, or half the workers: "gathered", the first to finish, copied together;
            "zero_copy", fixed blocks, in place.
        policy: a function of a batch's observations that returns its actions, run for every batch.
        policy_us: or microseconds of CPU time that the trainer is busy for each batch.
        vary: "envs": more envs in each worker.  "worlds": one env in each, of more worlds; the creator has a parameter, or as a
            dataclass a field, `worlds`.  By default the latter where it can be.
        seed: of the first resets.
        **options: in_order, slots, autoreset, wait, start_method and affinity, as for `make`.

    Returns:
        a Tuning; `tuning.make(creator)` makes the VecEnv that was chosen, and `tuning.measured` says what else was measured.

    Raises:
        ValueError, TypeError: an argument does not fit.
        WorkerError: one env alone, in one worker, cannot be built or stepped; other choices that fail are left out.
        RecvTimeout: one env alone takes too long.
        FastvecError: nothing could be measured.

    >>> import fastvec
    >>> from fastvec_c.probe import Probe
    >>> tuning = fastvec.tune(Probe, seconds=1, workers=[0, 1], per_worker=[8])
    >>> tuning.chosen.choice.per_worker
    8
    >>> with tuning.make(Probe) as vec:
    ...     vec.num_envs
    8
    """
    tuner = Tuner(creator, seconds, workers=workers, per_worker=per_worker, rows=rows, batches=batches, policy=policy, policy_us=policy_us,
                  vary=vary, seed=seed, **options)
    tuner.run()
    return tuner.result()


class Tuner:
    """`tune` for those who want to watch it, or to keep what is known when it is interrupted: see there."""

    def __init__(self, creator, seconds=30.0, *, workers=None, per_worker=None, rows=None, batches=BATCHES, policy=None, policy_us=0.0,
                 vary=None, seed=0, **options):
        if not callable(creator):
            raise TypeError(f"creator: {creator!r} is not callable; give one function that returns an env")
        if policy is not None and not callable(policy):
            raise TypeError(f"policy={policy!r}; give a function of observations that returns actions")
        if policy is not None and policy_us:
            raise ValueError(f"policy_us={policy_us!r}; give policy or policy_us, not both")
        for name in options:
            if name not in PASSED_ON:
                raise TypeError(f"{name}={options[name]!r}: tune() has no such argument; to make() it hands on {', '.join(PASSED_ON)}")
        self._creator, self._options, self._seed = creator, options, seed
        self._seconds = _number("seconds", seconds, 1.0)
        self._vary = _what_to_vary(creator, vary)
        self._rows = None if rows is None else _counts("rows", [rows], 1)[0]
        self._workers = _default_workers(creator) if workers is None else _counts("workers", workers, 0, MAX_WORKERS)
        self._per_worker = None if per_worker is None else _counts("per_worker", per_worker, 1)
        if self._rows is not None and per_worker is not None:
            raise ValueError(f"per_worker={per_worker!r}; give rows or per_worker, not both: one follows from the other")
        self._batches = _chosen_from("batches", batches, BATCHES)
        self._cpus = usable_cpus()
        self._costs: Costs | None = None
        self._trials = Trials(self._start, self._needs, policy, _number("policy_us", policy_us, 0.0))
        self._halving = Halving([], self._trials)
        self._left_out: list[tuple[Choice, str]] = []
        self._began = self._took = None
        self._finished = False

    def run(self, watch=lambda standing: None):
        """Measures; calls `watch` with a Standing after each measurement.  To be called once.

        Raises:
            WorkerError, RecvTimeout: as in `tune`.
        """
        self._began = time.monotonic()
        try:
            self._costs = self._probe(lambda: watch(self._standing()))
            plan = self._plan()
            self._left_out += plan.left_out
            for choice in set(self._trials.known) - set(plan.choices):
                self._trials.drop(choice)
            self._halving = Halving(plan.choices, self._trials)
            self._finished = self._halving.run(self._left(), lambda: watch(self._standing()))
        finally:
            self._trials.close()
            self._took = self._elapsed()

    def result(self) -> Tuning:
        """What is known, also of a run that was interrupted.

        Raises:
            FastvecError: nothing has been measured.
        """
        left_out = [*self._left_out, *self._halving.unusable.items()]
        known = self._trials.known
        left_out += [(choice, "no time was left") for choice in self._halving.alive if self._trials.score(choice) is None]
        order = self._halving.order()
        if not order:
            reasons = "; ".join(f"{choice}: {why}" for choice, why in left_out[:3])
            raise FastvecError(f"tune(): nothing was measured in {self._elapsed():.1f} s" + (f"; {reasons}" if reasons else ""))
        out = [choice for choice in known if known[choice].slices and known[choice].slices[-1].round]
        out = [choice for choice in out if choice not in order and choice not in self._halving.unusable]
        out.sort(key=lambda choice: (-known[choice].slices[-1].round, -self._trials.score(choice).rate))
        measured = tuple(_measured(choice, known[choice]) for choice in [*order, *out])
        return Tuning(measured[0], measured, tuple(left_out), self._took or self._elapsed(), self._finished, self._cpus, dict(self._options))

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _start(self, choice):
        return make(_with_size(self._creator, choice), **choice.arguments(), seed=self._seed, timeout=self._patience(), **self._options)

    def _needs(self, choice):
        return 0 if self._costs is None else self._costs.memory(choice)

    def _probe(self, watch) -> Costs:
        """What an env costs: from one worker with one of them, and with four."""
        one, four = (Choice(1, n, "all", self._vary) for n in (1, 4))
        for choice in (one, four):
            try:
                for _ in range(PROBES):
                    self._trials.measure(choice, 0, self._seconds * PROBED / PROBES)
            except Unusable as error:
                if choice is one:
                    raise self._of_one(error.__cause__) from error.__cause__
            watch()
        known = self._trials.known
        return Costs.of([(choice.per_worker, known[choice]) for choice in (one, four) if choice in known and known[choice].slices], self._cpus)

    def _of_one(self, error):
        if isinstance(error, RecvTimeout):
            return RecvTimeout(f"tune(): one env takes more than {self._patience():.2g} s to build, or to step; "
                               f"give more seconds than {self._seconds:g}")
        return error

    def _plan(self) -> Plan:
        if self._rows is None:
            choices = grid(self._workers, self._per_worker or PER_WORKER, self._batches)
        else:
            choices = grid_of_rows(self._workers, self._rows, self._batches, self._costs)
        choices = [Choice(*choice, self._vary) for choice in choices]
        return self._costs.plan(choices, self._left(), self._patience())

    def _elapsed(self):
        return time.monotonic() - self._began if self._began is not None else 0.0

    def _left(self):
        return max(0.0, self._seconds - self._elapsed())

    def _patience(self):
        return self._seconds * PATIENCE

    def _standing(self):
        alive = self._halving.alive or list(self._trials.known)
        scores = {choice: score for choice in alive if (score := self._trials.score(choice)) is not None}
        best = max(scores, key=lambda choice: scores[choice].rate, default=None)
        return Standing(self._elapsed(), self._halving.round, len(self._halving.alive), best, scores[best].rate if best else 0.0)


def _measured(choice, trial) -> Measured:
    rates, rows = trial.rates(), trial.total("rows")
    parts = [trial.total(part) for part in ("envs", "handoff", "policy")]
    whole = sum(parts)
    return Measured(choice, trial.rows, statistics.median(rates), min(rates), max(rates),
                    trial.total("cpu") / rows * 1e6 if rows else float("inf"), trial.memory / 1e6,
                    *(part / whole if whole else 0.0 for part in parts), trial.startup, trial.slices[-1].round, trial.total("seconds"))


# ---- creators of worlds ----------------------------------------------------------------------------------------------


def _what_to_vary(creator, vary):
    if vary not in (None, "envs", "worlds"):
        raise ValueError(f"vary={vary!r}; give 'envs', 'worlds' or None")
    if vary == "worlds" and not _has_worlds(creator):
        raise ValueError(f"vary='worlds', but {creator!r} has no parameter `worlds`; give vary='envs'")
    return vary or ("worlds" if _has_worlds(creator) else "envs")


def _has_worlds(creator) -> bool:
    """Whether its number of worlds is ours to choose."""
    if _is_record(creator):
        return any(f.name == "worlds" for f in dataclasses.fields(creator))
    if isinstance(creator, functools.partial) and "worlds" in creator.keywords:  # the user's choice
        return False
    try:
        return "worlds" in inspect.signature(creator).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False


def _is_record(creator):
    return dataclasses.is_dataclass(creator) and not isinstance(creator, type)


def _with_size(creator, choice):
    """The creator that hosts as many worlds as were chosen."""
    if choice.vary == "envs":
        return creator
    if _is_record(creator):
        return dataclasses.replace(creator, worlds=choice.per_worker)
    return functools.partial(creator, worlds=choice.per_worker)


# ---- arguments -------------------------------------------------------------------------------------------------------


def _default_workers(creator) -> list[int]:
    fragile = getattr(creator, "start_attempts", 1) > 1
    return [count for count in worker_counts(usable_cpus()) if count or not fragile]


def _number(name, value, least) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < float("inf"):
        raise ValueError(f"{name}={value!r}; give a number of at least {least:g}")
    return float(value)


def _counts(name, values, least, most=None) -> list[int]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ValueError(f"{name}={values!r}; give a list of whole numbers")
    values = list(values)
    for value in values:
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least or (most is not None and value > most):
            raise ValueError(f"{name}: {value!r}; give whole numbers of at least {least}" + (f", {most} at most" if most is not None else ""))
    if not values:
        raise ValueError(f"{name}: an empty list; give at least one number")
    return sorted({int(value) for value in values})


def _chosen_from(name, values, known) -> tuple:
    values = (values,) if isinstance(values, str) else tuple(values)
    if not values or any(value not in known for value in values):
        raise ValueError(f"{name}={values!r}; give some of {', '.join(map(repr, known))}")
    return tuple(value for value in known if value in values)
