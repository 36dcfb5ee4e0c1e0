"""What the benchmarks share: timing compared sides in turn, describing the machine, tables, targets, JSON."""
from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import repeat
from pathlib import Path

import psutil
from rich.box import ASCII2, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import fastvec
from fastvec.machine import usable_cpus

PEERS = ("fastvec", "gymnasium", "numpy", "pufferlib", "pufferlib-core", "stable-baselines3", "envpool", "tianshou", "torchrl",
         "torch")
RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("FASTVEC_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))  # may not be there
WAYMO_SCENES = DATA / "gpudrive" / "scenes"  # which may not be copied into this project


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """The same thing, measured several times."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def brief(self) -> str:
        """The median, and half the distance from the lowest to the highest in percent."""
        return f"{number(self.median)} ±{(max(self.values) - min(self.values)) / 2 / self.median:.0%}"

    def __str__(self):
        return f"{number(self.median)} ({number(min(self.values))}–{number(max(self.values))})"


class Rounds:
    """Measures sides in turn, in rounds that other processes do not disturb, as far as they let us.

    A round during which others used more than BUSY CPUs is measured again, as long as there is patience.  What decides
    is the kernel's account of CPU time and never the results.

    Args:
        patience: seconds to lose by it, in all.
    """

    BUSY = 0.03
    LOOK = 0.2  # seconds

    def __init__(self, patience: float):
        self.patience = patience
        self.again = self.disturbed = self.all = 0

    def in_turn(self, sides: dict, repetitions: int) -> dict[str, Sample]:
        """Measures every side once, then again, and so on, so that what else the machine does hits all of them.

        Args:
            sides: {name: a function of nothing that measures once and returns a number}.
        """
        values = {name: [] for name in sides}
        while repetitions:
            self._await_quiet()
            others, began = Others(), time.monotonic()
            measured = {name: measure() for name, measure in sides.items()}
            disturbed = others.cpus() > self.BUSY
            if disturbed and self.patience > 0:
                self.patience -= time.monotonic() - began
                self.again += 1
                continue
            for name, value in measured.items():
                values[name].append(value)
            self.all += 1
            self.disturbed += disturbed
            repetitions -= 1
        return {name: Sample(tuple(v)) for name, v in values.items()}

    def _await_quiet(self):
        while self.patience > 0:
            others = Others()
            time.sleep(self.LOOK)
            if others.cpus() <= self.BUSY:
                return
            self.patience -= self.LOOK

    def __str__(self):
        return f"{self.disturbed} of {self.all} rounds disturbed by other processes; {self.again} measured again"


def ratio(a: Sample, b: Sample) -> Sample:
    """a over b, repetition by repetition: they were measured next to one another."""
    return Sample(tuple(x / y for x, y in zip(a.values, b.values)))


def seconds_per_call(call, seconds: float) -> float:
    """The mean time of a call, over as many calls as fill about `seconds`; the first calls, which wake what sleeps, do
    not count."""
    calls = 1
    while True:
        took = seconds_of(call, calls)
        if took >= seconds / 20:
            break
        calls *= 2
    calls = max(1, int(calls * seconds / took))
    return seconds_of(call, calls) / calls


def seconds_of(call, calls: int) -> float:
    began = time.perf_counter()
    for _ in repeat(None, calls):
        call()
    return time.perf_counter() - began


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine() -> dict:
    """What the numbers depend on."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "host_cpus": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version for name in PEERS if (version := _version(name))},
    } | _gpu()


def _gpu() -> dict:
    """Of those that torch sees, where a benchmark has imported it."""
    torch = sys.modules.get("torch")
    return {"gpu": torch.cuda.get_device_name()} if torch is not None and torch.cuda.is_available() else {}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    if package == "fastvec":  # may run from its source tree
        return fastvec.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Others:
    """How much CPU everybody else used meanwhile."""

    def __init__(self):
        self.began = time.monotonic()
        self.before = _cpu_seconds() - _our_cpu_seconds()

    def cpus(self) -> float:
        """CPUs kept busy by other processes, on average; 0 where the system does not tell."""
        return max(0.0, (_cpu_seconds() - _our_cpu_seconds() - self.before) / (time.monotonic() - self.began))


def _cpu_seconds() -> float:
    """Of all processes, since boot."""
    t = psutil.cpu_times()
    return sum(getattr(t, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))


def _our_cpu_seconds() -> float:
    """Of this process and its children, dead or alive."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(u.ru_utime + u.ru_stime for u in usages)
    for child in psutil.Process().children(recursive=True):
        try:
            t = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += t.user + t.system + t.children_user + t.children_system
    return total


# ---- reporting -------------------------------------------------------------------------------------------------------


def number(x) -> str:
    """Three digits are as many as a benchmark knows."""
    if x is None:
        return "–"
    if isinstance(x, str):
        return x
    if isinstance(x, float):
        return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"
    return f"{x:,}" if isinstance(x, int) else str(x)


def workers(n: int) -> str:
    return "this process" if n == 0 else f"{n} worker{'s'[:n > 1]}"


WAIT_HELP = "auto, spin, yield, park, or a fastvec.WaitPolicy as SPIN_US,YIELDS,YIELD_US"


def wait_policy(text: str):
    """What `fastvec.make(wait=...)` takes."""
    if "," not in text:
        return text
    spin_us, yields, yield_us = text.split(",")
    return fastvec.WaitPolicy(float(spin_us), int(yields), float(yield_us))


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--quick", action="store_true", help="a few seconds: to see that it works, not to quote")
    p.add_argument("--patience", metavar="SECONDS", type=float, default=120.0,
                   help="to wait for other processes to leave the machine alone, in all (default: 120; --quick: 0)")
    p.add_argument("--json", metavar="PATH", type=Path, help="where to write the results "
                   "(default: benchmarks/results/<name>-<CPUs of the host>cores.json; --quick: in the folder for temporary files)")
    return p


class Report:
    """Prints tables and targets as they come; writes everything to a JSON file in the end.

    Args:
        name: of the benchmark.
        args: what `parser` parsed.
    """

    def __init__(self, name: str, args):
        tty = sys.stdout.isatty()
        self.console = Console(highlight=False, width=None if tty else 150)
        self.box = SIMPLE_HEAD if tty else ASCII2
        folder = Path(tempfile.gettempdir()) if args.quick else RESULTS  # what is not to be quoted overwrites nothing
        self.path = args.json or folder / f"{name}-{os.cpu_count()}cores.json"
        self.load_before = os.getloadavg()[0]
        self.others = Others()
        self.rounds = Rounds(0.0 if args.quick else args.patience)
        self.content = {"name": name, "quick": args.quick, "machine": machine(), "tables": [], "targets": []}
        m = self.content["machine"]
        self.say(f"{name}: {m['cpu']}, {m['usable_cpus']:g} of {m['host_cpus']} CPUs usable, {m['kernel']}, {m['python']}, "
                 f"{m['date']}")
        self.say(", ".join(f"{k} {v}" for k, v in m["versions"].items()) + "; medians (lowest–highest)")

    def say(self, text: str):
        self.console.print(text, markup=False)

    def table(self, title: str, columns: list[str], rows: list[list], brief=False):
        """Rows of strings, numbers and Samples (`brief` ones where there are many); None is an empty cell."""
        table = Table(title=title, title_justify="left", box=self.box)
        for i, column in enumerate(columns):
            table.add_column(column, justify="right" if i else "left")
        for row in rows:
            table.add_row(*(x.brief if brief and isinstance(x, Sample) else number(x) for x in row))
        self.say("")
        self.console.print(table)
        values = [[list(x.values) if isinstance(x, Sample) else x for x in row] for row in rows]
        self.content["tables"].append({"title": title, "columns": columns, "rows": values})

    def target(self, what: str, reached: bool, numbers: str):
        """One line: a target and what became of it."""
        self.say(f"{'reached' if reached else 'MISSED '} {what}: {numbers}")
        self.content["targets"].append({"target": what, "reached": bool(reached), "numbers": numbers})

    def finish(self):
        noise = (f"{self.rounds}; load average {self.load_before:.1f} before, {os.getloadavg()[0]:.1f} after; others used "
                 f"{self.others.cpus():.2f} CPUs throughout")
        self.content["noise"] = noise
        self.say(f"\n{noise}")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")
        self.say(f"written to {self.path}")
