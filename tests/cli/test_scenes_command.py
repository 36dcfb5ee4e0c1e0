"""`fastvec scenes`, run as its users run it."""
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="fastvec scenes needs rich: pip install 'fastvec[scenes]'")

from fastvec.drive.scenes import SHIPPED, find, read

ROOT = Path(__file__).parents[2]
PARKING = SHIPPED / "gen_parking_s0.json.gz"


def run(*args, **kwargs):
    command = [sys.executable, "-m", "fastvec", "scenes", *map(str, args)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, **kwargs)


def rows(output):
    """{scene: its numbers} of the table."""
    words = [line.split() for line in output.splitlines()]
    return {w[0]: [int(n.replace(",", "")) for n in w[1:]] for w in words if len(w) == 14 and w[1].isdigit()}


@pytest.fixture
def broken(tmp_path):
    """A folder with one good scene among bad ones."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.json").write_text("{}")
    (folder / "b.json.gz").write_bytes(PARKING.read_bytes())
    (folder / "c.scenes").write_text("no scenes at all, but more than a header's worth of text")
    return folder


# ---- generate


def test_generate(tmp_path):
    pytest.importorskip("roadgen")
    result = run("generate", "--kinds", "two_lane", "--count", 2, "--seed", 7, "-o", tmp_path / "a" / "b")
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["gen_two_lane_s7.json", "gen_two_lane_s8.json"]
    assert "2 scenes in" in result.stdout
    assert run("check", tmp_path / "a" / "b").returncode == 0


def test_generate_where_nothing_can_be_written(tmp_path):
    pytest.importorskip("roadgen")
    (tmp_path / "file").touch()
    result = run("generate", "--kinds", "two_lane", "-o", tmp_path / "file")
    assert result.returncode == 2 and str(tmp_path / "file") in result.stderr and "Traceback" not in result.stderr


# ---- check


def test_check_counts(tmp_path):
    result = run("check", "shipped")
    assert result.returncode == 0
    assert rows(result.stdout)["gen_parking_s0"] == [29, 5, 2, 0, 32, 6, 40, 0, 2, 3, 497, 27, 8]
    assert "6 scenes, 0 cannot be used, 0 with warnings" in result.stdout


def test_check_follows_the_configuration():
    assert rows(run("check", "--init-mode", "all_objects", "--non-vehicles", PARKING).stdout)["gen_parking_s0"][-2:] == [36, 32]
    assert rows(run("check", "--max-controlled-agents", 3, PARKING).stdout)["gen_parking_s0"][-1] == 3
    assert rows(run("check", "--polyline-reduction-threshold", 0, PARKING).stdout)["gen_parking_s0"][-3] > 497


def test_check_goes_on_after_bad_files(broken):
    result = run("check", broken, broken / "none.json")
    assert result.returncode == 1
    assert list(rows(result.stdout)) == ["b"]
    assert f"error: {broken / 'a.json'}: objects is missing" in result.stdout
    assert f"error: {broken / 'c.scenes'}: is no file of packed scenes" in result.stdout
    assert f"error: {broken / 'none.json'}: no such file" in result.stdout
    assert "4 scenes, 3 cannot be used" in result.stdout and "Traceback" not in result.stderr


def test_check_warns(tmp_path):
    scene = json.loads(gzip.decompress(PARKING.read_bytes()))
    objects = scene["objects"]
    objects[1]["id"] = objects[0]["id"]
    objects[2]["type"] = "other"
    scene["metadata"]["sdc_track_index"] = 900
    scene["roads"][0]["type"], scene["roads"][1]["map_element_id"] = "river", 99
    (tmp_path / "odd.json").write_text(json.dumps(scene))
    result = run("check", tmp_path)
    assert result.returncode == 0
    for said in ("odd.json: warning: roads[0].type is 'river'", "roads[1].map_element_id is 99, which is unknown", "metadata.sdc_track_index is 900",
                 f"objects[1].id is {objects[0]['id']}, as of another object", "odd.json: 1 more warning",
                 f"objects of type unset or other are left out (GPUDrive makes agents of them): ids {objects[2]['id']}", "1 with warnings"):
        assert said in result.stdout, said


def test_check_sees_collisions_at_the_start(tmp_path):
    scene = json.loads(gzip.decompress(PARKING.read_bytes()))
    there = [o for o in scene["objects"] if all(o["valid"]) and o["type"] == "vehicle"][:2]
    there[1]["position"][0] = there[0]["position"][0]
    (tmp_path / "crash.json").write_text(json.dumps(scene))
    result = run("check", tmp_path)
    ids = result.stdout.partition("agents start in a collision: ids ")[2].splitlines()[0].split(", ")
    assert {str(o["id"]) for o in there} <= set(ids)


def test_check_says_why_nobody_can_be_driven(tmp_path):
    scene = json.loads(gzip.decompress(PARKING.read_bytes()))
    for o in scene["objects"]:
        o["mark_as_expert"] = True
    (tmp_path / "a.json").write_text(json.dumps(scene))
    result = run("check", tmp_path)
    assert result.returncode == 1 and "no agent to control" in result.stdout


# ---- pack


def test_pack(tmp_path):
    file = tmp_path / "all.scenes"
    result = run("pack", "shipped", "-o", file)
    assert result.returncode == 0, result.stderr
    assert f"6 scenes in {file}" in result.stdout and len(find(file)) == 6
    checked = run("check", file)
    assert checked.returncode == 0 and rows(checked.stdout) == rows(run("check", "shipped").stdout)
    assert read(f"{file}#gen_parking_s0").name == "gen_parking_s0"


def test_pack_refuses_broken_scenes_or_skips_them(broken, tmp_path):
    (broken / "c.scenes").unlink()
    file = tmp_path / "all.scenes"
    result = run("pack", broken, "-o", file)
    assert result.returncode == 2 and "a.json: objects is missing" in result.stderr and not file.exists()
    result = run("pack", "--skip-broken", broken, "-o", file)
    assert result.returncode == 0 and "skipped: " in result.stdout and find(file) == [f"{file}#b"]


@pytest.mark.parametrize("args, message", [
    (["pack", "{tmp}/none", "-o", "a.scenes"], "{tmp}/none: no such file or folder"),
    (["pack", "shipped", "-o", "a.json"], "give a name that ends in .scenes"),
    (["pack", "shipped", "-o", "{tmp}/none/a.scenes"], "{tmp}/none"),
    (["pack", "{tmp}", "-o", "{tmp}/all.scenes"], "lies in the folder that is packed"),
    (["pack", "shipped", "shipped", "-o", "a.scenes"], "two scenes have the name"),
    (["check", "--polyline-reduction-threshold", "nan", "shipped"], "polyline_reduction_threshold is nan"),
    (["check", "--max-controlled-agents", "65", "shipped"], "max_controlled_agents is 65"),
    (["generate", "--kinds", "moon", "-o", "{tmp}"], "invalid choice"),
    (["generate", "--count", "0", "-o", "{tmp}"], "give a whole number of at least 1"),
])
def test_bad_arguments(args, message, tmp_path):
    result = run(*(a.format(tmp=tmp_path) for a in args), cwd=tmp_path)
    assert result.returncode == 2
    assert message.format(tmp=tmp_path) in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command, module", [("check", "rich"), ("pack", "rich"), ("generate", "roadgen")])
def test_missing_package_is_named(command, module, tmp_path):
    paths = [] if command == "generate" else ["shipped"]
    output = [] if command == "check" else ["-o", str(tmp_path / "a.scenes")]
    script = f"import sys; sys.modules[{module!r}] = None; from fastvec.cli import main; sys.exit(main(['scenes', {command!r}, *{paths + output!r}]))"
    result = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert module in result.stderr and "pip install 'fastvec[scenes]'" in result.stderr and "Traceback" not in result.stderr
