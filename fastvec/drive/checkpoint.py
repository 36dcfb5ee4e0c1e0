"""What `examples/train_drive.py` saves and `fastvec eval` drives with.  Needs PyTorch."""
from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch

from fastvec.drive.config import DriveConfig
from fastvec.drive.network import DriveNetwork, Driver

FORMAT = "fastvec train_drive 1"
KEYS = {"format", "settings", "drive", "network", "weights", "progress"}


class CheckpointError(ValueError):
    """A checkpoint is missing, broken, or does not fit; the message names the file."""


def save(path, *, settings, drive, network, progress):
    """Writes a checkpoint; an old one is replaced when the new one is complete.

    Args:
        settings: dict of what the run was told, of plain values.
        drive: the `DriveConfig` of the worlds it was trained on, or None: other envs.
        network: a module; of a `DriveNetwork` also what it takes to build it.
        progress: dict of whatever it takes to go on: numbers, strings, tensors, and containers of these.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    content = dict(format=FORMAT, settings=settings, drive=None if drive is None else asdict(drive),
                   network=getattr(network, "settings", None), weights=network.state_dict(), progress=progress)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:  # torch.save would raise a RuntimeError that does not say why
            torch.save(content, file)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load(path):
    """The content of a checkpoint: a dict of what `save` was given, and its format.  Runs no code that the file brings.

    Raises:
        CheckpointError: there is none, or it is none of ours.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    with file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever pickle and zip say of a file that is something else
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path} is no checkpoint, or a broken one: {reason}") from None
    if not isinstance(content, dict) or not KEYS <= content.keys() or content["format"] != FORMAT:
        had = content.get("format") if isinstance(content, dict) else None
        raise CheckpointError(f"{path} is no checkpoint of examples/train_drive.py" + (f": its format is {had!r}, not {FORMAT!r}" if had else ""))
    return content


def driver(path, sample=False, seed=0):
    """Who drives as a checkpoint learned to, and the worlds it knows.

    Args:
        path: of the checkpoint.
        sample, seed: see `Driver`.

    Returns:
        (Driver, DriveConfig)

    Raises:
        CheckpointError: see `load`; or it was not trained on driving worlds, or by a version whose settings or network differ.
    """
    content = load(path)
    if content["drive"] is None:
        raise CheckpointError(f"{path} was trained on {content['settings'].get('env')!r}: expected one of env 'drive' or 'gpudrive'")
    try:
        config = DriveConfig(**content["drive"])
        network = DriveNetwork(**content["network"])
        network.load_state_dict(content["weights"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} was written by another version of fastvec: {error}") from None
    check_fit(path, network, config)
    return Driver(network, sample, seed), config


def check_fit(path, network, config):
    """Raises CheckpointError where a network cannot drive worlds of a `DriveConfig`."""
    grid = config.action_grid()
    actions = len(grid) if config.action_type == "discrete" else 0
    if network.settings["num_actions"] != actions:
        raise CheckpointError(f"{path}: its network has {network.settings['num_actions']} actions, the worlds have {actions}")
