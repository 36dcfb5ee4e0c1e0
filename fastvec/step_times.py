"""Where the time of a training loop goes."""
from __future__ import annotations

import time

from fastvec_c.errors import StateError
from fastvec_c.pool import Pool

MEASURED = ("envs", "handoff", "other")  # parts that nobody names: they follow from the VecEnv's own counters


class StepTimes:
    """A stopwatch for training loops: its parts add up to the whole.

    The trainer marks what it does itself; the time in which it waits for envs and that of the handoff come from the counters
    that the VecEnv keeps anyway (see `fastvec.Stats`), and the rest is "other":

    >>> import fastvec, gymnasium
    >>> with fastvec.make(lambda: gymnasium.make("CartPole-v1"), num_workers=2) as vec:
    ...     observations, infos = vec.reset(seed=0)
    ...     times, taken = fastvec.StepTimes(vec), []
    ...     for step in range(100):
    ...         with times("policy"):
    ...             actions = (observations[:, 2] > 0).astype(int)
    ...         vec.send(actions)
    ...         with times("copies"):
    ...             taken.append(actions)              # the workers step meanwhile
    ...         observations, *_ = vec.recv()
    >>> list(times.seconds())
    ['policy', 'copies', 'envs', 'handoff', 'other']
    >>> abs(sum(times.shares().values()) - 1) < 1e-9
    True

    Each moment counts once, for whoever keeps the trainer's thread busy. What a block does while envs step is the block's
    time, and "envs" is only what the trainer then still waits for. A block may hold `send`, `recv` and `step`: from a send
    to the recv that it waits in, time is "envs" and "handoff", not the block's. Blocks do not nest, since they would count
    twice. Resets are "other", unless they have a block.

    The overhead is about a microsecond a block. For the thread that steps the VecEnv; in a forked child the copy goes on by
    itself.

    Args:
        vec: a VecEnv, or one of gymnasium, Stable-Baselines3 or TorchRL of fastvec's; None: only what is marked, and "other".

    Raises:
        TypeError: `vec` is something else.
    """

    def __init__(self, vec=None):
        pool = getattr(vec, "vec", vec)
        if pool is not None and not isinstance(pool, Pool):
            raise TypeError(f"vec={vec!r}; give a VecEnv of fastvec's, or None")
        self._clock = _wall_clock if pool is None else pool._clock
        self._open = None  # the part whose block is open
        self._parts = {}
        self.restart()

    def __call__(self, part: str):
        """The block of a part, for `with`; the same name adds to the same part.  One that raises counts all the same.

        Raises:
            TypeError, ValueError: `part` is no text, empty, or one of "envs", "handoff", "other".
            StateError: upon entering it while another block is open.
        """
        block = self._parts.get(part) if isinstance(part, str) else None
        return block or self._parts.setdefault(_checked(part), _Part(self, part))

    def restart(self):
        """Begins anew, for example after each update: all parts are 0 from here on, and known parts keep their places.

        Raises:
            StateError: a block is open.
        """
        if self._open is not None:
            raise StateError(f"restart() inside of times({self._open.name!r}): leave the block first")
        for part in self._parts.values():
            part.own = 0
        self._overlap = self._hidden = 0  # ns that blocks took while envs stepped, and how long these were busy meanwhile
        self._began = self._clock()

    def seconds(self) -> dict[str, float]:
        """Seconds since the beginning, part by part: as the trainer named them, then "envs", "handoff" and "other".  A block that
        is open counts up to now."""
        return {part: ns * 1e-9 for part, ns in self._nanoseconds().items()}

    def shares(self) -> dict[str, float]:
        """The same as parts of the whole, which add up to 1."""
        parts = self._nanoseconds()
        total = sum(parts.values())
        return {part: ns / total if total else 0.0 for part, ns in parts.items()}

    def table(self) -> str:
        """The same as text, a line for each part and one for the whole: name, seconds, percent."""
        parts = self._nanoseconds()
        total = sum(parts.values())
        width = max(map(len, (*parts, "total")))
        return "\n".join(f"{part:<{width}} {ns * 1e-9:10.3f} s {ns / total if total else 0:7.1%}" for part, ns in (*parts.items(), ("total", total)))

    def _nanoseconds(self) -> dict:
        now, flown, stepped, *_ = clock = self._clock()
        began, flown_before, stepped_before, *_ = self._began
        parts = {name: part.own for name, part in self._parts.items()}
        overlap, hidden = self._overlap, self._hidden
        if self._open is not None:
            own, overlap_now, hidden_now = _block(self._open.entered, clock)
            parts[self._open.name] += own
            overlap, hidden = overlap + overlap_now, hidden + hidden_now
        marked = sum(parts.values())
        waited = max(0, flown - flown_before - overlap)
        envs = min(waited, max(0, stepped - stepped_before - hidden))
        return {**parts, "envs": envs, "handoff": waited - envs, "other": now - began - marked - waited}


class _Part:
    """What the trainer marks under one name."""

    def __init__(self, times, name):
        self.times, self.name = times, name
        self.own = 0  # ns

    def __enter__(self):
        times = self.times
        if times._open is not None:
            raise StateError(f"times({self.name!r}) inside of times({times._open.name!r}): leave that block first, or time would count twice")
        times._open = self
        self.entered = times._clock()

    def __exit__(self, *_):
        times = self.times
        own, overlap, hidden = _block(self.entered, times._clock())
        self.own += own
        times._overlap += overlap
        times._hidden += hidden
        times._open = None


def _block(entered, left):
    """Of a block between two readings of the clock, in ns: its own time, the part of it during which a flight was under way
    that is still under way, and how long that one's envs were busy meanwhile.

    Flights that ended within the block were waited for there, and are counted elsewhere.  One that was dropped (by a reset,
    or close) takes its time along: hence max.
    """
    (began, flown_before, *_), (now, flown, _, sent, done) = entered, left
    overlap = now - max(began, sent)
    own = now - began - max(0, flown - flown_before - overlap)
    return own, overlap, max(0, done - max(began, sent))


def _checked(part):
    if not isinstance(part, str):
        raise TypeError(f"part={part!r}; give a name, as in times('policy')")
    if not part or part in MEASURED:
        raise ValueError(f"part={part!r}; give a name other than {', '.join(map(repr, MEASURED))}, which are measured without a block")
    return part


def _wall_clock():
    """`Pool._clock` where there is none: nothing is ever in flight."""
    now = time.perf_counter_ns()
    return now, 0, 0, now, now
