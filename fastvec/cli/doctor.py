"""`fastvec doctor`: what fastvec finds on this machine, and what to do about what it does not; or what a run is at."""
from __future__ import annotations

import importlib.metadata
import platform

from fastvec.cli.arguments import count
from fastvec.cli.errors import CliError

EVENTS = 40


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("doctor", help="what is installed here: fastvec, its companions, GPUDrive, GPUs; or what a run is at (--dump PID)",
                                   description="Says which of the libraries that fastvec can work with are installed, and "
                                               "whether GPUDrive's simulator can be used.  With --dump PID: what a running, or stuck, "
                                               "process waits for, each of its workers, and what they did last.")
    parser.add_argument("--dump", type=count, metavar="PID", help="a trainer's process id, or a worker's: what its VecEnvs are at; only looks, never disturbs")
    parser.add_argument("--events", type=count, default=EVENTS, metavar="N", help=f"with --dump: how many of the last events to show (default: {EVENTS})")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Prints the findings.  Raises CliError."""
    if args.dump is not None:
        return _dump(args.dump, args.events)
    from fastvec.gpudrive.installation import diagnose
    from fastvec.machine import usable_cpus

    print(f"fastvec {_version('fastvec')}, Python {platform.python_version()}, {platform.platform()}, {usable_cpus():g} usable CPUs")
    for package in ("numpy", "torch", "gymnasium"):
        print(f"{package}: {_version(package) or 'not installed'}")
    if _version("torch"):
        print(f"GPU for torch: {_gpu()}")
    found = diagnose()
    print(f"GPUDrive: {found.version or 'no package'}; simulator: {_simulator(found)}")
    print(f"  {found.advice}")
    return 0


def _dump(pid, last):
    from fastvec.cli.dump import dump
    from fastvec.inspection import InspectionError, attach

    try:
        found = attach(pid)
    except InspectionError as error:
        raise CliError(f"--dump {pid}: {error}") from None
    print("\n\n".join("\n".join(dump(seen, last)) for seen in found))
    return 0


def _gpu():
    try:
        from fastvec import torch_devices  # torch takes its time
    except (ImportError, OSError) as error:
        return f"unknown: torch does not load ({error})"
    return torch_devices.diagnose()


def _simulator(found):
    if not found.usable:
        return "not usable"
    return f"madrona_gpudrive, built for {found.build or 'an unknown device'}, {found.where}"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
