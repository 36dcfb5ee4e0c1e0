"""GPUDrive's EnvConfig as a DriveConfig."""
from __future__ import annotations

from dataclasses import fields, replace

from fastvec.drive.config import DriveConfig

NAMES = [field.name for field in fields(DriveConfig)]


def drive_config(config=None, **over) -> DriveConfig:
    """A `DriveConfig` with the settings of another one, or of an EnvConfig, and those of `over`.

    Raises:
        TypeError, ValueError: a setting that is unknown or out of range; an EnvConfig's `use_vbd`.
    """
    if config is None:
        return DriveConfig(**over)
    if isinstance(config, DriveConfig):
        return replace(config, **over)
    missing = [name for name in ("dynamics_model", "collision_behavior", "obs_radius") if not hasattr(config, name)]
    if missing:
        raise TypeError(f"config is a {type(config).__name__} without {', '.join(missing)}: expected a DriveConfig or GPUDrive's EnvConfig")
    said = {name: getattr(config, name) for name in NAMES if hasattr(config, name)}
    if said.get("lidar_obs") or said.get("disable_classic_obs"):  # GPUDrive has switched them off by now, or will
        said.update(disable_classic_obs=True)
    return DriveConfig(**{**said, **over})
