"""What a rollout came to, as tables.  Needs rich."""
from __future__ import annotations

import os

import psutil
from rich import box
from rich.table import Table


def memory(vec) -> dict:
    """Bytes: {"shared": of the rows that all processes see, "trainer": this process's own, "workers": theirs in all}.

    A process's own memory is what would be free if it ended, so nothing is counted twice.
    """
    this = psutil.Process(os.getpid())
    return {
        "shared": sum(field.nbytes for field in vec.fields.values()),
        "trainer": _own(this),
        "workers": sum(map(_own, this.children(recursive=True))),
    }


def _own(process):
    try:
        return process.memory_full_info().uss
    except (psutil.Error, OSError):  # ended meanwhile, or not ours to look at
        return 0


def totals(tally, num_worlds, memory) -> Table:
    """The rollout as a whole, a row for each figure."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in _figures(tally, num_worlds, memory).items():
        table.add_row(name, value)
    return table


def _figures(tally, num_worlds, memory):
    share = tally.shares()
    return {
        "worlds": f"{num_worlds:,}",
        "seconds": f"{tally.seconds:.2f}",
        "steps of all worlds": f"{tally.steps:,}",
        "agent-steps": f"{tally.agent_steps:,}",
        "agent-steps per second": f"{tally.agent_steps / tally.seconds if tally.seconds else 0:,.0f}",
        "time in workers": f"{share['workers']:.1%}",
        "time in handoff": f"{share['handoff']:.1%}",
        "time in policy": f"{share['policy']:.1%}",
        "goals reached": f"{tally.goals:,}",
        "episodes finished": f"{tally.episodes:,}",
        "agents in them": f"{tally.agents:,}",
        "goal rate": _percent(tally.rate(tally.goals_of_episodes)),
        "collision rate": _percent(tally.rate(tally.collided)),
        "off-road rate": _percent(tally.rate(tally.off_road)),
        "memory shared": _mebibytes(memory["shared"]),
        "memory of trainer": _mebibytes(memory["trainer"]),
        "memory of workers": _mebibytes(memory["workers"]),
    }


def workers(tally) -> Table:
    """A row for each worker."""
    table = Table("worker", "steps", "busy", "waiting", "busy share", "sleeps", box=box.SIMPLE, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for i, worker in enumerate(tally.stats.workers):
        total = worker.busy + worker.waiting
        table.add_row(str(i), f"{worker.steps:,}", f"{worker.busy:.2f} s", f"{worker.waiting:.2f} s",
                      _percent(worker.busy / total if total else None), f"{worker.parks:,}")
    return table


def _percent(rate):
    return "-" if rate is None else f"{rate:.1%}"


def _mebibytes(nbytes):
    return f"{nbytes / 2**20:,.1f} MiB"
