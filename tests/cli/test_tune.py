"""`fastvec tune`: what it prints, of which creators, and what it says of those that are none."""
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("rich", reason="fastvec tune needs rich: pip install 'fastvec[tune]'")

from fastvec.cli import main
from fastvec.cli.creators import assignment, named
from fastvec.cli.errors import CliError
from fastvec.drive.scenes import SHIPPED

ROOT = Path(__file__).parents[2]
PARKING = str(SHIPPED / "gen_parking_s0.json.gz")
INTERRUPTED = 130
SOURCE = """
import fastvec_c.probe

def make(agents=1, work_us=0):
    return fastvec_c.probe.Probe(num_agents=agents, work_us=work_us)

def of_worlds(worlds):
    return make(worlds)

def bad():
    raise ValueError("no such world")

def policy(observations):
    return [1] * len(observations)

def bad_policy(observations):
    raise KeyError("weights")

class Kinds:
    make = staticmethod(make)

number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with modules of envs."""
    (tmp_path / "tuned_envs.py").write_text(SOURCE)
    (tmp_path / "lacking_envs.py").write_text("import no_such_module_at_all")
    (tmp_path / "broken_envs.py").write_text("\n1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in ("tuned_envs", "lacking_envs", "broken_envs"):
        sys.modules.pop(module, None)


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "PYTHONIOENCODING": "utf-8"}


def command(*args):
    return [sys.executable, "-m", "fastvec", "tune", *map(str, args)]


def rows(output):
    """(marked, workers, envs each, rows of a batch, batches, rows/s) of each line of the table."""
    found = re.findall(r"^ (\*| ) +(\d+) +(\d+) +([\d,]+) +(all|half, gathered|half, zero-copy) +([\d,]+) ", output, re.MULTILINE)
    return [(mark == "*", *(int(n.replace(",", "")) for n in (workers, each, batch)), mode, int(rate.replace(",", "")))
            for mark, workers, each, batch, mode, rate in found]


# ---- what it prints


def test_of_a_function(folder, capsys):
    assert main(["tune", "tuned_envs:make", "--set", "agents=3", "--seconds", "1.5", "--workers", "0,2", "--per-worker", "1,4", "--json", "t.json",
                 "--make", "slots=2"]) == 0
    said, errors = capsys.readouterr()
    found, told = rows(said), json.loads((folder / "t.json").read_text())
    assert errors == "" and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
    assert [row[0] for row in found] == [True] + [False] * (len(found) - 1) and {row[1] for row in found} <= {0, 2}
    assert [(m["choice"]["num_workers"], m["choice"]["per_worker"], m["batch_rows"]) for m in told["measured"]] == [row[1:4] for row in found]
    assert told["chosen"] == told["measured"][0] and told["finished"] in (True, False) and told["creator"] == "tuned_envs:make"
    assert len(told["measured"]) + len(told["left_out"]) == 8
    # The lines to paste make what was chosen.
    lines = said[re.search(r"^import f", said, re.MULTILINE).start():].strip()
    assert lines == told["python"]
    scope = {}
    exec(lines, scope)
    with scope["vec"] as vec:
        assert vec.num_workers == found[0][1] and vec.agents_per_env == 3 and vec.slots == 2
        assert vec.batch_size * 3 == found[0][3]


def test_of_gymnasium_with_a_policy(folder, capsys):
    assert main(["tune", "CartPole-v1", "--seconds", "1", "--rows", "6", "--workers", "0,1", "--batch", "all", "--policy", "tuned_envs:policy"]) == 0
    said = capsys.readouterr().out
    assert {row[1:5] for row in rows(said)} <= {(0, 6, 6, "all"), (1, 6, 6, "all")}
    assert re.search(r"^vec = fastvec.make\(functools.partial\(gymnasium.make, 'CartPole-v1'\), num_workers=[01], envs_per_worker=6\)$", said, re.MULTILINE)


def test_of_drive(capsys):
    assert main(["tune", "drive", "--scenes", PARKING, "--set", "collision_behavior=ignore", "--seconds", "1.5", "--workers", "0",
                 "--per-worker", "2", "--policy-us", "200"]) == 0
    said = capsys.readouterr().out
    assert "worlds each" in said and [row[:4] for row in rows(said)] == [(True, 0, 2, 16)]  # eight agents in each
    assert f"vec = fastvec.make(fastvec.drive.creator({PARKING!r}, worlds=2, collision_behavior='ignore'), num_workers=0)" in said


def test_interrupt_prints_what_is_known(tmp_path):
    script = """
import os, signal, sys
from fastvec.cli import main
from fastvec.tuning.halving import Halving

measure = Halving._measure

def interrupted(self, until, end, watch):
    def watch_and_interrupt():
        watch()
        os.kill(os.getpid(), signal.SIGINT)
    return measure(self, until, end, watch_and_interrupt)

Halving._measure = interrupted
sys.exit(main(sys.argv[1:]))
"""
    result = subprocess.run([sys.executable, "-c", script, *command("CartPole-v1", "--seconds", 3, "--workers", "1,2", "--json", "known.json")[3:]],
                            env=environment(), capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert result.returncode == INTERRUPTED, result.stderr
    assert "ended early by Ctrl-C" in result.stdout and rows(result.stdout) and "Traceback" not in result.stderr
    assert json.loads((tmp_path / "known.json").read_text())["finished"] is False


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_interrupt_on_a_terminal_which_gets_a_bar():
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(command("CartPole-v1", "--seconds", 40), env={**environment(), "TERM": "xterm", "COLUMNS": "120"}, stdin=theirs,
                          stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        output, children = b"", []
        while True:
            try:
                output += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if b"round 1" in output and not children:
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    os.close(ours)
    assert process.returncode == INTERRUPTED and "ended early by Ctrl-C" in said and rows(said)
    assert b"\x1b[" in output and b"rows/s: " in output and b"Traceback" not in output
    assert children and not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in children)


# ---- creators


@pytest.mark.parametrize("text, pair", [
    ("a=3", ("a", 3)), ("a=[1, 'b']", ("a", [1, "b"])), ("mode=rgb_array", ("mode", "rgb_array")),
    ("a=", ("a", "")), ("a='x=y'", ("a", "x=y")), ("a=-1e3", ("a", -1000.0)),
])
def test_assignments(text, pair):
    assert assignment(text) == pair


@pytest.mark.parametrize("text, settings, expression", [
    ("tuned_envs:make", {}, "make"), ("tuned_envs:make", {"agents": 2}, "functools.partial(make, agents=2)"),
    ("tuned_envs:Kinds.make", {}, "Kinds.make"),
    ("CartPole-v1", {}, "functools.partial(gymnasium.make, 'CartPole-v1')"),
    ("gymnasium.envs.classic_control:CartPole-v1", {}, "functools.partial(gymnasium.make, 'gymnasium.envs.classic_control:CartPole-v1')"),
    ("CartPole-v1", {"render_mode": "rgb_array"}, "functools.partial(gymnasium.make, 'CartPole-v1', render_mode='rgb_array')"),
])
def test_named(folder, text, settings, expression):
    found = named(text, settings)
    assert found.expression == expression
    scope = {}
    for line in found.imports:
        exec(line, scope)
    for env in (found.creator(), eval(expression, scope)()):
        assert hasattr(env, "action_space")


def test_worlds_are_chosen_unless_they_are_given(folder):
    assert named("tuned_envs:of_worlds", {}).vary is None and named("tuned_envs:of_worlds", {"worlds": 3}).vary == "envs"
    drive = named("drive", {"worlds": 3}, PARKING)
    assert drive.vary == "envs" and drive.creator().num_worlds == 3 and "worlds=3" in drive.expression
    assert named("drive", {}, PARKING).vary == "worlds"


@pytest.mark.parametrize("args, message", [
    (["no_such_module:make"], "there is no module no_such_module, neither in"),
    (["tuned_envs:mak"], "has no mak; did you mean make"),
    (["tuned_envs:number"], "is of type int, which cannot be called"),
    (["tuned_envs:"], "give module:function"), ([":make"], "give module:function"), (["a-b:make"], "give module:function"),
    (["lacking_envs:make"], "needs the module no_such_module_at_all, which is not installed"),
    (["broken_envs:make"], "importing broken_envs raised ZeroDivisionError (division by zero) at broken_envs.py, line 2"),
    (["tuned_envs:bad"], "raised ValueError (no such world) when it was built"),
    (["tuned_envs:make", "--set", "wheels=4"], "unexpected keyword argument 'wheels'"),
    (["tuned_envs:policy"], "missing 1 required positional argument"),
    (["CartPol-v1"], "is no id that gymnasium knows"), (["make"], "is no id that gymnasium knows"),
    (["no_such_module:CartPole-v1"], "there is no module no_such_module"), (["tuned_envs:CartPol-v1"], "is no id that gymnasium knows"),
    (["drive", "--scenes", "none"], "none: no such file or folder"),
    (["drive", "--set", "obs_radius=-1"], "obs_radius is -1"), (["drive", "--set", "wheels=4"], "wheels"),
    (["drive", "--set", "scenes=a"], "give --scenes"),
    (["tuned_envs:make", "--scenes", "a"], "only drive and gpudrive have scenes"),
    (["tuned_envs:make", "--policy", "tuned_envs:bad_policy"], "--policy tuned_envs:bad_policy: raised KeyError ('weights') at tuned_envs.py"),
    (["tuned_envs:make", "--policy", "tuned_envs:none"], "has no none"), (["tuned_envs:make", "--policy", "drive"], "drive: give module:function"),
    (["tuned_envs:make", "--make", "timeout=3"], "timeout=3: tune() has no such argument"),
    (["tuned_envs:make", "--make", "slots=0"], "slots=0"),
    (["tuned_envs:make", "--rows", "3", "--per-worker", "2"], "give rows or per_worker, not both"),
    (["tuned_envs:make", "--workers", "5000"], "1024 at most"),
    (["tuned_envs:make", "--json", "none/t.json"], "there is no folder none"), (["tuned_envs:make", "--json", "."], "is a folder"),
])
def test_bad_creators_and_arguments(folder, capsys, args, message):
    assert main(["tune", *args, "--seconds", "1"]) == 2
    said, errors = capsys.readouterr()
    assert message in errors and errors.startswith("fastvec tune: error: ") and said == ""


def test_gpudrive_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "madrona_gpudrive", None)
    with pytest.raises(CliError, match="gpudrive: "):
        named("gpudrive", {}, PARKING)


@pytest.mark.parametrize("args, message", [
    (["--seconds", "0.5"], "give at least 1 second"), (["--seconds", "inf"], "give a number of seconds above 0"),
    (["--workers", "1,x"], "give whole numbers of at least 0"),
    (["--per-worker", "0"], "give whole numbers of at least 1"), (["--rows", "0"], "give a whole number of at least 1"),
    (["--policy-us", "-1"], "above 0"),
    (["--policy-us", "1", "--policy", "a:b"], "not allowed with"), (["--set", "a"], "give name=value"),
    (["--set", "3=a"], "give name=value"), (["--batch", "some"], "invalid choice"),
])
def test_bad_options(capsys, args, message):
    with pytest.raises(SystemExit) as exit:
        main(["tune", "CartPole-v1", *args])
    assert exit.value.code == 2 and message in capsys.readouterr().err


def test_rich_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["tune", "CartPole-v1"]) == 2
    assert "pip install 'fastvec[tune]'" in capsys.readouterr().err
