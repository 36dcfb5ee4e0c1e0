"""The real GPUDrive in CPU mode, vectorized over processes: one simulator in each worker.

>>> import fastvec, fastvec.gpudrive
>>> creator = fastvec.gpudrive.creator("data/processed/examples", worlds=8)  # doctest: +SKIP
>>> vec = fastvec.make(creator, num_workers=8)  # doctest: +SKIP
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvec.drive.config import DriveConfig
from fastvec.gpudrive.config import drive_config
from fastvec.gpudrive.env import GPUDrive, check_settings, hosted_files
from fastvec.gpudrive.simulator import SimulatorError

__all__ = ["Creator", "GPUDrive", "SimulatorError", "creator"]

START_ATTEMPTS = 3


@dataclass(frozen=True)
class Creator:
    """Builds `GPUDrive` envs; picklable.  Made by `creator`."""

    scenes: Any
    worlds: int
    config: DriveConfig
    pin: bool
    options: dict

    start_attempts = START_ATTEMPTS  # of a worker that dies while it builds: simulators sometimes take theirs down

    def __call__(self, env_index=0, num_envs=1):
        """Env number `env_index` of `num_envs`: its worlds follow those of the envs before it."""
        if not 0 <= env_index < num_envs:
            raise ValueError(f"env_index is {env_index}: expected 0 <= env_index < num_envs = {num_envs}")
        if self.pin:
            _pin(env_index)
        return GPUDrive(self.scenes, self.worlds, self.config, **self._place(env_index, num_envs), **self.options)

    def describe(self, env_index=0, num_envs=1):
        """What env `env_index` hosts first, for error messages."""
        chosen = {k: self.options[k] for k in ("resample_every", "sample_with_replacement", "seed")}
        files = hosted_files(self.scenes, self.worlds, **self._place(env_index, num_envs), **chosen)
        return "hosting " + ", ".join(Path(deck[0]).name for deck in files)

    def _place(self, env_index, num_envs):
        return dict(first_world=env_index * self.worlds, total_worlds=num_envs * self.worlds)


def creator(scenes, worlds=None, config=None, *, fast_observations=True, dense=False, episodes="staggered", resample_every=0,
            sample_with_replacement=False, seed=None, rows_per_world=None, puffer_flags=False, pin=True, **config_kwargs):
    """A creator of `GPUDrive` envs for `fastvec.make`: one simulator a worker, with one thread.

    Args:
        scenes: a scene file, a folder of them, or a list; see `fastvec.drive.scenes.find`.  They are shared out over the
            worlds of all envs as by `fastvec.drive.creator`.
        worlds: worlds of each simulator; None: `num_worlds` of the config.
        config: a `DriveConfig`, or GPUDrive's own `EnvConfig`.
        fast_observations, dense, episodes, resample_every, sample_with_replacement, seed, rows_per_world, puffer_flags:
            see `GPUDrive`.
        pin: pin a worker that may use several CPUs to one of them before its simulator is built: Madrona starts a
            thread for each CPU that it may use.
        **config_kwargs: fields of `DriveConfig`, over those of `config`.

    Raises:
        TypeError, ValueError: an argument is unknown or out of range.
        SceneError: there are no such scenes.
    """
    config = drive_config(config, **config_kwargs)
    worlds = config.num_worlds if worlds is None else worlds
    check_settings(config, worlds, episodes, fast_observations, rows_per_world)
    options = dict(fast_observations=fast_observations, dense=dense, episodes=episodes, resample_every=resample_every,
                   sample_with_replacement=sample_with_replacement, seed=seed, rows_per_world=rows_per_world, puffer_flags=puffer_flags)
    hosted_files(scenes, worlds, resample_every=resample_every, sample_with_replacement=sample_with_replacement, seed=seed)  # raises here
    return Creator(scenes, worlds, config, pin, options)


def _pin(env_index):
    """Leaves this worker one CPU, unless it has been left one already, or is the trainer itself."""
    if hasattr(os, "sched_setaffinity") and _is_worker():
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, [cpus[env_index % len(cpus)]])


def _is_worker():
    import multiprocessing

    return multiprocessing.parent_process() is not None
