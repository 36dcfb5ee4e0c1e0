"""examples/gpudrive.py runs, around the double of GPUDrive's simulator."""
import runpy
import sys
from pathlib import Path

import pytest

from fastvec.drive.scenes import SHIPPED

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def double(monkeypatch):
    for folder in ("drive", "gpudrive"):
        monkeypatch.syspath_prepend(str(ROOT / "tests" / folder))
    import doubles

    monkeypatch.setitem(sys.modules, "madrona_gpudrive", doubles.module())


def test_it_drives(double, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpudrive.py", str(SHIPPED), "1"])
    runpy.run_path(str(ROOT / "examples" / "gpudrive.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert len(said) >= 2 and all("'goal_rate'" in line for line in said)
