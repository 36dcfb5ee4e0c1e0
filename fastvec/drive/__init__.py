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
    sample_scenes: bool
    rows_per_world: int | None
    auto_reset: bool
    render_mode: str | None = None

    def __call__(self, env_index=0, num_envs=1):
        """Env number `env_index` of `num_envs`: its worlds host the scenes after those of the envs before it."""
        if not 0 <= env_index < num_envs:
            raise ValueError(f"env_index is {env_index}: expected 0 <= env_index < num_envs = {num_envs}")
        return Drive(self.scenes, self.worlds, self.config, first_world=env_index * self.worlds, sample_scenes=self.sample_scenes,
                     rows_per_world=self.rows_per_world, auto_reset=self.auto_reset, render_mode=self.render_mode)


def creator(scenes="shipped", worlds=16, config=None, *, sample_scenes=False, rows_per_world=None, auto_reset=True, render_mode=None,
            **config_kwargs):
    """A creator of `Drive` envs for `fastvec.make`.

    Args:
        scenes: "shipped", a scene file, a folder of them, or a list.
        worlds: worlds of each env.
        config: a `DriveConfig`; its defaults where None.
        sample_scenes, rows_per_world, auto_reset, render_mode: see `Drive`.
        **config_kwargs: fields of `DriveConfig`, over those of `config`.

    Raises:
        TypeError, ValueError: an argument that is unknown or out of range.

    >>> creator(worlds=2, obs_radius=30.0)().num_worlds
    2
    """
    config = replace(DriveConfig() if config is None else config, **config_kwargs)
    return Creator(scenes, worlds, config, sample_scenes, rows_per_world, auto_reset, render_mode)
