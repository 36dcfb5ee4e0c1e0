"""`fastvec doctor`: what it says of GPUDrive, present, absent, half installed, broken."""
import importlib.metadata
import sys
from types import ModuleType, SimpleNamespace

import pytest

from fastvec.cli import main
from fastvec.gpudrive import installation


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """installed(version of the package or None, source of madrona_gpudrive or None)."""
    def install(version, source):
        monkeypatch.delitem(sys.modules, "madrona_gpudrive", raising=False)
        monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if "gpudrive-build" not in p)])
        if source is not None:
            (tmp_path / "madrona_gpudrive.py").write_text(source)
        elif installation.importlib.util.find_spec("madrona_gpudrive"):
            pytest.skip("madrona_gpudrive is installed here")

        def look_up(name, _real=importlib.metadata.version):
            if name != "gpudrive":
                return _real(name)
            if version is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(importlib.metadata, "version", look_up)

    yield install
    sys.modules.pop("madrona_gpudrive", None)


def test_nothing(installed, capsys):
    installed(None, None)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "GPUDrive: no package; simulator: not usable" in said and installation.PAGE in said and "fastvec 0." in said


def test_the_wheel_without_a_simulator(installed, capsys):
    installed("0.1.0", None)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "gpudrive 0.1.0 has no compiled simulator" in said and "uninstall it" in said and installation.PAGE in said


def test_a_module_that_does_not_load(installed):
    installed("0.3.0", "raise ImportError('undefined symbol: xyz')")
    found = installation.diagnose()
    assert not found.usable and "does not load (undefined symbol: xyz)" in found.advice


def test_a_module_that_is_something_else(installed):
    installed(None, "SimManager = 1")
    found = installation.diagnose()
    assert not found.usable and "lacks Parameters, madrona" in found.advice


@pytest.mark.parametrize("content, build", [("", "CPU"), ("# needs libcuda.so.1", "CPU and CUDA")])
def test_a_simulator(installed, capsys, content, build):
    installed("0.3.0", f"{content}\nSimManager = Parameters = madrona = None")
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert f"GPUDrive: 0.3.0; simulator: madrona_gpudrive, built for {build}, " in said


def test_a_module_without_a_file(monkeypatch):
    module = ModuleType("madrona_gpudrive")
    module.__dict__.update(SimManager=None, Parameters=None, madrona=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "madrona_gpudrive", module)
    found = installation.diagnose()
    assert found.usable and found.build is None
