"""The driving env: many worlds, stepped by fastvec's workers without Python."""
from __future__ import annotations

import functools
import warnings

from fastvec.drive import scenes as scene_files
from fastvec.drive.config import DriveConfig
from fastvec.drive.dealing import check_count, deal
from fastvec.drive.tensors import Sim, world_arrays
from fastvec.spaces import Spec
from fastvec_c.drive.env import Worlds
from fastvec_c.drive.scene import Scene


# Worlds and envs of a process share scenes; what is kept is a few hundred kilobytes each.
@functools.lru_cache(maxsize=None)
def _scene(entry, stamp, config, deleted=frozenset()):
    try:
        return Scene(entry, scene_files.read(entry), config, deleted)
    except scene_files.SceneError:
        raise
    except ValueError as error:
        raise scene_files.SceneError(str(error)) from None


def forget_scenes():
    """Lets go of scenes that no env uses any more; for who goes through many, one after the other."""
    _scene.cache_clear()


class Drive:
    """Driving worlds behind fastvec's compiled-env ABI.

    Rows are the controlled agents of world 0, then of world 1, and so on; of one world in slot order.

    All worlds of all envs share the scenes: world g of G hosts scene g, counted round, and keeps it.  With
    `resample_every` it goes on to the scenes g + G, g + 2 G and so on, so that no two worlds ever host the same one (as
    long as there are as many scenes as worlds), and begins again when it has been through them.

    Args:
        scenes: see `fastvec.drive.scenes.find`.
        worlds: how many worlds; None: `config.num_worlds`.
        config: a `DriveConfig`.
        first_world: g of this env's first world.
        total_worlds: G; by default there are no more worlds than those up to this env's last.
        resample_every: episodes after which a world takes another scene; 0: never.
        sample_with_replacement: take any scene at random, from the seed of `reset`, also for the first episode.
        seed: shuffles the scenes before they are shared out; None: file order.
        rows_per_world: rows of each world; by default the largest number of controlled agents in the scenes that it may
            host.  Rows too many are masked 0 and zero.
        auto_reset: begin a new episode in every world whose controlled agents are all done.  Without, worlds just go on.
        render_mode: None, or "rgb_array" for pictures from `render`; these need Pillow.

    Attributes:
        observation_space: `Spec` of one row: (2984,) float32 by default; see `DriveConfig` and
            `fastvec.drive.observation` for the others.
        action_space: `Spec` of one action: an int64 index, or floats if `config.action_type` is "continuous":
            acceleration, steering, tilt of the head (classic, bicycle); dx, dy, dyaw (delta_local); x, y, z, yaw, vx,
            vy, vz, wx, wy, wz (state).
        num_agents: rows.
        num_worlds: worlds.
        sim: GPUDrive's tensors of the worlds, as a `fastvec.drive.tensors.Sim`.

    Raises:
        SceneError: a scene is missing, broken, or has nobody to control.
        ValueError: an argument is out of range.
        ImportError: pictures are wanted and Pillow is missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, scenes="shipped", worlds=None, config=None, *, first_world=0, total_worlds=None, resample_every=0,
                 sample_with_replacement=False, seed=None, rows_per_world=None, auto_reset=True, render_mode=None):
        self.config = DriveConfig() if config is None else config
        self.render_mode, self._viewer = render_mode, _viewer(render_mode)
        worlds = self.config.num_worlds if worlds is None else worlds
        decks = deal(scene_files.find(scenes), worlds, first_world, total_worlds, resample_every, sample_with_replacement, seed)
        if rows_per_world is not None:
            check_count("rows_per_world", rows_per_world, 1)
        decks = [[self._load(file) for file in deck] for deck in decks]
        most = max((scene for deck in decks for scene in deck), key=lambda scene: scene.num_controlled)
        if rows_per_world is not None and rows_per_world < most.num_controlled:
            raise ValueError(f"rows_per_world is {rows_per_world}, but {most.name} has {most.num_controlled} controlled agents: "
                             f"give at least {most.num_controlled}, or lower max_controlled_agents")
        self._worlds = Worlds(decks, self.config, rows_per_world, resample_every, sample_with_replacement, auto_reset)
        self.observation_space, self.action_space = spaces(self.config)
        self.num_agents = self._worlds.num_agents
        self.num_worlds = worlds
        self.sim = Sim(self._worlds)

    def _load(self, file, deleted=frozenset()):
        return _scene(file, scene_files.stamp(file), self.config, deleted)  # the stamp: one that was rewritten is read again

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
        """One world now, in the layout of GPUDrive's tensors, without their padding; computed for the call.

        Args:
            world: its index in this env.
            names: which arrays; by default all but lidar and bev_observation, which take long.

        Returns:
            dict of arrays over the world's N agents and R road segments; what they hold says `sim`.  float32: action
            (N, 10), reward (N,), self_observation (N, 8), absolute_self_observation (N, 14), partner_observations
            (N, 63, 9), agent_roadmap (N, 200, 9), map_observation (R, 9), expert_trajectory (N, 1456), world_means (3,),
            lidar (N, 3, 50, 4), bev_observation (N, 200, 200).  int32: done (N,), info (N, 5), controlled_state (N,),
            response_type (N,), steps_remaining (N,), metadata (N, 4), shape (2,), deleted_agents (ids).  str: map_name,
            scenario_id, in full.

        Raises:
            IndexError: there is no such world.
            ValueError: there is no such array.
        """
        return world_arrays(self._worlds, world, names)

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

    def reset_worlds(self, worlds=None):
        """Begins the episodes of some worlds again, each in the scene that it hosts; in the middle of an episode, too.

        Their rows show the new episode from the next step on; the actions of that step are the first ones in it.

        Args:
            worlds: indices; None: all.

        Returns:
            {world: its first observations, (rows of the world, *observation_space.shape)}, for the policy to act on.

        Raises:
            IndexError: there is no such world.
        """
        worlds = self._checked(worlds)
        for world in worlds:
            self._worlds.restart(world)
        return self._observe(worlds)

    def resample(self, worlds=None):
        """Has worlds take another scene of their share, and begins episodes in them; otherwise like `reset_worlds`."""
        worlds = self._checked(worlds)
        for world in worlds:
            self._worlds.draw(world)
        return self._observe(worlds)

    def set_scenes(self, scenes):
        """Swaps the scenes: world w hosts the w-th from now on, and begins an episode; GPUDrive's `set_maps`.

        Args:
            scenes: as of `Drive`; as many files as there are worlds.

        Returns:
            See `reset_worlds`.

        Raises:
            SceneError: a scene is missing, broken, or has nobody to control.
            ValueError: their number is wrong, or one has more controlled agents than its world has rows (see
                `rows_per_world`).  The worlds go on as they were.
        """
        files = scene_files.find(scenes)
        if len(files) != self.num_worlds:
            raise ValueError(f"scenes has {len(files)} files: expected one for each of the {self.num_worlds} worlds")
        self._worlds.host({w: [self._load(file)] for w, file in enumerate(files)})
        return self._observe(range(self.num_worlds))

    def delete_agents(self, ids):
        """Deletes agents from the scenes that worlds host, and begins episodes there; GPUDrive's `deleteAgents`.

        They stay deleted until the world takes another scene.  Who was too many before may move up.

        Args:
            ids: {world: [agent ids]}, ids as in the scene file.

        Returns:
            See `reset_worlds`; also of the worlds that are not named, which begin anew as well, as in GPUDrive.

        Raises:
            IndexError: there is no such world.
            SceneError: nobody would be left to control.
            ValueError: `ids` is no such dict, or more agents would be controlled than the world has rows.
        """
        if not isinstance(ids, dict):
            raise ValueError(f"ids is {ids!r}: expected a dict of a world's index to the list of ids to delete in it")
        decks = {}
        for w in self._checked(list(ids)):
            scene, deck = self._worlds.scene_of(w), self._worlds.decks[w]
            place = deck.index(scene)
            decks[w] = [self._load(scene.name, scene.deleted | frozenset(map(int, ids[w]))), *deck[place + 1:], *deck[:place]]
        self._worlds.host(decks)
        return self.reset_worlds()

    def get_expert_actions(self):
        """What the logs say, as of GPUDrive's function of this name; W worlds, 64 slots, 91 points.

        Returns:
            (actions, positions, velocities, yaws): float32 (W, 64, 91, 3, or 10 for state dynamics), (W, 64, 91, 2),
            (W, 64, 91, 2), (W, 64, 91, 1).  Actions are within the limits that GPUDrive sets there: 6 m/s^2 and 0.3
            (bicycle), 6 m and pi (delta_local); for classic dynamics, which have no inverse, zeros.
        """
        return self._worlds.expert_actions()

    def _checked(self, worlds):
        worlds = range(self.num_worlds) if worlds is None else worlds
        for world in worlds:
            if not 0 <= world < self.num_worlds:
                raise IndexError(f"worlds holds {world}: expected 0 <= world < {self.num_worlds}")
        return worlds

    def _observe(self, worlds):
        dtype = self.observation_space.dtype
        return {world: self._worlds.observe(world).view(dtype) for world in worlds}

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


def spaces(config):
    """(`Spec` of an observation row, `Spec` of an action) under a `DriveConfig`."""
    nbytes = config.row_nbytes()
    observation = Spec((nbytes,), "uint8") if config.observation == "packed" else Spec((nbytes // 4,), "float32")
    if config.action_type == "discrete":
        return observation, Spec((), "int64", 0, len(config.action_grid()) - 1)
    return observation, Spec((config.action_floats(),), "float32")


def count_controlled(file, config):
    """How many agents a `DriveConfig` lets control in a scene.  Raises SceneError: the scene is broken, or it is none."""
    return _scene(file, scene_files.stamp(file), config).num_controlled
