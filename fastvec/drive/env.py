"""The driving env: many worlds, stepped by fastvec's workers without Python."""
from __future__ import annotations

import functools
import itertools
import os
import warnings

import numpy as np

from fastvec.drive import raw, scenes as scene_files
from fastvec.drive.config import DriveConfig
from fastvec.spaces import Spec
from fastvec_c.drive.env import Worlds
from fastvec_c.drive.scene import Scene

ROW = 6 + 63 * 6 + 200 * 13


@functools.lru_cache(maxsize=None)
def _grid(dynamics_model):
    """GPUDrive's discrete actions, float32 (n, floats of an action); the last factor runs fastest."""
    if dynamics_model == "delta_local":
        axes = [np.linspace(-2, 2, 20), np.linspace(-2, 2, 20), np.linspace(-3.14, 3.14, 20)]
    else:
        axes = [np.linspace(-4, 4, 7), np.linspace(-np.pi, np.pi, 13), np.zeros(1)]  # acceleration, steering, head angle
    return np.array(list(itertools.product(*(np.round(a, 3) for a in axes))), np.float32)


# Worlds and envs of a process share scenes; what is kept is a few hundred kilobytes each.
@functools.lru_cache(maxsize=None)
def _scene(path, modified, config):
    try:
        return Scene(path, scene_files.read(path), config)
    except scene_files.SceneError:
        raise
    except ValueError as error:
        raise scene_files.SceneError(str(error)) from None


class Drive:
    """Driving worlds behind fastvec's compiled-env ABI.

    Rows are the controlled agents of world 0, then of world 1, and so on; of one world in slot order.

    Args:
        scenes: see `fastvec.drive.scenes.find`.
        worlds: how many worlds.
        config: a `DriveConfig`.
        first_world: which world of all this env's first one is; without sampling, world w of all hosts scene w mod the
            number of scenes, for ever.
        sample_scenes: draw a scene at random, from the seed of `reset`, whenever a world begins an episode.
        rows_per_world: rows of each world; by default its scene's number of controlled agents, or with sample_scenes
            the largest such number.  Rows too many are masked 0 and zero.
        auto_reset: begin a new episode in every world whose controlled agents are all done.  Without, worlds just go on.
        render_mode: None, or "rgb_array" for pictures from `render`; these need Pillow.

    Attributes:
        observation_space: `Spec` of one row, (2984,) float32.
        action_space: `Spec` of one action: an int64 index, or floats if `config.action_type` is "continuous".
        num_agents: rows.

    Raises:
        SceneError: a scene is missing, broken, or has nobody to control.
        ValueError: an argument is out of range.
        ImportError: pictures are wanted and Pillow is missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, scenes="shipped", worlds=16, config=None, *, first_world=0, sample_scenes=False, rows_per_world=None, auto_reset=True,
                 render_mode=None):
        _check_count("worlds", worlds, 1)
        _check_count("first_world", first_world, 0)
        self.config = DriveConfig() if config is None else config
        self.render_mode, self._viewer = render_mode, _viewer(render_mode)
        files = scene_files.find(scenes)
        hosted = [(first_world + w) % len(files) for w in range(worlds)]
        needed = range(len(files)) if sample_scenes else sorted(set(hosted))
        loaded = [_scene(files[i], _modified(files[i]), self.config) for i in needed]
        if rows_per_world is not None:
            _check_count("rows_per_world", rows_per_world, 1)
            largest = max(loaded, key=lambda scene: scene.num_controlled)
            if rows_per_world < largest.num_controlled:
                raise ValueError(f"rows_per_world is {rows_per_world}, but {largest.name} has {largest.num_controlled} controlled agents: "
                                 f"give at least {largest.num_controlled}, or lower max_controlled_agents")
        place = {scene: k for k, scene in enumerate(needed)}
        discrete = self.config.action_type == "discrete"
        floats = 10 if self.config.dynamics_model == "state" else 3
        actions = _grid(self.config.dynamics_model) if discrete else None
        self._worlds = Worlds(loaded, [place[i] for i in hosted], self.config, actions, floats, rows_per_world, sample_scenes, auto_reset)
        self.observation_space = Spec((ROW,), "float32")
        self.action_space = Spec((), "int64", 0, len(actions) - 1) if discrete else Spec((floats,), "float32")
        self.num_agents = self._worlds.num_agents
        self.num_worlds = worlds

    def __fastvec_env__(self):
        """The PyCapsule that fastvec's workers step; valid while this object lives."""
        return self._worlds.capsule()

    def take_infos(self):
        """Statistics of the episodes that ended since the last call.

        Returns:
            {"episodes": [...]}, oldest first, or {} if there are none.  Each is a dict of world, scene (path),
            num_agents, length (steps), mean_return, and goal_rate, collision_rate (with agents), off_road_rate and
            truncation_rate, all over the controlled agents.  At most the last 1024, or 4 a world, are kept.
        """
        episodes = self._worlds.take_episodes()
        return {"episodes": episodes} if episodes else {}

    def raw(self, world, names=None):
        """One world now, in the layout of GPUDrive's tensors; computed for the call, so not for every step.

        Args:
            world: its index in this env.
            names: which arrays; all of them by default.

        Returns:
            dict of arrays over the world's N agents and R road segments: self_observation float32 (N, 8),
            absolute_self_observation float32 (N, 14), partner_observations float32 (N, 63, 9), agent_roadmap float32
            (N, 200, 9), map_observation float32 (R, 9), done int32 (N,), info int32 (N, 5), reward float32 (N,),
            controlled_state int32 (N,), steps_remaining int32 (N,), shape int32 (2,), world_means float32 (3,).

        Raises:
            IndexError: there is no such world.
            ValueError: there is no such array.
        """
        return raw.tensors(self._worlds, world, self.config, names)

    def render(self, world=0, agent=None, *, width=640, height=640):
        """One world now, in colours; trails go back over the states of this episode that were rendered.

        Args:
            world: its index in this env.
            agent: None for the world seen from above, or the index of a row of this world, for what that agent observes.
            width, height: pixels, at least 160.

        Returns:
            uint8 [height, width, 3], RGB; with render_mode None nothing but a warning.

        Raises:
            IndexError: there is no such world or agent.
            ValueError: a size is out of range.
        """
        if self._viewer is None:
            warnings.warn("render() draws nothing, as render_mode is None: make the env with render_mode='rgb_array'", stacklevel=2)
            return None
        return self._viewer.frame(self, world, agent, self._worlds.scene_of(world).name, width, height)

    def close(self):
        """Nothing to close: memory goes with the object."""


def _viewer(render_mode):
    """What draws; the libraries it needs are imported only where pictures are wanted."""
    if render_mode is None:
        return None
    if render_mode != "rgb_array":
        raise ValueError(f"render_mode is {render_mode!r}: expected None or 'rgb_array'")
    from fastvec.drive.render import Viewer

    return Viewer()


def _modified(path):
    """Keeps a scene that was rewritten from being taken out of the cache."""
    return os.stat(path).st_mtime_ns


def _check_count(name, value, least):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least {least}")
