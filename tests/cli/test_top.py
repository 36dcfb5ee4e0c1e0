"""`fastvec top PID` and `fastvec doctor --dump PID`: what they say of runs that step, stand still, end, or are none."""
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rich", reason="fastvec top needs rich: pip install rich")

import fastvec
from fastvec.cli import main
from fastvec_c.probe import Probe

ROOT = Path(__file__).parents[2]
US = str(os.getpid())


@pytest.fixture(autouse=True)
def always(nothing_left_behind):
    pass


@contextmanager
def stepping(*args, **kwargs):
    """A VecEnv that a thread steps; the thread."""
    running = True

    def run():
        while running:
            vec.step(np.zeros(vec.num_rows, np.int64))

    with fastvec.make(*args, **kwargs) as vec:
        vec.reset()
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield vec
        finally:
            running = False
            thread.join()


def rows(said):
    """{worker: its cells} of the table."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if re.fullmatch(r"worker \d+|envs here", cells[0])}


def test_top_of_a_run_that_steps(capsys):
    with stepping(lambda: Probe(num_agents=2, work_us=200), 2, num_envs=4) as vec:
        assert main(["top", US, "--once", "--interval", "0.4"]) == 0
        pids = [str(w.process.pid) for w in vec._workers]
    said = capsys.readouterr().out
    batches, steps, agents = (int(n.replace(",", "")) for n in re.search(r"([\d,]+) batches/s, ([\d,]+) env-steps/s, ([\d,]+) rows/s", said).groups())
    assert steps > 0 and abs(agents - 2 * steps) <= 2 and abs(steps - 4 * batches) <= 4
    assert f"Probe, process {US}: " in said and "\nThe run waits for " in said
    assert sum(map(int, re.search(r"envs (\d+)%, handoff (\d+)%, policy (\d+)%", said).groups())) in (99, 100, 101)
    found = rows(said)
    assert [found["worker 0"][0], found["worker 1"][0]] == pids
    for pid, rate, step, waiting, pickup, take, parks, restarts, *state in found.values():
        assert int(rate.replace(",", "")) > 0 and re.fullmatch(r"[\d.,]+ (µs|ms|s)", step) and re.fullmatch(r"\d+%", waiting)
        assert restarts == "0" and state


def test_top_of_envs_in_the_trainer(capsys):
    with stepping(lambda: Probe(work_us=200), 0, num_envs=2):
        assert main(["top", US, "--once", "--interval", "0.3"]) == 0
    assert rows(capsys.readouterr().out)["envs here"][0] == US


def test_top_of_a_run_that_stands_still(capsys):
    """Its policy takes for ever: that is said at the second, before any batch could have been counted."""
    with fastvec.make(Probe, 2) as vec:
        vec.reset()
        assert main(["top", US, "--once", "--interval", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "0 batches/s" in said and "policy 100%" in said and "which has had its batch for" in said
    assert all(cells[3] == "100%" for cells in rows(said).values())


def test_top_of_several(capsys):
    with fastvec.make(Probe, 1), fastvec.make(Probe, 0):
        assert main(["top", US, "--once", "--interval", "0.05"]) == 0
    said = capsys.readouterr().out
    assert said.count(f"Probe, process {US}: ") == 2 and set(rows(said)) == {"worker 0", "envs here"}


@pytest.mark.parametrize("how", ["closes", "is killed"])
def test_top_ends_with_the_run(how):
    """Without --once, in a pipe, it goes on until there is nothing left to look at."""
    source = "import sys, fastvec; from fastvec_c.probe import Probe; vec = fastvec.make(Probe, 1); print('made', flush=True); sys.stdin.read(); vec.close()"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True) as run:
        assert run.stdout.readline() == "made\n"
        command = [sys.executable, "-m", "fastvec", "top", str(run.pid), "--interval", "0.05"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as top:
            seen = top.stdout.readline()
            assert f"process {run.pid}" in seen
            run.stdin.close() if how == "closes" else run.send_signal(signal.SIGKILL)
            said = top.stdout.read()
        assert top.returncode == 0 and ("has been closed" in said or "has ended" in said)


def test_ctrl_c_ends_top(monkeypatch, capsys):
    from fastvec.cli import top

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(top, "time", SimpleNamespace(sleep=interrupted))
    with fastvec.make(Probe, 1):
        assert main(["top", US]) == 0
        assert main(["top", US, "--once"]) == 130


def test_dump(capsys):
    with fastvec.make(lambda: Probe(num_agents=3), 2, num_envs=4, slots=2) as vec:
        vec.reset()
        for _ in range(3):
            vec.step(np.zeros(12, np.int64))
        assert main(["doctor", "--dump", US, "--events", "9"]) == 0
        said = capsys.readouterr().out
        assert main(["doctor", "--dump", str(vec._workers[0].process.pid), "--events", "9"]) == 0
        assert "VecEnv of process " + US in capsys.readouterr().out
    assert f"VecEnv of process {US}: 4 envs of Probe in 2 workers, 12 rows, 2 slots, batches of 4 envs; fastvec {fastvec.__version__}, made " in said
    assert "3 batches, 36 rows; the trainer's time: envs " in said
    assert re.search(r"worker 1 +\d+ +4 +4 +4 +(yes|no)  done for .*, waits for orders", said)
    assert "The workers wait for the trainer, which has had its batch for " in said
    events = said.split("The last 9 events, in ms before now:\n")[1].splitlines()
    assert len(events) == 9 and any("received a batch of 2, the first of worker 0, slot 1" in event for event in events)
    assert any("finished order 4, step" in event for event in events)
    times = [float(event.split()[0].replace(",", "")) for event in events]
    assert times == sorted(times) and times[-1] <= 0


@pytest.mark.parametrize("command", [["top", "{}", "--once"], ["doctor", "--dump", "{}"]])
def test_nothing_to_see(command, capsys):
    assert main([word.format(US) for word in command]) == 2
    assert f"process {US} has no VecEnv (or still builds its envs); give the process id of a trainer or of one of its workers" in capsys.readouterr().err
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert main([word.format(pid) for word in command]) == 2
    assert f"there is no process {pid}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["top"], ["top", "x"], ["top", "0"], ["top", US, "--interval", "0"], ["doctor", "--dump"], ["doctor", "--dump", "-3"]])
def test_wrong_arguments(command, capsys):
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2


def test_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["top", US, "--once"]) == 2
    assert "pip install rich" in capsys.readouterr().err
    with fastvec.make(Probe, 1):
        assert main(["doctor", "--dump", US]) == 0  # needs none
