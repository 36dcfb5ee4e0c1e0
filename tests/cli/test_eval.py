"""`fastvec eval`: what it prints and writes, and what it says of input that does not fit."""
import json
import re

import pytest

for module in ("torch", "rich"):
    pytest.importorskip(module, reason=f"fastvec eval needs {module}: pip install 'fastvec[train]'")

import torch
from fastvec.cli import main
from fastvec.drive import DriveConfig, checkpoint
from fastvec.drive.network import DriveNetwork
from fastvec.drive.scenes import SHIPPED

PARKING, JUNCTION = (str(SHIPPED / f"gen_{kind}_s0.json.gz") for kind in ("parking", "junction"))
CONFIG = DriveConfig(collision_behavior="remove", road_obs_algorithm="k_nearest_roadpoints")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a network that was not trained at all."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "a.pt"
    checkpoint.save(path, settings={"env": "drive"}, drive=CONFIG, network=DriveNetwork(91), progress={})
    return path


def test_table_and_figures(trained, tmp_path, capsys):
    outputs = []
    for name in ("a.json", "b.json"):
        assert main(["eval", str(trained), PARKING, JUNCTION, "--non-vehicles", "--json", str(tmp_path / name)]) == 0
        outputs.append((capsys.readouterr().out, (tmp_path / name).read_text()))
    assert outputs[0] == outputs[1]
    text, figures = outputs[0][0], json.loads(outputs[0][1])
    rows = figures["rates"]
    assert {(row["driver"], row["scene"], row["type"]) for row in rows} == {
        *((driver, scene, kind) for driver in ("policy", "log replay", "constant velocity") for scene in ("gen_parking_s0", "gen_junction_s0", "all")
          for kind in ("vehicle", "pedestrian", "cyclist")), *((driver, "all", "all") for driver in ("policy", "log replay", "constant velocity"))}
    logs = next(row for row in rows if (row["driver"], row["scene"], row["type"]) == ("log replay", "all", "all"))
    assert logs["goal"] == 1 and logs["failed"] == 0
    printed = re.findall(r"(policy|log replay|constant velocity) +(\d+) +([\d.]+)% +([\d.]+)% +([\d.]+)% +([\d.]+)%", text)
    assert len(printed) == len(rows)
    for driver in ("policy", "log replay", "constant velocity"):
        expected = [(str(row["agents"]), *(f"{row[name]:.1%}"[:-1] for name in ("goal", "collision", "off_road", "failed")))
                    for row in rows if row["driver"] == driver]
        assert [row[1:] for row in printed if row[0] == driver] == expected
    assert figures["collision_behavior"] == "remove" and 'collision_behavior="remove"' in text


def test_collision_behavior_and_drawn_actions(trained, tmp_path, capsys):
    path = tmp_path / "a.json"
    found = []
    for extra in ([], ["--collision-behavior", "ignore"], ["--sample", "--seed", "1"], ["--sample", "--seed", "2"]):
        assert main(["eval", str(trained), PARKING, "--json", str(path), *extra]) == 0
        found.append(json.loads(path.read_text()))
    capsys.readouterr()
    assert [one["collision_behavior"] for one in found] == ["remove", "ignore", "remove", "remove"]
    assert [one["seed"] for one in found] == [0, 0, 1, 2]
    assert all(row["agents"] == 8 and 0 <= row["goal"] <= 1 for one in found for row in one["rates"])


@pytest.mark.parametrize("scenes, size", [([PARKING], (640, 640)), ([PARKING, JUNCTION], (496, 186))], ids=["one", "two"])
def test_video(trained, tmp_path, capsys, scenes, size):
    Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'fastvec[render]'")
    pytest.importorskip("imageio", reason="needs imageio: pip install 'fastvec[render]'")
    path = tmp_path / "a.gif"
    assert main(["eval", str(trained), *scenes, "--video", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as picture:
        assert picture.size == size and 10 < picture.n_frames <= 92


def test_input_that_does_not_fit(trained, tmp_path, capsys):
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    other = tmp_path / "cartpole.pt"
    checkpoint.save(other, settings={"env": "CartPole-v1"}, drive=None, network=torch.nn.Linear(1, 1), progress={})
    missing = str(tmp_path / "no" / "a")
    for arguments, message in (
        ([missing], "CHECKPOINT: .*No such file"),
        ([str(broken)], "CHECKPOINT: .*no checkpoint"),
        ([str(other)], "CHECKPOINT: .*trained on 'CartPole-v1'"),
        ([str(trained), "nowhere"], "SCENES: .*nowhere"),
        ([str(trained), str(broken)], "SCENES: .*broken.json"),
        ([str(trained), PARKING, "--json", missing], "--json .*there is no folder"),
        ([str(trained), PARKING, "--json", str(tmp_path)], "--json .*is a folder"),
        ([str(trained), PARKING, "--video", str(tmp_path / "a.avi")], "--video .*ends in .gif or .mp4"),
        ([str(trained), PARKING, "--video", missing + ".gif"], "--video .*there is no folder"),
    ):
        assert main(["eval", *arguments]) == 2
        captured = capsys.readouterr()
        assert re.search(f"^fastvec eval: error: {message}", captured.err) and captured.err.count("\n") == 1 and not captured.out, arguments


def test_missing_packages(trained, capsys, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    assert main(["eval", str(trained)]) == 2
    assert "this needs torch: pip install 'fastvec[train]'" in capsys.readouterr().err


def test_bad_seed(trained, capsys):
    with pytest.raises(SystemExit) as error:
        main(["eval", str(trained), "--seed", "-1"])
    assert error.value.code == 2 and "whole number" in capsys.readouterr().err
