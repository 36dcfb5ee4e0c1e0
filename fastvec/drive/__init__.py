"""fastvec's own driving world: GPUDrive's rules, compiled, on the CPU.

>>> import fastvec, fastvec.drive
>>> env = fastvec.make(fastvec.drive.creator(worlds=8), num_workers=2)  # doctest: +SKIP
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fastvec.drive.config import DriveConfig
from fastvec.drive.env import Drive
from fastvec.drive.scenes import SceneError

__all__ = ["Creator", "Drive", "DriveConfig", "SceneError", "creator"]


@dataclass(frozen=True)
class Creator:
    """Builds `Drive` envs; picklable.  Made by `creator`."""

    scenes: Any
    worlds: int
    config: DriveConfig
    options: dict

    def __call__(self, env_index=0, num_envs=1):
        """Env number `env_index` of `num_envs`: its worlds follow those of the envs before it."""
        if not 0 <= env_index < num_envs:
            raise ValueError(f"env_index is {env_index}: expected 0 <= env_index < num_envs = {num_envs}")
        return Drive(self.scenes, self.worlds, self.config, first_world=env_index * self.worlds, total_worlds=num_envs * self.worlds, **self.options)


def creator(scenes="shipped", worlds=None, config=None, *, resample_every=0, sample_with_replacement=False, seed=None, rows_per_world=None,
            auto_reset=True, render_mode=None, **config_kwargs):
    """A creator of `Drive` envs for `fastvec.make`.

    The scenes are shared out over the worlds of all envs, the same way for any number of workers; see `Drive`.

    Args:
        scenes: "shipped", a scene file, a folder of them, or a list; see `fastvec.drive.scenes.find`.
        worlds: worlds of each env; None: `num_worlds` of the config, which is 1 by default.
        config: a `DriveConfig`; its defaults where None.
        resample_every, sample_with_replacement, seed, rows_per_world, auto_reset, render_mode: see `Drive`.
        **config_kwargs: fields of `DriveConfig`, over those of `config`.

    Raises:
        TypeError, ValueError: an argument that is unknown or out of range.

    >>> creator(worlds=2, obs_radius=30.0)().num_worlds
    2
    """
    config = replace(DriveConfig() if config is None else config, **config_kwargs)
    options = dict(resample_every=resample_every, sample_with_replacement=sample_with_replacement, seed=seed, rows_per_world=rows_per_world,
                   auto_reset=auto_reset, render_mode=render_mode)
    return Creator(scenes, config.num_worlds if worlds is None else worlds, config, options)
