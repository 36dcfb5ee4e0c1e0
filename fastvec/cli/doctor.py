"""`fastvec doctor`: what fastvec finds on this machine, and what to do about what it does not."""
from __future__ import annotations

import importlib.metadata
import platform


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("doctor", help="what is installed here: fastvec, its companions, GPUDrive",
                                   description="Says which of the libraries that fastvec can work with are installed, and "
                                               "whether GPUDrive's simulator can be used.")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Prints the findings."""
    from fastvec.gpudrive.installation import diagnose
    from fastvec.machine import usable_cpus

    print(f"fastvec {_version('fastvec')}, Python {platform.python_version()}, {platform.platform()}, {usable_cpus():g} usable CPUs")
    for package in ("numpy", "torch", "gymnasium"):
        print(f"{package}: {_version(package) or 'not installed'}")
    found = diagnose()
    print(f"GPUDrive: {found.version or 'no package'}; simulator: {_simulator(found)}")
    print(f"  {found.advice}")
    return 0


def _simulator(found):
    if not found.usable:
        return "not usable"
    return f"madrona_gpudrive, built for {found.build or 'an unknown device'}, {found.where}"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
