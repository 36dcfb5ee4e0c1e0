"""`fastvec tune`: how many workers, envs and batches step a creator's envs fastest, found by measuring."""
from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
from contextlib import contextmanager
from pathlib import Path

from fastvec.cli.arguments import count, seconds, seed
from fastvec.cli.creators import HELP, assignment, function, named, place_of
from fastvec.cli.errors import INTERRUPTED, CliError

SECONDS = 30.0
WIDE = 150  # columns of output that goes to no terminal
SHOWN = 6  # reasons for leaving choices out
SPREAD = 0.1  # of the chosen one's rates, above which the user is told
BATCHES = {"all": ("all",), "half": ("gathered", "zero_copy"), "any": ("all", "gathered", "zero_copy")}
MODES = {"all": "all", "gathered": "half, gathered", "zero_copy": "half, zero-copy"}


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("tune", help="find the best number of workers, envs and batch size by measuring",
                                   description="Measures choices of workers, envs (or worlds) of each and batch size side by side, prints "
                                               "what each costs, and the Python for the best: most agent-steps per second; within 3 % "
                                               "of it least CPU time, then least memory.")
    parser.add_argument("creator", metavar="CREATOR", help=HELP)
    parser.add_argument("--set", dest="settings", type=assignment, action="append", default=[], metavar="NAME=VALUE",
                        help="an argument of the creator (or of gymnasium.make): a Python literal, else text; may be repeated")
    parser.add_argument("--scenes", metavar="PATH",
                        help="of drive and gpudrive: a scene file or a folder of them (default of drive: those that come with fastvec)")
    parser.add_argument("--seconds", type=_long_enough, default=SECONDS, metavar="S", help=f"how long to measure, at least 1 (default: {SECONDS:g})")
    parser.add_argument("--rows", type=count, metavar="N", help="rows that a batch shall have (default: any number, large batches tend to win)")
    parser.add_argument("--workers", type=_counts_from(0), metavar="N,N",
                        help="numbers of worker processes to try (default: 0, 1, 2, 4 … twice the CPUs)")
    parser.add_argument("--per-worker", type=_counts_from(1), metavar="N,N",
                        help="numbers of envs, or worlds, of each worker to try (default: 1,4,16,64)")
    parser.add_argument("--batch", choices=BATCHES, default="any", help="all envs in a batch, half of them (asynchronous), or any (the default)")
    busy = parser.add_mutually_exclusive_group()
    busy.add_argument("--policy-us", type=_microseconds, default=0.0, metavar="US",
                      help="microseconds that the trainer is busy for each batch (default: 0)")
    busy.add_argument("--policy", metavar="MODULE:FUNCTION", help="or a function of observations that returns actions, to run for each batch")
    parser.add_argument("--seed", type=seed, default=0, help="of the first resets (default: 0)")
    parser.add_argument("--make", dest="options", type=assignment, action="append", default=[], metavar="NAME=VALUE",
                        help="an argument of fastvec.make: slots, autoreset, wait, start_method, affinity, in_order; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Tunes.  Returns the exit status: 0, or 130 where Ctrl-C ended it early.  Raises CliError."""
    if importlib.util.find_spec("rich") is None:
        raise CliError("this needs rich: pip install 'fastvec[tune]'")
    _check_output(args.json)
    creator = named(args.creator, dict(args.settings), args.scenes)
    tuning, interrupted = _tune(args, creator)
    _show(tuning, creator, interrupted)
    if args.json:
        _write(args.json, args.creator, creator, tuning)
    return INTERRUPTED if interrupted else 0


def _tune(args, creator):
    """(the Tuning, whether Ctrl-C ended it early)"""
    from fastvec import FastvecError
    from fastvec.tuning import Tuner

    interrupted = False
    try:
        tuner = Tuner(creator.creator, args.seconds, workers=args.workers, per_worker=args.per_worker, rows=args.rows, batches=BATCHES[args.batch],
                      policy=_policy(args.policy), policy_us=args.policy_us, vary=creator.vary, seed=args.seed, **dict(args.options))
        with _bar(args.seconds) as show:
            try:
                tuner.run(show)
            except KeyboardInterrupt:
                interrupted = True
        return tuner.result(), interrupted
    except (FastvecError, ValueError, TypeError, MemoryError, OSError) as error:
        if interrupted:  # before anything was measured
            raise KeyboardInterrupt from None
        raise CliError(f"{args.creator}: {error}") from None


def _policy(text):
    """The function that --policy names; one that says whose fault it is when it raises."""
    if text is None:
        return None
    chosen = function(text)

    def policy(observations):
        try:
            return chosen(observations)
        except Exception as error:  # whatever the user's function may raise
            raise CliError(f"--policy {text}: raised {type(error).__name__} ({error}){place_of(error)}") from None

    return policy


# ---- arguments -------------------------------------------------------------------------------------------------------


def _long_enough(text):
    value = seconds(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; give at least 1 second")
    return value


def _microseconds(text):
    return 0.0 if text.strip() == "0" else seconds(text)


def _counts_from(least):
    """The type of a list of whole numbers with commas."""
    def counts(text):
        try:
            values = [int(part) for part in text.split(",")]
        except ValueError:
            values = []
        if not values or min(values) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; give whole numbers of at least {least}, with commas between them")
        return values

    return counts


def _check_output(path):
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise CliError(f"--json {path}: " + ("is a folder" if path.is_dir() else f"there is no folder {path.parent}"))


# ---- showing ---------------------------------------------------------------------------------------------------------


@contextmanager
def _bar(total):
    """A bar on a terminal, nothing elsewhere; gives a function of the Standing."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    columns = BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    # Drawn between measurements: a thread that redraws would take CPU time from what is measured.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal, auto_refresh=False) as progress:
        task = progress.add_task("looking at one env", total=total)

        def show(standing):
            text = f"round {standing.round}, {standing.left} choices" if standing.round else "looking at one env"
            if standing.best is not None:
                text += f" | {standing.rate:,.0f} rows/s: {standing.best}"
            progress.update(task, completed=min(standing.seconds, total), description=text, refresh=True)

        yield show


def _console(stderr=False):
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


def _show(tuning, creator, interrupted):
    console, chosen = _console(), tuning.chosen
    console.print(_table(tuning))
    for choice, why in tuning.left_out[:SHOWN]:
        _say(console, f"not measured: {choice}: {why}")
    if len(tuning.left_out) > SHOWN:
        _say(console, f"not measured: {len(tuning.left_out) - SHOWN:,} more")
    if interrupted:
        _say(console, "ended early by Ctrl-C")
    elif not tuning.finished:
        _say(console, "time was up before the last round was over: give more --seconds for a better answer")
    if _spread(chosen) > SPREAD:
        _say(console, f"the chosen one's rates lie between {chosen.slowest:,.0f} and {chosen.fastest:,.0f}: something else may have used the CPUs; "
                      "tune again when they are idle, or with more --seconds")
    _say(console, f"\nbest of {len(tuning.measured)} in {tuning.seconds:.1f} s on {tuning.cpus:g} CPUs:\n\n{creator.python(tuning)}")


def _table(tuning):
    from rich import box
    from rich.table import Table

    table = Table("", "workers", f"{tuning.chosen.choice.vary} each", "rows a batch", "batches", "rows/s", "+-", "CPU-s per M rows", "MB",
                  "envs", "handoff", "policy", "start", "measured", box=box.SIMPLE, pad_edge=False)
    for column in table.columns:
        column.justify = "left" if column.header == "batches" else "right"
    for m in tuning.measured:
        table.add_row(
            "*" if m is tuning.chosen else "", str(m.choice.num_workers), str(m.choice.per_worker), f"{m.batch_rows:,}", MODES[m.choice.batches],
            f"{m.rows_per_second:,.0f}", f"{_spread(m):.0%}", f"{m.cpu_seconds_per_million:,.2f}", f"{m.megabytes:,.1f}",
            f"{m.envs:.0%}", f"{m.handoff:.0%}", f"{m.policy:.0%}", f"{m.startup:.2f} s", f"{m.seconds:.2f} s",
            style="bold" if m is tuning.chosen else None,
        )
    return table


def _spread(measured):
    """Half the distance between the least and the most of the rates, as a share."""
    return (measured.fastest - measured.slowest) / 2 / measured.rows_per_second if measured.rows_per_second else 0.0


def _write(path, text, creator, tuning):
    content = {
        "creator": text, "python": creator.python(tuning), "cpus": tuning.cpus, "seconds": tuning.seconds, "finished": tuning.finished,
        "chosen": _record(tuning.chosen), "measured": [_record(m) for m in tuning.measured],
        "left_out": [{"choice": choice._asdict(), "why": why} for choice, why in tuning.left_out],
    }
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise CliError(f"--json: {error}") from None


def _record(measured):
    figures = {f.name: getattr(measured, f.name) for f in dataclasses.fields(measured) if f.name != "choice"}
    figures = {name: None if figure == math.inf else figure for name, figure in figures.items()}  # which JSON does not have
    return {"choice": measured.choice._asdict(), **figures}


def _say(console, text):
    console.print(text, soft_wrap=True, highlight=False, markup=False)
