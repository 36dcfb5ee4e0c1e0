"""Many worlds as one compiled env: everything between reset() and take_infos() runs without Python."""
import numpy as np

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from fastvec_c.drive.layout cimport *
from fastvec_c.drive.scene cimport Scene
from fastvec_c.env cimport FASTVEC_ENV_ABI, FASTVEC_ENV_CAPSULE, FASTVEC_ERROR, FASTVEC_INFO, FASTVEC_OK, fastvec_env, fastvec_rows
from fastvec_c.drive.world cimport world_observe, world_reset, world_rows, world_step

cdef extern from "drive/dynamics.h" nogil:
    void drive_prepare_action(drive_action *action)

DYNAMICS = {"classic": DRIVE_CLASSIC, "bicycle": DRIVE_BICYCLE, "delta_local": DRIVE_DELTA_LOCAL, "state": DRIVE_STATE}
COLLISIONS = {"ignore": DRIVE_IGNORE, "stop": DRIVE_STOP, "remove": DRIVE_REMOVE}
REWARDS = {"sparse_on_goal_achieved": DRIVE_SPARSE_ON_GOAL, "weighted_combination": DRIVE_WEIGHTED}
ROADS = {"linear": DRIVE_LINEAR, "k_nearest_roadpoints": DRIVE_K_NEAREST}
FEWEST_EPISODES_KEPT = 1024


cdef uint64_t next_random(uint64_t *state) noexcept nogil:
    # splitmix64 (Steele, Lea and Flood 2014)
    state[0] += 0x9E3779B97F4A7C15ULL
    cdef uint64_t z = state[0]
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef void seed_worlds(drive_env *env, uint64_t seed) noexcept nogil:
    # One stream for each world, so that what a world draws does not depend on when the others finish.
    cdef int32_t w
    for w in range(env.num_worlds):
        env.random[w] = next_random(&seed)


cdef void begin_episode(drive_env *env, int32_t w) noexcept nogil:
    if env.sample_scenes:
        env.scene_of[w] = <int32_t>(next_random(&env.random[w]) % <uint64_t>env.num_scenes)
    world_reset(&env.worlds[w], env.scenes[env.scene_of[w]], &env.rules)


cdef void observe(const drive_env *env, int32_t w, const fastvec_rows *rows) noexcept nogil:
    cdef float *out = <float *>rows.observations + <size_t>env.first_row[w] * DRIVE_ROW
    cdef int32_t used = env.worlds[w].scene.num_controlled, have = env.first_row[w + 1] - env.first_row[w]
    world_observe(&env.worlds[w], &env.rules, out)
    memset(out + <size_t>used * DRIVE_ROW, 0, <size_t>(have - used) * DRIVE_ROW * sizeof(float))


cdef int env_reset(void *self, const fastvec_rows *rows, const uint64_t *seed) noexcept nogil:
    cdef drive_env *env = <drive_env *>self
    cdef int32_t w, first, used
    if seed != NULL:
        seed_worlds(env, seed[0])
    for w in range(env.num_worlds):
        begin_episode(env, w)
        observe(env, w, rows)
        first, used = env.first_row[w], env.worlds[w].scene.num_controlled
        memset(rows.masks + first, 1, used)
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
    episode.world, episode.scene, episode.length, episode.num_agents = w, env.scene_of[w], world.step, n
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
            snprintf(env.message, sizeof(env.message), "actions[%d] is %lld: expected 0 <= action < %d",
                     <int>(first + bad), <long long>(<const int64_t *>rows.actions)[first + bad], <int>env.rules.num_actions)
            return FASTVEC_ERROR
        memset(out.rewards + used, 0, (have - used) * sizeof(float))
        memset(out.terminations + used, 0, have - used)
        memset(out.truncations + used, 0, have - used)
        memset(out.masks + used, 0, have - used)
        if env.worlds[w].live == 0 and env.auto_reset:
            record_episode(env, w)
            begin_episode(env, w)
        observe(env, w, rows)
    return FASTVEC_INFO if env.episodes_read < env.episodes_written else FASTVEC_OK


cdef const char *env_error(void *self) noexcept nogil:
    return (<drive_env *>self).message


cdef class Worlds:
    """Worlds that host scenes, behind the compiled-env ABI.

    Args:
        scenes: list of `Scene`.
        scene_of: for each world the index of the scene that it hosts first.
        config: a `fastvec.drive.DriveConfig`.
        actions: float32 (n, 3), what each discrete action means; None for continuous actions.
        action_floats: floats of a continuous action.
        rows_per_world: rows of each world, at least as many as any scene that it may host has controlled agents; None
            for exactly what is needed.
        sample_scenes: draw a scene whenever an episode begins, instead of keeping the first.
        auto_reset: begin a new episode where all agents are done; without it the old one just goes on.
    """

    def __init__(self, list scenes, scene_of, config, actions, action_floats, rows_per_world, sample_scenes, auto_reset):
        cdef drive_env *env = &self.env
        memset(env, 0, sizeof(drive_env))
        self.scenes, self._keep = scenes, []
        env.num_worlds, env.num_scenes = len(scene_of), len(scenes)
        env.auto_reset, env.sample_scenes = auto_reset, sample_scenes
        env.num_episodes = max(FEWEST_EPISODES_KEPT, 4 * env.num_worlds)
        env.worlds = <drive_world *>self._zeros(env.num_worlds * sizeof(drive_world))
        env.scenes = <const drive_scene **>self._zeros(env.num_scenes * sizeof(drive_scene *))
        env.scene_of = <int32_t *>self._zeros(env.num_worlds * sizeof(int32_t))
        env.first_row = <int32_t *>self._zeros((env.num_worlds + 1) * sizeof(int32_t))
        env.random = <uint64_t *>self._zeros(env.num_worlds * sizeof(uint64_t))
        env.episodes = <drive_episode *>self._zeros(env.num_episodes * sizeof(drive_episode))
        cdef int32_t w, s
        for s in range(env.num_scenes):
            env.scenes[s] = &(<Scene?>scenes[s]).data
        most = max(scene.num_controlled for scene in scenes)
        for w in range(env.num_worlds):
            env.scene_of[w] = scene_of[w]
            rows = rows_per_world or (most if sample_scenes else env.scenes[env.scene_of[w]].num_controlled)
            env.first_row[w + 1] = env.first_row[w] + rows
        self._set_rules(config, actions, action_floats)
        seed_worlds(env, 0)
        for w in range(env.num_worlds):
            begin_episode(env, w)
        env.abi.abi = FASTVEC_ENV_ABI
        env.abi.num_agents = env.first_row[env.num_worlds]
        env.abi.observation_nbytes = DRIVE_ROW * sizeof(float)
        env.abi.action_nbytes = sizeof(int64_t) if env.rules.num_actions else env.rules.action_floats * sizeof(float)
        env.abi.self = env
        env.abi.reset, env.abi.step, env.abi.error = env_reset, env_step, env_error

    cdef void *_zeros(self, size_t nbytes):
        # NumPy owns the memory, so that it goes when this object goes; 64 bytes more, to begin on a cache line.
        array = np.zeros(nbytes + 64, np.uint8)
        self._keep.append(array)
        cdef uint8_t[::1] view = array
        return <void *>((<size_t>&view[0] + 63) & ~<size_t>63)

    cdef _set_rules(self, config, actions, action_floats):
        cdef drive_rules *rules = &self.env.rules
        rules.dynamics, rules.collision = DYNAMICS[config.dynamics_model], COLLISIONS[config.collision_behavior]
        rules.reward, rules.road_algorithm = REWARDS[config.reward_type], ROADS[config.road_obs_algorithm]
        rules.episode_len, rules.radius, rules.goal_distance = config.episode_len, config.obs_radius, config.dist_to_goal_threshold
        rules.collision_weight, rules.goal_weight = config.collision_weight, config.goal_achieved_weight
        rules.off_road_weight = config.off_road_weight
        cdef float *empty = <float *>self._zeros(DRIVE_ROADS * DRIVE_ROAD * sizeof(float))
        cdef int32_t k, n, v
        for k in range(DRIVE_ROADS):
            empty[k * DRIVE_ROAD + 6] = 1  # one-hot of entity type 0
        rules.empty_roads = empty
        cdef drive_action *table
        if actions is None:
            rules.action_floats = action_floats
        else:
            n = len(actions)
            table = <drive_action *>self._zeros(n * sizeof(drive_action))
            for k in range(n):
                for v in range(actions.shape[1]):
                    table[k].value[v] = actions[k, v]
                if rules.dynamics == DRIVE_CLASSIC:
                    drive_prepare_action(&table[k])
            rules.actions, rules.num_actions = table, n

    @property
    def num_agents(self):
        return self.env.abi.num_agents

    @property
    def num_worlds(self):
        return self.env.num_worlds

    def capsule(self):
        """The PyCapsule around this object's `fastvec_env`; use it only while this object lives."""
        return PyCapsule_New(&self.env.abi, FASTVEC_ENV_CAPSULE, NULL)

    def take_episodes(self):
        """Statistics of the episodes that ended since the last call, as a list of dicts, oldest first."""
        cdef drive_episode *e
        taken = []
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

    def state(self, int world):
        """Copies of one world's agents, by slot: dict of float32 and uint8 arrays, and `step`."""
        cdef drive_world *w = &self.env.worlds[self._checked(world)]
        cdef const drive_scene *s = w.scene
        cdef Py_ssize_t n = s.num_agents
        floats = dict(x=<float[:n]>w.x, y=<float[:n]>w.y, yaw=<float[:n]>w.yaw, speed=<float[:n]>w.speed, reward=<float[:n]>w.reward,
                      vx=<float[:n]>w.vx, vy=<float[:n]>w.vy,
                      length=<float[:n]><float *>s.length, width=<float[:n]><float *>s.width, height=<float[:n]><float *>s.height,
                      id=<float[:n]><float *>s.id, goal_x=<float[:n]><float *>s.goal_x, goal_y=<float[:n]><float *>s.goal_y)
        flags = dict(done=<uint8_t[:n]>w.done, reached=<uint8_t[:n]>w.reached, away=<uint8_t[:n]>w.away,
                     collided=<uint8_t[:n]>w.collided, hit_road=<uint8_t[:n]>w.hit_road, hit_vehicle=<uint8_t[:n]>w.hit_vehicle,
                     hit_other=<uint8_t[:n]>w.hit_other, type=<uint8_t[:n]><uint8_t *>s.type,
                     is_controlled=<uint8_t[:n]><uint8_t *>s.is_controlled, is_static=<uint8_t[:n]><uint8_t *>s.is_static)
        return dict({k: np.array(v) for k, v in {**floats, **flags}.items()}, step=w.step)

    def _checked(self, world):
        if not 0 <= world < self.env.num_worlds:
            raise IndexError(f"world is {world}: expected 0 <= world < {self.env.num_worlds}")
        return world
