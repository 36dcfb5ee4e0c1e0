"""The doubles in place of GPUDrive, where the real one is not wanted or not there."""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "drive"))  # abi, recordings

import doubles  # noqa: E402


@pytest.fixture
def double(monkeypatch):
    """`import madrona_gpudrive` gives the double, here and in workers that are forked from here."""
    module = doubles.module()
    monkeypatch.setitem(sys.modules, "madrona_gpudrive", module)
    return module
