"""What `fastvec doctor --dump PID` prints of a run."""
from __future__ import annotations

from fastvec.inspection import Inspection, Snapshot, duration, order_of, state, unit_name, verdict


def dump(seen: Inspection, last: int) -> list[str]:
    """The lines for one VecEnv, with the last so many events."""
    events, snapshot = seen.events(), seen.snapshot()
    return [*_head(snapshot), "", *_words(snapshot), "", verdict(snapshot), "", *_events(events[-last:], snapshot.when)]


def _head(s: Snapshot):
    a, t = s.about, s.trainer
    envs = a.num_units * a.envs_per_unit
    where = f"{a.num_workers} worker{'s' if a.num_workers > 1 else ''}" if a.num_workers else "the trainer's process"
    times = s.times()
    total = sum(times)
    shares = ", ".join(f"{name} {part / total:.0%}" for name, part in zip(("envs", "handoff", "policy"), times)) if total else "none yet"
    return [
        f"VecEnv of process {a.trainer}: {envs} envs of {a.kind} in {where}, {a.num_units * a.rows_per_unit} rows, {a.slots} slot"
        f"{'s' if a.slots > 1 else ''}, batches of {a.units_per_batch * a.envs_per_unit} envs; fastvec {a.version}, made {duration(s.when - a.made)} ago",
        f"{t.batches:,} batches, {t.rows:,} rows; the trainer's time: {shares}",
    ]


def _words(s: Snapshot):
    """A line for the trainer and each unit: the words of the handoff, and what they mean."""
    yield f"{'':10} {'process':>8} {'given':>9} {'begun':>9} {'finished':>9} {'asleep':>6}  state"
    t = s.trainer
    doing = "ended" if t.status is None else f"waits for workers, for {duration(s.when - t.waiting_since)}" if t.waiting_since else "does not wait"
    yield f"{'trainer':10} {s.about.trainer:>8} {'':29} {_yes(t.asleep):>6}  {doing}"
    for i, u in enumerate(s.units):
        numbers = " ".join(f"{order_of(word)[0]:>9}" for word in (u.cmd, u.taken_up, u.finished))
        yield f"{unit_name(s.about, i):10} {u.pid or s.about.trainer:>8} {numbers} {_yes(u.asleep):>6}  {state(s, i)}" + (
            f"; started again {u.restarts} time{'s' if u.restarts > 1 else ''}" if u.restarts else "")


def _yes(word):
    return "yes" if word else "no"


def _events(events, when):
    yield f"The last {len(events)} events, in ms before now:"
    for time, who, what in events:
        yield f"{(time - when) * 1e3:>14,.3f}  {who:10} {what}"
