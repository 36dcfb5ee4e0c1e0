"""`fastvec demo`, run as its users run it."""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

for module in ("torch", "rich", "PIL", "imageio"):
    pytest.importorskip(module, reason=f"fastvec demo needs {module}: pip install 'fastvec[demo]'")

from PIL import Image

from fastvec.drive.scenes import SHIPPED

ROOT = Path(__file__).parents[2]
PARKING = SHIPPED / "gen_parking_s0.json.gz"  # 8 driven agents, short episodes
AGENTS, STEPS = 8, 120
INTERRUPTED = 130


def environment():
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}


def demo(*args, **kwargs):
    command = [sys.executable, "-m", "fastvec", "demo", *map(str, args)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, **kwargs)


def figures(output):
    """{name: number} of the summary."""
    pairs = re.findall(r"^ ([a-z][a-z -]+?)  +([\d.,]+)(?:%| MiB)? *$", output, re.MULTILINE)
    return {name: float(number.replace(",", "")) for name, number in pairs}


def worker_rows(output):
    """(steps, busy seconds, waiting seconds) of each worker."""
    rows = re.findall(r"^ +\d+ +([\d,]+) +([\d.]+) s +([\d.]+) s", output, re.MULTILINE)
    return [(int(steps.replace(",", "")), float(busy), float(waiting)) for steps, busy, waiting in rows]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished demo of 2 workers with 2 worlds each, and where its picture is."""
    picture = tmp_path_factory.mktemp("demo") / "episode.gif"
    result = demo("--scenes", PARKING, "--workers", 2, "--worlds", 2, "--steps", STEPS, "--output", picture)
    assert result.returncode == 0, result.stderr
    return result, picture


def test_counts_agree(done):
    found = figures(done[0].stdout)
    assert found["worlds"] == 4 and found["steps of all worlds"] == STEPS
    assert 0 < found["agent-steps"] <= STEPS * 4 * AGENTS
    assert found["episodes finished"] >= 4  # no episode is longer than 91 steps
    assert found["agents in them"] == AGENTS * found["episodes finished"]
    assert found["goals reached"] >= round(found["goal rate"] / 100 * found["agents in them"]) > 0


def test_rate_is_agent_steps_over_seconds(done):
    found = figures(done[0].stdout)
    fastest, slowest = (found["agent-steps"] / (found["seconds"] + d) for d in (-0.006, 0.006))
    assert slowest - 1 <= found["agent-steps per second"] <= fastest + 1


def test_shares_of_time_add_up(done):
    found = figures(done[0].stdout)
    shares = [found[f"time in {part}"] for part in ("workers", "handoff", "policy")]
    assert sum(shares) == pytest.approx(100, abs=0.2) and min(shares) > 0


def test_workers_made_every_step(done):
    found, rows = figures(done[0].stdout), worker_rows(done[0].stdout)
    assert [steps for steps, _, _ in rows] == [STEPS, STEPS]
    assert all(busy <= found["seconds"] + 0.01 for _, busy, _ in rows)


def test_gif_shows_an_episode(done):
    with Image.open(done[1]) as picture:
        assert 20 < picture.n_frames <= 92
        first = picture.convert("RGB").tobytes()
        picture.seek(picture.n_frames // 2)
        assert picture.convert("RGB").tobytes() != first
    assert done[1].stat().st_size < 2 * 2**20


def test_pipes_get_no_control_characters(done):
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done[0].stdout + done[0].stderr)


def test_number_of_workers_changes_nothing_but_time(done, tmp_path):
    alone = demo("--scenes", PARKING, "--workers", 1, "--worlds", 4, "--steps", STEPS, "--output", tmp_path / "a.gif")
    a, b = figures(alone.stdout), figures(done[0].stdout)
    for name in ("agent-steps", "goals reached", "episodes finished", "goal rate", "collision rate", "off-road rate"):
        assert a[name] == b[name], name


def test_png_and_random_policy(tmp_path):
    result = demo("--scenes", PARKING, "--worlds", 1, "--steps", 5, "--policy", "random", "--output", tmp_path / "last.png")
    assert result.returncode == 0, result.stderr
    assert "uniformly random" in result.stdout
    with Image.open(tmp_path / "last.png") as picture:
        assert picture.format == "PNG" and len(picture.getcolors(1 << 20)) > 10


def test_mp4(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg: pip install 'fastvec[render]'")
    import imageio.v3 as imageio

    result = demo("--scenes", PARKING, "--worlds", 1, "--steps", 5, "--output", tmp_path / "episode.mp4")
    assert result.returncode == 0, result.stderr
    video = imageio.imread(tmp_path / "episode.mp4", plugin="FFMPEG")
    assert f"({len(video)} frames" in result.stdout and (video[0] != video[-1]).any()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_terminal_gets_a_live_display(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fastvec", "demo", "--scenes", PARKING, "--seconds", "0.6", "--output", tmp_path / "a.gif"]
    with subprocess.Popen(command, env={**environment(), "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        output = b""
        while True:
            try:
                output += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
    os.close(ours)
    assert process.returncode == 0, output.decode()
    assert b"\x1b[2K" in output and b"agent-steps/s" in output and b"off-road rate" in output


def test_interrupt_ends_with_the_summary(tmp_path):
    command = [sys.executable, "-m", "fastvec", "demo", "--scenes", PARKING, "--seconds", "600", "--output", tmp_path / "a.gif"]
    environ = {**environment(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "agent-steps/s" in line:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "ended early" in output and figures(output)["agent-steps"] > 0
    assert "Traceback" not in errors and not (tmp_path / "a.gif").exists()


@pytest.mark.parametrize("args, message", [
    (["--scenes", "{tmp}/none"], "{tmp}/none: no such file or folder"),
    (["--scenes", "{tmp}"], "{tmp}: the folder holds no .json"),
    (["--scenes", "{tmp}/broken/a.json"], "a.json: the file is empty"),
    (["--output", "demo.jpg"], "give a name that ends in .gif, .mp4 or .png"),
    (["--output", "{tmp}/none/demo.gif"], "there is no folder {tmp}/none"),
    (["--workers", "none"], "give a whole number of at least 1, or 'auto'"),
    (["--worlds", "0"], "give a whole number of at least 1"),
    (["--seconds", "nan"], "give a number of seconds above 0"),
    (["--seconds", "1", "--steps", "1"], "not allowed with"),
    (["--workers", "100000"], "at most"),
])
def test_bad_arguments(args, message, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.json").touch()
    result = demo(*(a.format(tmp=tmp_path) for a in args), cwd=tmp_path)
    assert result.returncode == 2
    assert message.format(tmp=tmp_path) in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("module, package", [("torch", "torch"), ("rich", "rich"), ("PIL", "pillow"), ("imageio", "imageio")])
def test_missing_package_is_named(module, package):
    result = demo_without(module)
    assert package in result.stderr and "pip install 'fastvec[demo]'" in result.stderr


def test_mp4_without_its_package_is_refused_at_once():
    result = demo_without("imageio_ffmpeg", "--output", "a.mp4")
    assert "imageio-ffmpeg" in result.stderr and "pip install 'fastvec[render]'" in result.stderr


def demo_without(module, *args):
    script = f"import sys; sys.modules[{module!r}] = None; from fastvec.cli import main; sys.exit(main({['demo', *args]}))"
    result = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=60)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    return result
