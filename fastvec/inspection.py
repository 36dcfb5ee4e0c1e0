"""What the VecEnvs of another process are at, read from their arenas without disturbing them.

The trainer keeps the descriptor of its arena open; who may look at the process (the same user, or root) opens it through
/proc and maps the first part of it, read-only.  No ptrace, no signal, and nothing is ever written.
"""
from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field

import psutil

from fastvec_c.control import NotIntroduced, OtherLayout, View, now, order_of

_ARENA = "/memfd:fastvec-arena"


class InspectionError(Exception):
    """There is nothing to be seen, and why."""


# ---- finding the arena -----------------------------------------------------------------------------------------------


def attach(pid: int) -> list["Inspection"]:
    """The open VecEnvs that process `pid` made, or works for, in the order in which they were made.

    Raises:
        InspectionError: there are none, or they cannot be read; says why, and what to do.
    """
    if sys.platform != "linux":
        raise InspectionError(f"process {pid} cannot be looked at: that needs Linux's /proc")
    if not psutil.pid_exists(pid):
        raise InspectionError(f"there is no process {pid}")
    try:
        _check_namespace(pid)
        inodes = _mapped(pid)
        views = [view for inode in inodes for view in _views(pid, inode)]
    except PermissionError:
        raise InspectionError(f"process {pid} of user {_owner(pid)} is not ours to look at: run this as that user in the same container, "
                              "or as root (sudo)") from None
    except (FileNotFoundError, ProcessLookupError):
        raise InspectionError(f"process {pid} has just ended") from None
    found = [Inspection(view) for view in views]
    ours = [seen for seen in found if seen.about.trainer == pid or pid in seen.workers()]
    if not ours:
        raise InspectionError(_nothing(pid, inodes, found))
    return sorted(ours, key=lambda seen: seen.about.made)


def _nothing(pid, inodes, found):
    if found:
        trainers = ", ".join(str(seen.about.trainer) for seen in found)
        return f"process {pid} has only inherited the memory of a VecEnv: give the process id of its trainer, {trainers}"
    if inodes:
        return f"the VecEnv of process {pid} has been closed"
    return f"process {pid} has no VecEnv (or still builds its envs); give the process id of a trainer or of one of its workers"


def _check_namespace(pid):
    ours, theirs = (os.readlink(f"/proc/{p}/ns/pid") for p in ("self", pid))
    if ours != theirs:
        raise InspectionError(f"process {pid} runs in a container (another PID namespace): run fastvec inside it, with its process id there")


def _mapped(pid) -> list[int]:
    """Inodes of the arenas that a process maps."""
    with open(f"/proc/{pid}/maps") as maps:
        return list(dict.fromkeys(int(line.split()[4]) for line in maps if _ARENA in line))


def _views(pid, inode) -> list[View]:
    """The arena with this inode, if the process or one it descends from has it open.  (A worker has it from its trainer.)"""
    for holder in [pid, *(p.pid for p in psutil.Process(pid).parents())]:
        try:
            path = _descriptor(holder, inode)
        except (PermissionError, FileNotFoundError):
            if holder == pid:
                raise
            continue
        if path is not None:
            return [_view(holder, path)]
    return []


def _descriptor(pid, inode) -> str | None:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path).startswith(_ARENA) and os.stat(path).st_ino == inode:
                return path
    return None


def _view(pid, path) -> View:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return View(fd, os.fstat(fd).st_size)
    except NotIntroduced:
        raise InspectionError(f"the VecEnv of process {pid} is still being made, or its fastvec is older than this one: try again") from None
    except OtherLayout as error:
        raise InspectionError(f"process {pid} runs fastvec {error}, whose memory has another layout: look at it with the fastvec it runs with") from None
    finally:
        os.close(fd)


def _owner(pid):
    with contextlib.suppress(psutil.Error, KeyError):
        return psutil.Process(pid).username()
    return "unknown"


# ---- what is seen ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class About:
    """What a VecEnv says of itself.

    Attributes:
        trainer: process id.
        num_workers: 0 for envs in the trainer's process, which are then the only unit.
        num_units, envs_per_unit, rows_per_unit, units_per_batch, slots: as made.
        made: when, in seconds on CLOCK_MONOTONIC, as all times here.
        version: of fastvec.
        kind: of the envs.
    """

    trainer: int
    num_workers: int
    num_units: int
    envs_per_unit: int
    rows_per_unit: int
    units_per_batch: int
    slots: int
    made: float
    version: str
    kind: str


@dataclass(frozen=True)
class Trainer:
    """The trainer's account at one moment: VecEnv.stats, and `closed`, `asleep` (parked on its futex), `status` of the process
    (None: it has ended), `waiting_since` (0: it does not wait for workers)."""

    status: str | None
    batches: int
    rows: int
    policy: float
    loop: float
    env: float
    last_send: float
    last_recv: float
    waiting_since: float
    parks: int
    closed: bool
    asleep: bool


@dataclass(frozen=True)
class Unit:
    """A worker at one moment, or the envs in the trainer's process.

    `cmd` is the last order it was given, `taken_up` the last it began, `finished` the last it ended; `announced`: the trainer
    has not taken notice of that; `asleep`: parked on its futex; `status` of the process (None: it has ended).
    """

    index: int
    status: str | None
    cmd: int
    taken_up: int
    finished: int
    announced: bool
    asleep: bool
    pid: int
    restarts: int
    current: int
    posted: float
    began: float
    done: float
    steps: int
    busy: float
    waiting: float
    parks: int
    pickups: int
    pickup: float
    takes: int
    take: float

    @property
    def order(self) -> tuple[int, str]:
        """(number, kind) of the last order."""
        return order_of(self.cmd)

    @property
    def at_work(self) -> bool:
        return self.taken_up == self.cmd != self.finished

    @property
    def owes(self) -> bool:
        """It has an order that it has not finished."""
        return self.cmd != self.finished and not self.announced


@dataclass(frozen=True)
class Snapshot:
    """A VecEnv at the time `when`."""

    about: About
    when: float
    trainer: Trainer
    units: list[Unit] = field(repr=False)

    @property
    def over(self) -> bool:
        """The VecEnv has been closed, or its trainer has ended."""
        return self.trainer.closed or self.trainer.status is None

    def times(self) -> tuple[float, float, float]:
        """(envs, handoff, policy): seconds of the trainer's time so far, what it is at right now included."""
        t = self.trainer
        env, handoff, policy = t.env, t.loop - t.env, t.policy
        if t.last_send > t.last_recv:
            now = max(0.0, self.when - t.last_send)
            env, handoff = (env + now, handoff) if any(u.owes for u in self.units) else (env, handoff + now)
        elif t.last_recv:
            policy += max(0.0, self.when - t.last_recv)
        return env, handoff, policy

    def worker_times(self, i: int) -> tuple[float, float]:
        """(busy, waiting): seconds of unit i so far, what it is at right now included."""
        u = self.units[i]
        busy = u.busy + (max(0.0, self.when - u.began) if u.at_work and u.order[1] == "step" else 0.0)
        return busy, u.waiting + (max(0.0, self.when - u.done) if u.finished == u.cmd and u.done else 0.0)


class Inspection:
    """One VecEnv of another process."""

    def __init__(self, view: View):
        self._view = view
        self.about = About(**view.introduction())

    def workers(self) -> list[int]:
        """Process ids."""
        return [self._view.unit(i)["pid"] for i in range(self.about.num_workers)]

    def snapshot(self) -> Snapshot:
        """What it is at now."""
        trainer = Trainer(_status(self.about.trainer), **self._view.trainer())
        words = [self._view.unit(i) for i in range(self.about.num_units)]
        units = [Unit(i, _status(w["pid"]) if self.about.num_workers else trainer.status, **w) for i, w in enumerate(words)]
        return Snapshot(self.about, now(), trainer, units)

    def events(self) -> list[tuple[float, str, str]]:
        """The events that the rings hold, as (time, who, what), oldest first."""
        until = now()  # the rings are read one after the other: later events would lack those of the rings read before
        found = [(time, "trainer", told(*event)) for time, *event in self._view.events(0)]
        for i in range(self.about.num_units):
            found += [(time, unit_name(self.about, i), told(*event)) for time, *event in self._view.events(1 + i)]
        return sorted((event for event in found if event[0] <= until), key=lambda event: event[0])


def _status(pid: int) -> str | None:
    """Of a process, as psutil names it; None: it has ended."""
    with contextlib.suppress(psutil.Error):
        status = psutil.Process(pid).status()
        return None if status in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD) else status
    return None


# ---- in words --------------------------------------------------------------------------------------------------------


def unit_name(about: About, i: int) -> str:
    """What unit i is called."""
    return f"worker {i}" if about.num_workers else "envs here"


def told(kind: str, worker: int, cmd: int, slot: int) -> str:
    """An event."""
    number, order = order_of(cmd)
    return {
        "sent": f"gave worker {worker} order {number}, {order}, slot {slot}",
        "received": f"received a batch of {cmd}, the first of worker {worker}, slot {slot}",
        "died": f"found worker {worker} dead",
        "replaced": f"put a new process in the place of worker {worker}",
        "dropped": f"goes on without worker {worker}",
        "late": "waited longer than its time limit",
        "taken up": f"began order {number}, {order}, slot {slot}",
        "finished": f"finished order {number}, {order}",
        "parked": "went to sleep",
    }.get(kind, kind)


def duration(seconds: float) -> str:
    """A time span, for people."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:,.1f} {unit}"
    return f"{max(0.0, seconds) * 1e9:.0f} ns"


def state(snapshot: Snapshot, i: int) -> str:
    """What unit i is at."""
    unit, about, when = snapshot.units[i], snapshot.about, snapshot.when
    number, order = unit.order
    if unit.status is None:
        return f"dead; its last order was {number}, {order}"
    stopped = "; its process is stopped by a signal" if unit.status == psutil.STATUS_STOPPED else ""
    if unit.at_work:
        env = f" at env {i * about.envs_per_unit + unit.current}" if unit.current >= 0 and order != "close" else ""
        return f"in {order}(){env} for {duration(when - unit.began)}{stopped}"
    if unit.finished == unit.cmd:
        waits = "told nothing yet" if unit.cmd == 0 else f"done for {duration(when - unit.done)}"
        if about.num_workers == 0:
            return waits + stopped
        return waits + (", not yet taken by the trainer" if unit.announced else ", waits for orders") + (", asleep" if unit.asleep else "") + stopped
    what = "builds its envs, to take up" if unit.restarts and unit.current < 0 else "has not begun"
    return f"{what} order {number}, {order}, given {duration(when - unit.posted)} ago{', asleep' if unit.asleep else ''}{stopped}"


def verdict(snapshot: Snapshot) -> str:
    """What the run waits for at this moment, in a sentence."""
    t, when = snapshot.trainer, snapshot.when
    if t.status is None:
        return "The trainer has ended."
    if t.closed:
        return "The VecEnv has been closed."
    if t.status == psutil.STATUS_STOPPED:
        return f"The trainer's process is stopped by a signal: kill -CONT {snapshot.about.trainer} lets it go on."
    owing = sorted((u for u in snapshot.units if u.owes), key=lambda u: u.began if u.at_work else u.posted)
    if snapshot.about.num_workers == 0 and owing:
        return f"The trainer steps its envs itself: {state(snapshot, 0)}."
    if t.waiting_since:
        return f"The trainer has waited for {duration(when - t.waiting_since)} for {_named(snapshot, owing)}."
    if t.last_recv >= t.last_send:
        if not t.last_recv:
            return "Nothing has been ordered yet: the trainer has not called reset()."
        return f"The workers wait for the trainer, which has had its batch for {duration(when - t.last_recv)} (policy, learner, or what else it does)."
    return f"The trainer gave its last order {duration(when - t.last_send)} ago, and has not waited for it yet."


def _named(snapshot, owing):
    """Those that the trainer waits for, the one that has taken longest first."""
    if not owing:
        return "an announcement that has just come"
    others = f", and {len(owing) - 1} others" if len(owing) > 2 else f", and worker {owing[1].index}" if len(owing) == 2 else ""
    return f"worker {owing[0].index} ({state(snapshot, owing[0].index)}){others}"
