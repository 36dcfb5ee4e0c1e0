"""A fastvec.Env around one GPUDrive simulator."""
from __future__ import annotations

import numpy as np

from fastvec.drive import scenes as scene_files
from fastvec.drive.dealing import check_count, deal
from fastvec.drive.env import count_controlled, spaces
from fastvec.env import Env
from fastvec.gpudrive import simulator
from fastvec.gpudrive.config import drive_config
from fastvec_c.drive.rules import Rules
from fastvec_c.gpudrive.rows import SimulatorRows

EPISODES = ("staggered", "synchronised")


def check_settings(config, worlds, episodes, fast_observations, rows_per_world):
    """Raises ValueError where the arguments of `GPUDrive` do not go together."""
    if episodes not in EPISODES:
        raise ValueError(f"episodes is {episodes!r}: allowed: {', '.join(map(repr, EPISODES))}")
    check_count("worlds", worlds, 1)
    if rows_per_world is not None:
        check_count("rows_per_world", rows_per_world, 1)
    if config.init_steps and worlds > 1 and episodes == "staggered":
        raise ValueError(f"init_steps is {config.init_steps}: GPUDrive replays logs in all worlds at once; give episodes='synchronised' or worlds=1")
    if fast_observations and config.bev_obs:
        raise ValueError("bev_obs is True: the bird's-eye view comes from GPUDrive's own observations; give fast_observations=False")
    if not fast_observations and config.observation == "packed":
        raise ValueError("observation is 'packed': that needs fast_observations=True")


class GPUDrive(Env):
    """The worlds of one GPUDrive simulator in CPU mode; a row for each agent that it lets us drive.

    Terminations are goals, and collisions where `collision_behavior` ends an agent's episode with them; truncations say
    that time ran out; a mask is 1 for rows whose agent was still in its episode before the step.  Finished worlds are
    reset in the same step, all of them by one call, since GPUDrive computes every world of a simulator anew for it; the
    observation is then the first one of the next episode.

    Args:
        scenes: see `fastvec.drive.scenes.find`; not used with `sim`.
        worlds: worlds of the simulator; None: `config.num_worlds`.
        config: a `DriveConfig` or an EnvConfig; GPUDrive and drive follow the same one.
        fast_observations: GPUDrive computes no observations; drive's kernels make the same numbers of the agents' state
            and the road segments, several times faster.  Not with `bev_obs`, which only GPUDrive draws here.
        episodes: "staggered": a world begins anew as soon as its agents are done.  "synchronised": when those of all
            worlds are, with one reset for all; rows are masked meanwhile.
        dense: rows follow each other without gaps, unused ones at the end; otherwise world w has the rows from
            w * rows_per_world on.
        rows_per_world: by default the largest number of controlled agents in the scenes that this env may host.
        resample_every: when every world has ended so many episodes, all take other scenes of their share, by set_maps().
            Staggered episodes that still run are cut off then: truncated.  0: only on `resample()`.
        sample_with_replacement, seed, first_world, total_worlds: as of `Drive`.
        puffer_flags: terminations and truncations as PufferGPUDrive has them: terminated with "done", whatever the
            reason; "truncated" are rows that have neither collided nor left the road nor reached their goal.
        sim: a SimManager that exists already, in place of one to build; then `files` are its scenes, one a world.

    Raises:
        SimulatorError: GPUDrive is not installed, or not as it should be.
        SceneError: a scene is missing or broken.
        ValueError: an argument is out of range.
    """

    def __init__(self, scenes=None, worlds=None, config=None, *, fast_observations=True, episodes="staggered", dense=False,
                 rows_per_world=None, resample_every=0, sample_with_replacement=False, seed=None, first_world=0, total_worlds=None,
                 puffer_flags=False, sim=None, files=None):
        self.config = drive_config(config)
        self.num_worlds = self.config.num_worlds if worlds is None else worlds
        check_settings(self.config, self.num_worlds, episodes, fast_observations, rows_per_world)
        self._decks = [[f] for f in files] if sim else hosted_files(
            scenes, self.num_worlds, first_world=first_world, total_worlds=total_worlds, resample_every=resample_every,
            sample_with_replacement=sample_with_replacement, seed=seed)
        self.episodes, self.resample_every = episodes, resample_every
        self._random = np.random.default_rng(seed) if sample_with_replacement else None
        self._turn = [0] * self.num_worlds if self._random is None else [int(self._random.integers(len(deck))) for deck in self._decks]
        self.observation_space, self.action_space = spaces(self.config)
        self._ended = [0] * self.num_worlds  # episodes since these scenes are hosted
        self.sim = sim or simulator.build(self.hosted(), self.config, fast_observations)
        arrays = simulator.exported(self.sim)
        rows = self._rows(rows_per_world, arrays)
        self.num_agents = rows * self.num_worlds
        self.kernels = SimulatorRows(arrays, Rules(self.config), rows, self.num_agents, dense, fast_observations, puffer_flags)
        simulator.check_addresses(arrays, simulator.exported(self.sim))
        self.kernels.place(self.hosted(), self.config)

    def _rows(self, rows_per_world, arrays):
        """Rows of a world that suffice for every scene that may come."""
        if rows_per_world is not None:
            return rows_per_world
        now = int((arrays["controlled_state"].reshape(self.num_worlds, 64) == 1).sum(1).max())
        others = {file for deck in self._decks for file in deck if len(deck) > 1}
        return max([now, 1, *(count_controlled(file, self.config) for file in others)])

    def hosted(self):
        """The scene files that the worlds host now."""
        return [deck[turn] for deck, turn in zip(self._decks, self._turn)]

    # ---- what workers call -------------------------------------------------------------------------------------------

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.kernels.seed(seed)
        self._begin(range(self.num_worlds))
        self.kernels.observe(self.observations)

    def step(self, actions):
        self.kernels.act(actions)
        self.sim.step()
        over = self.kernels.judge(self.rewards, self.terminations, self.truncations, self.masks)
        if self.episodes == "synchronised" and len(over) < self.num_worlds:
            over = []
        told = self._end(over) if over else None
        self.kernels.observe(self.observations)
        return told

    def _end(self, over):
        """Counts the episodes of the worlds that are over, and begins new ones."""
        episodes = [dict(world=w, scene=self.hosted()[w], **self.kernels.statistics(w)) for w in over]
        for w in over:
            self._ended[w] += 1
        masks = np.empty(self.num_agents, bool)  # those of this step are told by now
        if self.resample_every and min(self._ended) >= self.resample_every:
            self.kernels.truncate(self.truncations)
            self._swap(self._next())
            self._begin(range(self.num_worlds), masks)
        else:
            self._begin(over, masks)
        return {"episodes": episodes}

    def _begin(self, worlds, masks=None):
        self.sim.reset(list(worlds))
        for t in range(self.config.init_steps):
            self.kernels.act_as_logged(t)
            self.sim.step()
        self.kernels.begin(list(worlds), self.masks if masks is None else masks)

    # ---- scenes ------------------------------------------------------------------------------------------------------

    def resample(self):
        """Has all worlds take other scenes of their share, and begins episodes in them.

        Rows show them from the next step on; its actions are the first ones there.

        Returns:
            the first observations of all rows, for the policy to act on.
        """
        self._swap(self._next())
        return self._first_observations()

    def set_scenes(self, scenes):
        """Swaps the scenes, by set_maps(): world w hosts the w-th from now on.  Otherwise like `resample`.

        Args:
            scenes: as of `GPUDrive`; as many files as there are worlds.

        Raises:
            SceneError: a scene is missing.
            ValueError: their number is wrong, or one has more controlled agents than there are rows.
        """
        files = scene_files.find(scenes)
        if len(files) != self.num_worlds:
            raise ValueError(f"scenes has {len(files)} files: expected one for each of the {self.num_worlds} worlds")
        decks, turn = self._decks, self._turn
        self._decks, self._turn = [[file] for file in files], [0] * self.num_worlds
        try:
            self._swap(self._turn)
        except ValueError:
            self._decks = decks
            self._swap(turn)
            raise
        return self._first_observations()

    def _next(self):
        if self._random is None:
            return [(turn + 1) % len(deck) for deck, turn in zip(self._decks, self._turn)]
        return [int(self._random.integers(len(deck))) for deck in self._decks]

    def _swap(self, turn):
        """Hosts the decks' scenes number `turn`."""
        self._turn = list(turn)
        self.sim.set_maps(self.hosted())
        simulator.check_addresses(self.kernels.arrays, simulator.exported(self.sim))
        self._ended = [0] * self.num_worlds
        self.kernels.place(self.hosted(), self.config)

    def _first_observations(self):
        self._begin(range(self.num_worlds), np.empty(self.num_agents, bool))
        observations = np.zeros((self.num_agents, *self.observation_space.shape), self.observation_space.dtype)
        self.kernels.observe(observations)
        return observations

    def close(self):
        """Leaves the simulator alone: to delete one after a step may deadlock; it goes with the process."""


def hosted_files(scenes, worlds, *, first_world=0, total_worlds=None, resample_every=0, sample_with_replacement=False, seed=None):
    """For each world the scene files that it hosts in turn; see `fastvec.drive.Drive`."""
    return deal(scene_files.find(scenes), worlds, first_world, total_worlds, resample_every, sample_with_replacement, seed)
