"""GPUDrive's own objects, as they are: GPUDriveTorchEnv, PufferGPUDrive, or a bare SimManager."""
from __future__ import annotations

from typing import Any

from fastvec.adapters.rows import adapt_rows

EXPORTS = ("self_observation_tensor", "controlled_state_tensor", "set_maps")


def is_gpudrive(env: Any) -> bool:
    """Is it one of them?  By what they have, so that nothing needs to be imported."""
    return _kind(env) is not None


def _kind(env):
    if _is_simulator(env):
        return "simulator"
    if _is_simulator(getattr(env, "sim", None)):
        return "torch"
    if _is_simulator(getattr(getattr(env, "env", None), "sim", None)):
        return "puffer"
    return None


def _is_simulator(thing):
    return all(hasattr(thing, name) for name in EXPORTS)


def adapt_gpudrive(env: Any):
    """Wraps its simulator in a `fastvec.gpudrive.GPUDrive` that follows the object's own config, and holds the object.

    The worlds, rewards and observations are those that the object itself would give, in fixed rows with masks.  Of a bare
    SimManager the settings are not known: it is taken to follow GPUDrive's defaults; for another one return
    `fastvec.gpudrive.GPUDrive(sim=..., files=..., config=...)` from the creator.

    Raises:
        SimulatorError: what it exports is not as expected.
    """
    from fastvec.gpudrive import GPUDrive

    kind = _kind(env)
    if kind == "simulator":
        sim, config = env, None
        files = _names(sim)
    else:
        inner = env if kind == "torch" else env.env
        sim, files = inner.sim, list(inner.data_batch)
        config = _config(inner, env if kind == "puffer" else None)
    rows = GPUDrive(config=config, worlds=len(files), sim=sim, files=files, fast_observations=False)
    rows.around = env  # views on the simulator must not outlive it
    return adapt_rows(rows)


def _config(torch_env, puffer):
    from fastvec.gpudrive.config import drive_config

    over = dict(max_controlled_agents=torch_env.max_cont_agents, action_type="discrete" if hasattr(torch_env.action_space, "n") else "continuous")
    if puffer is not None:
        weights = {name: getattr(puffer, name) for name in ("collision_weight", "goal_achieved_weight", "off_road_weight")}
    else:  # what its get_rewards() pays; it does not read its config's
        weights = dict(collision_weight=-0.5, goal_achieved_weight=1.0, off_road_weight=-0.5)
    return drive_config(torch_env.config, **over, **weights)


def _names(sim):
    """The names of a simulator's scenes, one for each world."""
    return ["".join(chr(c) for c in row if c) for row in sim.map_name_tensor().to_torch().tolist()]
