"""How the agents of scenes fare, each over one whole episode, with whoever drives them: a policy, their logs, or nobody.

The measures are those of `Drive.take_infos`, agent by agent: did it reach its goal, collide with another agent, hit a road edge or a
stop sign, at any time before it was done?  Under collision_behavior "remove" and "stop" a collision ends an agent's episode, so that
it cannot reach its goal afterwards; under "ignore" it may do both.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import fastvec
from fastvec.drive import scenes as scene_files
from fastvec.drive.env import Drive, forget_scenes

KINDS = {7: "vehicle", 8: "pedestrian", 9: "cyclist"}  # entity types of agents
HIT_ROAD, HIT_AGENT, REACHED, KIND = 0, slice(1, 3), 3, 4  # columns of info
AT_ONCE = 32  # worlds in memory


@dataclass(frozen=True)
class Outcomes:
    """How the driven agents of one scene fared.

    Attributes:
        scene: its entry.
        kinds: names of their types, [n].
        goal, collision, off_road: bool [n].
    """

    scene: str
    kinds: np.ndarray
    goal: np.ndarray
    collision: np.ndarray
    off_road: np.ndarray


def evaluate(policy, scenes, config, seed=0):
    """Plays an episode of each scene, the policy driving all agents that may be driven.

    Args:
        policy: a callable: observations, as `config` says, [n, ...] to actions [n, ...]; rows of agents that are done come along.
            Where it has a method `reset(seed)`, that is called before each first step.
        scenes: see `fastvec.drive.scenes.find`.
        config: a `DriveConfig`.
        seed: of the envs and of the policy.

    Returns:
        a list of Outcomes, one for each scene.

    Raises:
        SceneError, ValueError: see `Drive`.
    """
    def actions_of(drive):
        if hasattr(policy, "reset"):
            policy.reset(seed)
        return lambda step, observations: policy(observations)

    return _evaluate(actions_of, scenes, config, seed)


def replay_logs(scenes, config):
    """Like `evaluate`, with every agent on its logged positions: state dynamics, which follow `Drive.get_expert_actions`."""
    def actions_of(drive):
        expert, driven = drive.get_expert_actions()[0], _driven(drive)
        actions = np.concatenate([expert[world, rows] for world, rows in enumerate(driven)])
        return lambda step, observations: actions[:, step]

    return _evaluate(actions_of, scenes, replace(config, dynamics_model="state", action_type="continuous"), 0)


def keep_velocity(scenes, config):
    """Like `evaluate`, with every agent going straight on at the speed that it has at first: classic dynamics, zeros for actions."""
    def actions_of(drive):
        return lambda step, observations: np.zeros((len(observations), 3), np.float32)

    return _evaluate(actions_of, scenes, replace(config, dynamics_model="classic", action_type="continuous"), 0)


def _evaluate(actions_of, scenes, config, seed):
    files, outcomes = scene_files.find(scenes), []
    for first in range(0, len(files), AT_ONCE):
        outcomes += _play(actions_of, files[first:first + AT_ONCE], config, seed)
        if len(files) > AT_ONCE:
            forget_scenes()
    return outcomes


def _driven(drive):
    """Slots of the driven agents, of each world."""
    return [np.flatnonzero(drive.raw(world, ("controlled_state",))["controlled_state"] > 0) for world in range(drive.num_worlds)]


def _play(actions_of, files, config, seed):
    drive = Drive(files, len(files), config, auto_reset=False)
    driven = _driven(drive)
    with fastvec.make(lambda: drive, 0, seed=seed) as vec:
        observations, _ = vec.reset()
        actions = actions_of(drive)
        goal, collision, off_road = np.zeros((3, vec.num_rows), bool)
        alive = vec.masks.copy()
        for step in range(config.init_steps, config.episode_len):
            if not alive.any():
                break
            vec.step(actions(step, observations))
            info = _infos(drive, driven)
            goal |= vec.masks & (info[:, REACHED] > 0)
            collision |= vec.masks & (info[:, HIT_AGENT] > 0).any(1)
            off_road |= vec.masks & (info[:, HIT_ROAD] > 0)
            observations, alive = vec.observations, vec.masks & ~vec.terminations & ~vec.truncations
    kinds = np.array([KINDS.get(kind, "other") for kind in _infos(drive, driven)[:, KIND]])
    parts = np.cumsum([len(slots) for slots in driven])[:-1]
    split = zip(files, *(np.split(array, parts) for array in (kinds, goal, collision, off_road)))
    return [Outcomes(*one) for one in split]


def _infos(drive, driven):
    return np.concatenate([drive.raw(world, ("info",))["info"][slots] for world, slots in enumerate(driven)])


def rates(outcomes):
    """Shares of agents, of each scene and type and of all: a list of dicts of scene (name, "all" in the last ones), type, agents, goal,
    collision, off_road and failed: collision or off_road."""
    found = []
    for one in outcomes:
        found += [_rates(scene_files.name_of(one.scene), kind, [one]) for kind in _kinds([one])]
    if len(outcomes) > 1:
        found += [_rates("all", kind, outcomes) for kind in _kinds(outcomes)]
    if len(_kinds(outcomes)) > 1:
        found.append(_rates("all", "all", outcomes))
    return found


def _kinds(outcomes):
    present = {kind for one in outcomes for kind in one.kinds.tolist()}
    return [kind for kind in (*KINDS.values(), "other") if kind in present]


def _rates(scene, kind, outcomes):
    chosen = np.concatenate([np.full(len(one.kinds), True) if kind == "all" else one.kinds == kind for one in outcomes])
    goal, collision, off_road = (np.concatenate([getattr(one, name) for one in outcomes])[chosen] for name in ("goal", "collision", "off_road"))
    shares = {"goal": goal, "collision": collision, "off_road": off_road, "failed": collision | off_road}
    return {"scene": scene, "type": kind, "agents": int(chosen.sum()), **{name: float(flags.mean()) for name, flags in shares.items()}}
