"""Is GPUDrive here, and which one?"""
from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass

PAGE = "https://github.com/Emerge-Lab/gpudrive#installation"


@dataclass(frozen=True)
class Diagnosis:
    """What is known of the installation.  `usable`: its simulator can be built; `advice`: what to do, or what it is."""

    usable: bool
    version: str | None  # of the package `gpudrive`, if it is installed
    build: str | None  # "CPU and CUDA" or "CPU", of the simulator, if that imports
    where: str | None  # the file of the simulator's module
    advice: str


def diagnose() -> Diagnosis:
    """Looks for the package `gpudrive` and its simulator, the module `madrona_gpudrive`."""
    version = _version()
    try:
        module = importlib.import_module("madrona_gpudrive")
    except ImportError as error:
        return Diagnosis(False, version, None, None, _advice(version, error))
    missing = [name for name in ("SimManager", "Parameters", "madrona") if not hasattr(module, name)]
    if missing:
        return Diagnosis(False, version, None, getattr(module, "__file__", None),
                         f"the module madrona_gpudrive lacks {', '.join(missing)}: build GPUDrive anew, see {PAGE}")
    return Diagnosis(True, version, _build(module), getattr(module, "__file__", None), "fastvec.gpudrive can use it")


def _version():
    try:
        return importlib.metadata.version("gpudrive")
    except importlib.metadata.PackageNotFoundError:
        return None


def _advice(version, error):
    if version is not None and importlib.util.find_spec("madrona_gpudrive") is None:
        return (f"the installed package gpudrive {version} has no compiled simulator (the wheel on PyPI, 0.1.0, lacks it): "
                f"uninstall it, then build GPUDrive from its sources, see {PAGE}")
    if importlib.util.find_spec("madrona_gpudrive") is not None:
        return f"madrona_gpudrive is there, but does not load ({error}): it was built for another Python or system; see {PAGE}"
    return f"it is not installed, and pip cannot: build it from its sources, see {PAGE}"


def _build(module):
    """Whether the simulator was built with CUDA: the library then depends on it."""
    try:
        with open(module.__file__, "rb") as file:
            return "CPU and CUDA" if b"libcuda" in file.read() else "CPU"
    except (OSError, TypeError, AttributeError):
        return None
