"""Many worlds as one compiled env: everything between reset() and take_infos() runs without Python."""
import numpy as np

from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from fastvec_c.drive.layout cimport *
from fastvec_c.drive.rules cimport Rules
from fastvec_c.drive.scene cimport Scene
from fastvec_c.env cimport FASTVEC_ENV_ABI, FASTVEC_ENV_CAPSULE, FASTVEC_ERROR, FASTVEC_INFO, FASTVEC_OK, fastvec_env, fastvec_rows
from fastvec_c.drive.world cimport world_observe, world_reset, world_rows, world_step

cdef extern from "drive/dynamics.h" nogil:
    void drive_expert_action(const drive_scene *scene, int32_t i, int32_t t, int32_t dynamics, float *out)

cdef extern from "drive/random.h" nogil:
    uint64_t drive_random(uint64_t *state)

FEWEST_EPISODES_KEPT = 1024


cdef void seed_worlds(drive_env *env, uint64_t seed) noexcept nogil:
    # One stream for each world, so that what a world draws does not depend on when the others finish.
    cdef int32_t w
    for w in range(env.num_worlds):
        env.random[w] = drive_random(&seed)
        env.turn[w] = env.episodes_here[w] = 0
        env.scene_of[w] = env.deck[env.deck_first[w]]
        if env.with_replacement:
            draw_scene(env, w)


cdef void draw_scene(drive_env *env, int32_t w) noexcept nogil:
    cdef int32_t n = env.deck_first[w + 1] - env.deck_first[w]
    if env.with_replacement:
        env.turn[w] = <int32_t>(drive_random(&env.random[w]) % <uint64_t>n)
    else:
        env.turn[w] = (env.turn[w] + 1) % n
    env.scene_of[w] = env.deck[env.deck_first[w] + env.turn[w]]
    env.episodes_here[w] = 0


cdef void restart(drive_env *env, int32_t w) noexcept nogil:
    world_reset(&env.worlds[w], env.scenes[env.scene_of[w]], &env.rules, &env.random[w])


cdef void begin_episode(drive_env *env, int32_t w) noexcept nogil:
    if env.resample_every and env.episodes_here[w] >= env.resample_every:
        draw_scene(env, w)
    env.episodes_here[w] += 1
    restart(env, w)


cdef void observe(const drive_env *env, int32_t w, char *out) noexcept nogil:
    # out: of the world's first row.
    cdef int32_t used = env.worlds[w].scene.num_controlled, have = env.first_row[w + 1] - env.first_row[w]
    world_observe(&env.worlds[w], &env.rules, out)
    memset(out + <size_t>used * env.rules.row.nbytes, 0, <size_t>(have - used) * env.rules.row.nbytes)


cdef char *rows_of(const drive_env *env, int32_t w, const fastvec_rows *rows) noexcept nogil:
    return <char *>rows.observations + <size_t>env.first_row[w] * env.rules.row.nbytes


cdef int env_reset(void *self, const fastvec_rows *rows, const uint64_t *seed) noexcept nogil:
    cdef drive_env *env = <drive_env *>self
    cdef int32_t w, first, used
    if seed != NULL:
        seed_worlds(env, seed[0])
    for w in range(env.num_worlds):
        begin_episode(env, w)
        observe(env, w, rows_of(env, w, rows))
        first, used = env.first_row[w], env.worlds[w].scene.num_controlled
        memcpy(rows.masks + first, env.worlds[w].alive, used)
        memset(rows.masks + first + used, 0, env.first_row[w + 1] - first - used)
    return FASTVEC_OK


cdef void record_episode(drive_env *env, int32_t w) noexcept nogil:
    cdef drive_world *world = &env.worlds[w]
    cdef drive_episode *episode = &env.episodes[env.episodes_written % env.num_episodes]
    cdef int32_t row, i, n = world.scene.num_controlled, goals = 0, hits = 0, off = 0, late = 0
    cdef float total = 0
    for row in range(n):
        i = world.scene.controlled[row]
        goals += world.reached[i]
        hits += world.ever_hit_agent[row]
        off += world.ever_hit_road[row]
        late += not world.reached[i] and not (env.rules.collision != DRIVE_IGNORE and world.collided[i])
        total += world.episode_return[row]
    episode.world, episode.scene, episode.length, episode.num_agents = w, env.scene_of[w], world.step - env.rules.init_steps, n
    episode.goal_rate, episode.collision_rate = <float>goals / n, <float>hits / n
    episode.off_road_rate, episode.truncation_rate = <float>off / n, <float>late / n
    episode.mean_return = total / n
    env.episodes_written += 1
    env.episodes_read = max(env.episodes_read, env.episodes_written - env.num_episodes)


cdef int env_step(void *self, const fastvec_rows *rows) noexcept nogil:
    cdef drive_env *env = <drive_env *>self
    cdef world_rows out
    cdef int32_t w, first, used, have, bad
    for w in range(env.num_worlds):
        first, used = env.first_row[w], env.worlds[w].scene.num_controlled
        have = env.first_row[w + 1] - first
        out.rewards, out.terminations = rows.rewards + first, rows.terminations + first
        out.truncations, out.masks = rows.truncations + first, rows.masks + first
        bad = world_step(&env.worlds[w], &env.rules, <const char *>rows.actions + first * env.abi.action_nbytes, &out)
        if bad >= 0:
            describe_action(env, first + bad, rows.actions)
            return FASTVEC_ERROR
        memset(out.rewards + used, 0, (have - used) * sizeof(float))
        memset(out.terminations + used, 0, have - used)
        memset(out.truncations + used, 0, have - used)
        memset(out.masks + used, 0, have - used)
        if env.worlds[w].live == 0 and env.auto_reset:
            record_episode(env, w)
            begin_episode(env, w)
        observe(env, w, rows_of(env, w, rows))
    return FASTVEC_INFO if env.episodes_read < env.episodes_written else FASTVEC_OK


cdef void describe_action(drive_env *env, int32_t row, const void *actions) noexcept nogil:
    cdef const float *value = <const float *>actions + row * env.rules.action_floats
    cdef int32_t k = 0
    if env.rules.num_actions:
        snprintf(env.message, sizeof(env.message), "actions[%d] is %lld: expected 0 <= action < %d",
                 <int>row, <long long>(<const int64_t *>actions)[row], <int>env.rules.num_actions)
        return
    while isfinite(value[k]):
        k += 1
    snprintf(env.message, sizeof(env.message), "actions[%d][%d] is %f: expected a finite number", <int>row, <int>k, <double>value[k])


cdef const char *env_error(void *self) noexcept nogil:
    return (<drive_env *>self).message


cdef class Worlds:
    """Worlds that host scenes, behind the compiled-env ABI.

    Args:
        decks: for each world the list of `Scene` that it hosts in turn, from the first one.
        config: a `fastvec.drive.DriveConfig`.
        rows_per_world: rows of each world, at least as many as any scene of its deck has controlled agents; None for
            exactly what is needed.
        resample_every: episodes after which a world takes another scene of its deck; 0: never.
        with_replacement: take any scene of the deck at random, instead of the next one.
        auto_reset: begin a new episode where all agents are done; without it the old one just goes on.
    """

    def __init__(self, list decks, config, rows_per_world, resample_every, with_replacement, auto_reset):
        cdef drive_env *env = &self.env
        memset(env, 0, sizeof(drive_env))
        self._keep, self._told = {}, []
        env.num_worlds = len(decks)
        env.auto_reset, env.resample_every, env.with_replacement = auto_reset, resample_every, with_replacement
        env.num_episodes = max(FEWEST_EPISODES_KEPT, 4 * env.num_worlds)
        env.worlds = <drive_world *>self._zeros("worlds", env.num_worlds * sizeof(drive_world))
        env.scene_of = <int32_t *>self._zeros("scene_of", env.num_worlds * sizeof(int32_t))
        env.turn = <int32_t *>self._zeros("turn", env.num_worlds * sizeof(int32_t))
        env.episodes_here = <int32_t *>self._zeros("episodes_here", env.num_worlds * sizeof(int32_t))
        env.first_row = <int32_t *>self._zeros("first_row", (env.num_worlds + 1) * sizeof(int32_t))
        env.random = <uint64_t *>self._zeros("random", env.num_worlds * sizeof(uint64_t))
        env.episodes = <drive_episode *>self._zeros("episodes", env.num_episodes * sizeof(drive_episode))
        cdef int32_t w
        for w in range(env.num_worlds):
            rows = rows_per_world or max(scene.num_controlled for scene in decks[w])
            env.first_row[w + 1] = env.first_row[w] + rows
        self._deal(decks)
        self._rules = Rules(config)
        env.rules = self._rules.data
        seed_worlds(env, 0)
        for w in range(env.num_worlds):
            restart(env, w)
        env.abi.abi = FASTVEC_ENV_ABI
        env.abi.num_agents = env.first_row[env.num_worlds]
        env.abi.observation_nbytes = env.rules.row.nbytes
        env.abi.action_nbytes = sizeof(int64_t) if env.rules.num_actions else env.rules.action_floats * sizeof(float)
        env.abi.self = env
        env.abi.reset, env.abi.step, env.abi.error = env_reset, env_step, env_error

    cdef _deal(self, list decks):
        # Raises before anything is changed.
        cdef drive_env *env = &self.env
        cdef int32_t w, k
        for w, deck in enumerate(decks):
            largest = max(deck, key=lambda scene: scene.num_controlled)
            if largest.num_controlled > env.first_row[w + 1] - env.first_row[w]:
                raise ValueError(f"{largest.name} has {largest.num_controlled} controlled agents, but world {w} has "
                                 f"{env.first_row[w + 1] - env.first_row[w]} rows: give rows_per_world={largest.num_controlled} "
                                 "at the beginning, or lower max_controlled_agents")
        self._told = self.take_episodes()  # they name scenes by their present numbers
        self.decks = decks
        self.scenes = list(dict.fromkeys(scene for deck in decks for scene in deck))
        number = {scene: k for k, scene in enumerate(self.scenes)}
        env.scenes = <const drive_scene **>self._zeros("scenes", len(self.scenes) * sizeof(drive_scene *))
        for k in range(len(self.scenes)):
            env.scenes[k] = &(<Scene?>self.scenes[k]).data
        env.deck_first = <int32_t *>self._zeros("deck_first", (env.num_worlds + 1) * sizeof(int32_t))
        env.deck = <int32_t *>self._zeros("deck", sum(map(len, decks)) * sizeof(int32_t))
        for w, deck in enumerate(decks):
            env.deck_first[w + 1] = env.deck_first[w] + <int32_t>len(deck)
            for k in range(len(deck)):
                env.deck[env.deck_first[w] + k] = number[deck[k]]

    cdef void *_zeros(self, str name, size_t nbytes):
        # NumPy owns the memory, which goes when this object goes, or the name is given to another array; 64 bytes more,
        # to begin on a cache line.
        array = np.zeros(nbytes + 64, np.uint8)
        self._keep[name] = array
        cdef uint8_t[::1] view = array
        return <void *>((<size_t>&view[0] + 63) & ~<size_t>63)

    @property
    def num_agents(self):
        return self.env.abi.num_agents

    @property
    def num_worlds(self):
        return self.env.num_worlds

    def capsule(self):
        """The PyCapsule around this object's `fastvec_env`; use it only while this object lives."""
        return PyCapsule_New(&self.env.abi, FASTVEC_ENV_CAPSULE, NULL)

    def restart(self, int world):
        """Begins the episode of a world again, in the scene that it hosts."""
        restart(&self.env, self._checked(world))

    def draw(self, int world):
        """Has a world take another scene of its deck, and begins an episode in it."""
        draw_scene(&self.env, self._checked(world))
        begin_episode(&self.env, world)

    def host(self, dict decks):
        """Gives worlds new decks, {world: [Scene, ...]}, and begins episodes in their first scenes.

        Raises:
            IndexError: there is no such world.
            ValueError: a scene has more controlled agents than the world has rows; then nothing has changed.
        """
        cdef drive_env *env = &self.env
        cdef int32_t w
        hosted = [self.scenes[env.scene_of[w]] for w in range(env.num_worlds)]
        self._deal([decks.get(w, deck) for w, deck in enumerate(self.decks)])
        for w in range(env.num_worlds):
            if w in decks:
                env.turn[w], env.episodes_here[w], env.scene_of[w] = 0, 0, env.deck[env.deck_first[w]]
                begin_episode(env, w)
            else:
                env.scene_of[w] = self.scenes.index(hosted[w])

    def observe(self, int world):
        """The observation rows of a world now: uint8 (rows, bytes of a row)."""
        cdef int32_t w = self._checked(world)
        rows = np.zeros((self.env.first_row[w + 1] - self.env.first_row[w], self.env.rules.row.nbytes), np.uint8)
        cdef uint8_t[:, ::1] view = rows
        observe(&self.env, w, <char *>&view[0, 0])
        return rows

    def expert_actions(self):
        """See `fastvec.drive.Drive.get_expert_actions`."""
        cdef drive_env *env = &self.env
        cdef int32_t w, i, t
        cdef const drive_log_point *point
        shape = (env.num_worlds, DRIVE_AGENTS, DRIVE_STEPS)
        arrays = [np.zeros((*shape, n), np.float32) for n in (DRIVE_ACTION, 2, 2, 1)]
        cdef float[:, :, :, ::1] actions = arrays[0]
        cdef float[:, :, :, ::1] positions = arrays[1]
        cdef float[:, :, :, ::1] velocities = arrays[2]
        cdef float[:, :, :, ::1] yaws = arrays[3]
        for w in range(env.num_worlds):
            for i in range(env.worlds[w].scene.num_agents):
                for t in range(DRIVE_STEPS):
                    point = &env.worlds[w].scene.log[i * DRIVE_STEPS + t]
                    drive_expert_action(env.worlds[w].scene, i, t, env.rules.dynamics, &actions[w, i, t, 0])
                    positions[w, i, t, 0], positions[w, i, t, 1] = point.x, point.y
                    velocities[w, i, t, 0], velocities[w, i, t, 1], yaws[w, i, t, 0] = point.vx, point.vy, point.heading
        if env.rules.dynamics != DRIVE_STATE:
            arrays[0] = np.ascontiguousarray(arrays[0][..., :3])
        return tuple(arrays)

    def take_episodes(self):
        """Statistics of the episodes that ended since the last call, as a list of dicts, oldest first."""
        cdef drive_episode *e
        taken, self._told = self._told, []
        while self.env.episodes_read < self.env.episodes_written:
            e = &self.env.episodes[self.env.episodes_read % self.env.num_episodes]
            self.env.episodes_read += 1
            taken.append(dict(world=e.world, scene=self.scenes[e.scene].name, num_agents=e.num_agents, length=e.length,
                              mean_return=e.mean_return, goal_rate=e.goal_rate, collision_rate=e.collision_rate,
                              off_road_rate=e.off_road_rate, truncation_rate=e.truncation_rate))
        return taken

    def scene_of(self, int world):
        """The `Scene` that a world hosts now."""
        return self.scenes[self.env.scene_of[self._checked(world)]]

    def _checked(self, world):
        if not 0 <= world < self.env.num_worlds:
            raise IndexError(f"world is {world}: expected 0 <= world < {self.env.num_worlds}")
        return world
