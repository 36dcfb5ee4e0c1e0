"""`fastvec top PID`: how fast a running process steps its envs, and what it waits for, as a live table."""
from __future__ import annotations

import time

from fastvec.cli.arguments import count, seconds
from fastvec.cli.errors import CliError

SECONDS = 1.0
WIDTH = 140  # where there is no terminal to ask
COLUMNS = ("", "process", "steps/s", "step", "waiting", "pick-up", "take", "parks/s", "restarts", "state")
NARROW, LEFT_OUT = 110, ("process", "parks/s")  # a terminal of fewer columns does without these


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("top", help="a live table of a running process: the rate, each worker, what the run waits for",
                                   description="Shows, for each VecEnv of a process, its workers' step and wait times, handoff latencies "
                                               "and restarts, and whether the run waits for its envs or for the policy.  Only looks, never "
                                               "disturbs.  Ctrl-C, or the end of the process, ends it.")
    parser.add_argument("pid", type=count, metavar="PID", help="a trainer's process id, or a worker's")
    parser.add_argument("--interval", type=seconds, default=SECONDS, metavar="S", help=f"seconds between two looks (default: {SECONDS:g})")
    parser.add_argument("--once", action="store_true", help="print one table, of one interval, and end")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Shows the table until the process ends.  Raises CliError."""
    from fastvec.inspection import InspectionError, attach

    try:
        from rich.console import Console
    except ImportError:
        raise CliError("top needs rich: pip install rich") from None
    try:
        found = attach(args.pid)
    except InspectionError as error:
        raise CliError(str(error)) from None
    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, WIDTH))
    try:
        _watch(found, console, args.interval, args.once)
    except KeyboardInterrupt:
        if args.once:
            raise
    return 0


def _watch(found, console, interval, once):
    from rich.console import Group
    from rich.live import Live

    live = None if once or not console.is_terminal else Live(console=console, auto_refresh=False)
    before = [seen.snapshot() for seen in found]
    if live:
        live.start()
    try:
        while True:
            time.sleep(interval)
            after = [seen.snapshot() for seen in found]
            picture = Group(*(part for b, a in zip(before, after) for part in table(b, a, console.width)))
            if live:
                live.update(picture, refresh=True)
            else:
                console.print(picture)
            if once or all(snapshot.over for snapshot in after):
                return
            before = after
    finally:
        if live:
            live.stop()


# ---- the picture -----------------------------------------------------------------------------------------------------


def table(before, after, width) -> list:
    """What one VecEnv did between two snapshots: rich renderables for so many columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    passed = after.when - before.when
    shown = [column for column in COLUMNS if width >= NARROW or column not in LEFT_OUT]
    rows = Table(*shown, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    cells = [worker(before, after, i, passed) for i in range(len(after.units))]
    for column in rows.columns:
        column.no_wrap = True
        if column.header != "state":  # which alone is cut short where there is no room
            column.justify, column.min_width = "right" if column.header else "left", max(len(column.header), *(len(row[column.header]) for row in cells))
    for row in cells:
        rows.add_row(*(row[column] for column in shown))
    return [Text(summary(before, after, passed), style="bold"), rows, Text(waits_for(before, after)), Text()]


def worker(before, after, i, passed) -> dict[str, str]:
    """The cells of unit i, by COLUMNS."""
    from fastvec.inspection import state, unit_name

    b, a = before.units[i], after.units[i]
    busy, waiting = (y - x for x, y in zip(before.worker_times(i), after.worker_times(i)))
    apart = after.about.num_workers > 0  # its waits are its own
    cells = [
        unit_name(after.about, i), str(a.pid or after.about.trainer), f"{(a.steps - b.steps) / passed:,.0f}",
        _mean(a.busy - b.busy, a.steps - b.steps), f"{waiting / (busy + waiting):.0%}" if apart and busy + waiting > 0 else "-",
        _mean(a.pickup - b.pickup, a.pickups - b.pickups), _mean(a.take - b.take, a.takes - b.takes),
        f"{(a.parks - b.parks) / passed:,.0f}" if apart else "-", str(a.restarts) if apart else "-", state(after, i),
    ]
    return dict(zip(COLUMNS, cells, strict=True))


def _mean(total, n):
    from fastvec.inspection import duration

    return duration(total / n) if n > 0 else "-"


def summary(before, after, passed) -> str:
    """The rates of a VecEnv, and what its trainer's time went into."""
    b, a, about = before.trainer, after.trainer, after.about
    envs = (a.rows - b.rows) / about.rows_per_unit * about.envs_per_unit
    text = f"{about.kind}, process {about.trainer}: {(a.batches - b.batches) / passed:,.0f} batches/s, {envs / passed:,.0f} env-steps/s, "
    text += f"{(a.rows - b.rows) / passed:,.0f} rows/s"
    parts = _parts(before, after)
    if sum(parts) > 0:
        text += " | " + ", ".join(f"{name} {part / sum(parts):.0%}" for name, part in zip(("envs", "handoff", "policy"), parts))
    return text


def waits_for(before, after) -> str:
    """What the run waited for between two snapshots; of one that stood still, at the second."""
    from fastvec.inspection import verdict
    from fastvec.vec_env import bottleneck

    slowest = bottleneck(*_parts(before, after))
    if after.over or slowest is None or after.trainer.batches == before.trainer.batches:
        return verdict(after)
    return {
        "envs": "The run waits for its envs: more workers, or faster envs, would help; a faster policy would not.",
        "policy": "The run waits for its policy: faster envs would not help; smaller batches in turn (batch_size) keep the workers busy meanwhile.",
        "handoff": "The run waits for the handoff: more envs in each worker, or fewer workers, would help.",
    }[slowest]


def _parts(before, after):
    return [max(0.0, y - x) for x, y in zip(before.times(), after.times())]
