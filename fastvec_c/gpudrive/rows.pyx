"""Rows of the agents that a GPUDrive simulator lets us drive: actions in, observations, rewards and ends out.

All of it reads and writes the simulator's exported tensors in place, without the GIL and without temporaries.  Fast
observations are drive's: each world has a mirror, a drive_world with what the simulator exports of its agents, in a
scene made of the exported road segments.
"""
import numpy as np

from libc.math cimport exp, isfinite, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from fastvec_c.drive.layout cimport *
from fastvec_c.drive.pack cimport DRIVE_RAW_PARTNER, DRIVE_RAW_ROAD, drive_pack_row, drive_raw
from fastvec_c.drive.scene cimport Scene

cdef extern from "drive/angle.h" nogil:
    void drive_sincos(float angle, float *sine, float *cosine)

cdef extern from "drive/dynamics.h" nogil:
    void drive_limit_action(float *action, int32_t dynamics)

cdef extern from "drive/observe.h" nogil:
    void drive_write_row(const drive_world *world, int32_t i, const drive_rules *rules, void *out)

cdef extern from "drive/random.h" nogil:
    uint64_t drive_random(uint64_t *state)
    float drive_random_between(uint64_t *state, float low, float high)

cdef enum:
    SELF = 8
    ABSOLUTE = 14
    INFO = 5
    TRAJECTORY = 1456
    LIDAR = 600

SHAPES = {  # of the tensors, behind the number of worlds; 4-byte numbers, some exported with a last axis of 1
    "action": (64, 10), "reward": (64,), "done": (64,), "info": (64, 5), "self_observation": (64, 8),
    "absolute_self_observation": (64, 14), "partner_observations": (64, 63, 9), "agent_roadmap": (64, 200, 9),
    "lidar": (64, 3, 50, 4), "bev_observation": (64, 200, 200), "expert_trajectory": (64, TRAJECTORY), "controlled_state": (64,),
    "steps_remaining": (64,), "map_observation": (10000, 9), "shape": (2,), "response_type": (64,),
}


def check_tensors(dict arrays, num_worlds):
    """Raises ValueError where an exported tensor is not what GPUDrive's are."""
    for name, shape in SHAPES.items():
        array, expected = arrays[name], (num_worlds, *shape)
        if array.shape not in (expected, (*expected, 1)) or array.itemsize != 4 or not array.flags.c_contiguous:
            raise ValueError(f"{name}_tensor() is {array.dtype}{list(array.shape)}: expected {list(expected)}, 4 bytes each, contiguous; "
                             "is this a GPUDrive of another version, or one built with other constants?")


cdef class SimulatorRows:
    """The rows of one simulator.

    Args:
        arrays: {name: NumPy view} of the exported tensors, all of `SHAPES`.
        rules: what the configuration says.
        rows_per_world: rows of each world; None with `dense`.
        num_rows: rows in all.
        dense: rows of the worlds' agents follow each other without gaps, what is left over is at the end.
        fast: observations from state and road segments, by drive's kernels, not from the simulator's own.
        puffer_flags: terminations and truncations as PufferGPUDrive has them.
    """

    def __init__(self, dict arrays, Rules rules, rows_per_world, int num_rows, bint dense, bint fast, bint puffer_flags):
        self.num_worlds, self.num_rows = len(arrays["done"]), num_rows
        self.dense, self.fast, self.puffer_flags, self.rules = dense, fast, puffer_flags, rules
        self.mirrored = rules.data
        self.mirrored.row.lidar = 0
        self._keep, self.scenes = {}, []
        self.rows = <row_state *>self._zeros("rows", num_rows * sizeof(row_state))
        self.first_row = <int32_t *>self._zeros("first_row", (self.num_worlds + 1) * sizeof(int32_t))
        self.live = <int32_t *>self._zeros("live", self.num_worlds * sizeof(int32_t))
        self.random = <uint64_t *>self._zeros("random", self.num_worlds * sizeof(uint64_t))
        self.mirrors = <drive_world *>self._zeros("mirrors", self.num_worlds * sizeof(drive_world))
        cdef int w
        for w in range(self.num_worlds):
            self.first_row[w + 1] = 0 if dense else self.first_row[w] + <int32_t>rows_per_world
        self.take(arrays)
        self.seed(0)

    cdef void *_zeros(self, str name, size_t nbytes):
        # 64 bytes more, to begin on a cache line.
        self._keep[name] = np.zeros(nbytes + 64, np.uint8)
        cdef uint8_t[::1] view = self._keep[name]
        return <void *>((<size_t>&view[0] + 63) & ~<size_t>63)

    def take(self, dict arrays):
        """Takes the addresses of the tensors."""
        check_tensors(arrays, self.num_worlds)
        self.arrays = arrays
        address = {name: array.ctypes.data for name, array in arrays.items()}
        self.sim.action = <float *><size_t>address["action"]
        self.sim.reward = <const float *><size_t>address["reward"]
        self.sim.done = <const int32_t *><size_t>address["done"]
        self.sim.info = <const int32_t *><size_t>address["info"]
        self.sim.self_observation = <const float *><size_t>address["self_observation"]
        self.sim.absolute = <const float *><size_t>address["absolute_self_observation"]
        self.sim.partners = <const float *><size_t>address["partner_observations"]
        self.sim.roads = <const float *><size_t>address["agent_roadmap"]
        self.sim.lidar = <const float *><size_t>address["lidar"]
        self.sim.bev = <const float *><size_t>address["bev_observation"]
        self.sim.trajectory = <const float *><size_t>address["expert_trajectory"]
        self.sim.controlled = <const int32_t *><size_t>address["controlled_state"]
        self.sim.shape = <const int32_t *><size_t>address["shape"]
        self.sim.steps_remaining = <const int32_t *><size_t>address["steps_remaining"]

    def seed(self, uint64_t seed):
        """Begins the worlds' streams of random numbers, of which conditioned rewards draw their weights."""
        cdef int w
        for w in range(self.num_worlds):
            self.random[w] = drive_random(&seed)

    def place(self, names, config):
        """Gives rows to the agents that are controlled now; after the simulator was built, and after set_maps().

        Args:
            names: of the worlds' scenes, for messages.
            config: the `DriveConfig`.

        Raises:
            ValueError: there are more controlled agents than rows.
        """
        cdef int32_t w, slot, r = 0, end
        counts = (np.asarray(self.arrays["controlled_state"]).reshape(self.num_worlds, 64) == 1).sum(1)
        have = [self.num_rows] if self.dense else np.diff(<int32_t[:self.num_worlds + 1]>self.first_row)
        for name, need, rows in zip(["all worlds together"] if self.dense else names, [counts.sum()] if self.dense else counts, have):
            if need > rows:
                raise ValueError(f"{name}: {need} controlled agents, but {rows} rows: give rows_per_world={-(-need // (self.num_worlds if self.dense else 1))}"
                                 " at the beginning, or lower max_controlled_agents")
        for w in range(self.num_worlds):
            if self.dense:
                self.first_row[w] = r
            end = self.num_rows if self.dense else self.first_row[w + 1]
            for slot in range(DRIVE_AGENTS):
                if self.sim.controlled[w * DRIVE_AGENTS + slot] == 1:
                    self.rows[r].world, self.rows[r].slot = w, slot
                    r += 1
            while r < end and (not self.dense or w == self.num_worlds - 1):
                self.rows[r].world, self.rows[r].slot, self.rows[r].alive = w, -1, 0
                r += 1
        self.first_row[self.num_worlds] = self.num_rows
        if self.fast:
            self._mirror_scenes(names, config)

    def _mirror_scenes(self, names, config):
        cdef int32_t w
        a = self.arrays
        self.scenes = []
        for w in range(self.num_worlds):
            n, r = a["shape"][w].reshape(2)
            self.scenes.append(Scene.of_simulator(
                names[w], config, a["self_observation"][w, :n], a["absolute_self_observation"][w, :n], a["info"][w, :n, 4],
                a["controlled_state"][w].reshape(64)[:n] == 1, a["map_observation"][w, :r]))
            memset(&self.mirrors[w], 0, sizeof(drive_world))
            self.mirrors[w].scene = &(<Scene>self.scenes[w]).data

    def begin(self, worlds, masks):
        """Begins the rows' bookkeeping of new episodes in `worlds`; fills `masks` of their rows."""
        cdef uint8_t[::1] mask = masks.view(np.uint8)
        cdef int32_t w, r
        cdef row_state *row
        for w in worlds:
            self.live[w] = 0
            self.draw_weights(w)
            for r in range(self.first_row[w], self.first_row[w + 1]):
                row = &self.rows[r]
                if row.world != w:
                    continue
                # One that collides where it stands, or did while logs were replayed, has no episode.
                row.alive = row.slot >= 0 and not self.has_ended(row)
                row.ever_hit_road = row.ever_hit_agent = row.ever_reached = 0
                row.episode_return = 0
                self.live[w] += row.alive
                mask[r] = row.alive

    cdef void draw_weights(self, int32_t w) noexcept nogil:
        # For every agent, with a row or without, in order: as drive draws them.
        cdef const drive_rules *rules = &self.rules.data
        cdef float[DRIVE_WEIGHTS] weights
        cdef int32_t slot, k, r = self.first_row[w]
        for slot in range(self.sim.shape[2 * w]):
            for k in range(DRIVE_WEIGHTS):
                if rules.reward == DRIVE_CONDITIONED and rules.weights_mode == DRIVE_RANDOM_WEIGHTS:
                    weights[k] = drive_random_between(&self.random[w], rules.weights_low[k], rules.weights_high[k])
                else:
                    weights[k] = rules.weights[k]
            if r < self.first_row[w + 1] and self.rows[r].slot == slot:
                memcpy(self.rows[r].weights, weights, sizeof(weights))
                r += 1

    cdef bint has_ended(self, const row_state *row) noexcept nogil:
        cdef int32_t agent = row.world * DRIVE_AGENTS + row.slot
        cdef bint collided = self.sim.self_observation[agent * SELF + 6] > 0
        return self.sim.info[agent * INFO + 3] == 1 or (self.rules.data.collision != DRIVE_IGNORE and collided)

    # ---- actions -----------------------------------------------------------------------------------------------------

    def act(self, actions):
        """Writes the rows' actions into the simulator.

        Args:
            actions: int64 (rows,), indices into the grid; or float32 (rows, floats of an action).

        Raises:
            ValueError: an action is out of range or, with `debug`, not finite; nothing was written.
        """
        cdef const drive_rules *rules = &self.rules.data
        cdef const uint8_t[::1] raw = actions.view(np.uint8).reshape(-1)
        cdef const void *given = <const void *>&raw[0]
        cdef int32_t r
        self._check_actions(actions)
        with nogil:
            for r in range(self.num_rows):
                if self.rows[r].slot >= 0:
                    self.write_action(&self.rows[r], given, r)

    def _check_actions(self, actions):
        cdef const drive_rules *rules = &self.rules.data
        cdef int32_t r, k
        cdef const int64_t[::1] index
        cdef const float[:, ::1] value
        if rules.num_actions:
            index = actions
            for r in range(self.num_rows):
                if self.rows[r].alive and not 0 <= index[r] < rules.num_actions:
                    raise ValueError(f"actions[{r}] is {index[r]}: expected 0 <= action < {rules.num_actions}")
        elif rules.check_actions:
            value = actions
            for r in range(self.num_rows):
                for k in range(rules.action_floats):
                    if self.rows[r].alive and not isfinite(value[r, k]):
                        raise ValueError(f"actions[{r}][{k}] is {value[r, k]}: expected a finite number")

    cdef void write_action(self, const row_state *row, const void *actions, int32_t r) noexcept nogil:
        cdef const drive_rules *rules = &self.rules.data
        cdef float *out = self.sim.action + (row.world * DRIVE_AGENTS + row.slot) * DRIVE_ACTION
        cdef int64_t index
        if rules.num_actions:
            index = (<const int64_t *>actions)[r]
            if 0 <= index < rules.num_actions:  # of agents that are done anything may come
                memcpy(out, rules.actions[index].value, 3 * sizeof(float))
        else:
            memcpy(out, <const float *>actions + r * rules.action_floats, rules.action_floats * sizeof(float))

    def act_as_logged(self, int32_t t):
        """Writes into the simulator the actions of all agents' logs at point t, as get_expert_actions() has them."""
        cdef int32_t i
        cdef float *out
        cdef const float *log
        for i in range(self.num_worlds * DRIVE_AGENTS):
            out, log = self.sim.action + i * DRIVE_ACTION, self.sim.trajectory + <size_t>i * TRAJECTORY
            if self.rules.data.dynamics == DRIVE_STATE:
                memset(out, 0, DRIVE_ACTION * sizeof(float))
                out[0], out[1], out[2] = log[2 * t], log[2 * t + 1], 1
                out[3] = log[4 * DRIVE_STEPS + t]
                out[4], out[5] = log[2 * DRIVE_STEPS + 2 * t], log[2 * DRIVE_STEPS + 2 * t + 1]
            else:
                memcpy(out, log + 6 * DRIVE_STEPS + DRIVE_ACTION * t, 3 * sizeof(float))
                drive_limit_action(out, self.rules.data.dynamics)

    # ---- results -----------------------------------------------------------------------------------------------------

    def judge(self, float[::1] rewards, terminations, truncations, masks):
        """Fills the rows' results of the step just made.

        Args:
            rewards: float32 (rows,).
            terminations, truncations, masks: bool (rows,).

        Returns:
            list of the worlds all of whose rows have ended.
        """
        cdef uint8_t[::1] termination = terminations.view(np.uint8)
        cdef uint8_t[::1] truncation = truncations.view(np.uint8)
        cdef uint8_t[::1] mask = masks.view(np.uint8)
        cdef int32_t r, w
        with nogil:
            for r in range(self.num_rows):
                mask[r] = self.rows[r].alive
                rewards[r] = 0
                termination[r] = truncation[r] = 0
                if self.rows[r].alive:
                    self.judge_row(&self.rows[r], &rewards[r], &termination[r], &truncation[r])
        return [w for w in range(self.num_worlds)
                if self.live[w] == 0 and (self.has_rows(w) or self.steps_taken(w) >= self.rules.data.episode_len)]

    def has_rows(self, int w):
        return self.first_row[w] < self.first_row[w + 1] and self.rows[self.first_row[w]].slot >= 0 and self.rows[self.first_row[w]].world == w

    cdef int32_t steps_taken(self, int32_t w) noexcept nogil:
        return DRIVE_STEPS - self.sim.steps_remaining[w * DRIVE_AGENTS]

    cdef float reward_of(self, const row_state *row) noexcept nogil:
        cdef int32_t agent = row.world * DRIVE_AGENTS + row.slot, reward = self.rules.data.reward, point
        cdef const int32_t *info = self.sim.info + agent * INFO
        cdef const float *place = self.sim.absolute + agent * ABSOLUTE
        cdef const float *log
        cdef float paid, dx, dy
        if reward == DRIVE_SPARSE_ON_GOAL:
            return self.sim.reward[agent]
        paid = row.weights[0] * <float>(info[1] + info[2]) + row.weights[1] * <float>info[3] + row.weights[2] * <float>info[0]
        if reward == DRIVE_DISTANCE_TO_LOGS:
            point = min(self.steps_taken(row.world) - 1, DRIVE_STEPS - 1)
            log = self.sim.trajectory + <size_t>agent * TRAJECTORY + 2 * point
            dx, dy = log[0] - place[0], log[1] - place[1]
            paid += <float>0.01 * <float>exp(-<double>sqrtf(dx * dx + dy * dy))
        return paid

    cdef void judge_row(self, row_state *row, float *reward, uint8_t *termination, uint8_t *truncation) noexcept nogil:
        cdef int32_t agent = row.world * DRIVE_AGENTS + row.slot
        cdef const int32_t *info = self.sim.info + agent * INFO
        cdef bint ended = self.has_ended(row)
        cdef bint late = not ended and self.steps_taken(row.world) >= self.rules.data.episode_len
        reward[0] = self.reward_of(row)
        row.episode_return += reward[0]
        row.ever_hit_road |= info[0] != 0
        row.ever_hit_agent |= info[1] != 0 or info[2] != 0
        row.ever_reached |= info[3] != 0
        termination[0], truncation[0] = ended, late
        if self.puffer_flags:
            # Done, and neither collided, nor left the road, nor reached the goal in this episode: in any step.
            ended = self.sim.done[agent] != 0
            late = not ended and self.steps_taken(row.world) >= self.rules.data.episode_len
            termination[0] = ended or late
            truncation[0] = not row.ever_hit_road and not row.ever_hit_agent and not row.ever_reached
        if ended or late:
            row.alive = 0
            self.live[row.world] -= 1

    def truncate(self, truncations):
        """Ends the episodes that still run, as truncated; before new scenes take their place."""
        cdef uint8_t[::1] truncation = truncations.view(np.uint8)
        cdef int32_t r
        for r in range(self.num_rows):
            if self.rows[r].alive:
                truncation[r], self.rows[r].alive = 1, 0
                self.live[self.rows[r].world] -= 1

    def statistics(self, int32_t world):
        """Of a world whose episode ends now, as of drive; without world and scene."""
        cdef const row_state *row
        cdef int32_t r, n = 0, goals = 0, hits = 0, off = 0, late = 0
        cdef double each, total = 0
        for r in range(self.first_row[world], self.first_row[world + 1]):
            row = &self.rows[r]
            if row.slot < 0 or row.world != world:
                continue
            n += 1
            goals += row.ever_reached
            hits += row.ever_hit_agent
            off += row.ever_hit_road
            total += row.episode_return
            late += not row.ever_reached and not (self.rules.data.collision != DRIVE_IGNORE and (row.ever_hit_agent or row.ever_hit_road))
        each = 1.0 / max(n, 1)
        return dict(num_agents=n, length=self.steps_taken(world) - self.rules.data.init_steps, mean_return=total * each,
                    goal_rate=goals * each, collision_rate=hits * each, off_road_rate=off * each, truncation_rate=late * each)

    # ---- observations ------------------------------------------------------------------------------------------------

    def observe(self, observations):
        """Writes the observation rows; zeros where a row is not in use.

        Args:
            observations: (rows, bytes or floats of a row), contiguous.
        """
        cdef uint8_t[:, ::1] out = observations.view(np.uint8).reshape(self.num_rows, -1)
        cdef size_t nbytes = self.rules.data.row.nbytes
        cdef int32_t r, w
        if <size_t>out.shape[1] != nbytes:
            raise ValueError(f"observations has rows of {out.shape[1]} bytes: expected {nbytes}")
        with nogil:
            if self.fast:
                for w in range(self.num_worlds):
                    self.mirror(w)
            for r in range(self.num_rows):
                if self.rows[r].slot < 0:
                    memset(&out[r, 0], 0, nbytes)
                else:
                    self.observe_row(&self.rows[r], <char *>&out[r, 0])

    cdef void mirror(self, int32_t w) noexcept nogil:
        cdef drive_world *world = &self.mirrors[w]
        cdef const float *state
        cdef const float *own
        cdef int32_t i
        for i in range(world.scene.num_agents):
            state = self.sim.absolute + (w * DRIVE_AGENTS + i) * ABSOLUTE
            own = self.sim.self_observation + (w * DRIVE_AGENTS + i) * SELF
            world.x[i], world.y[i], world.yaw[i] = state[0], state[1], state[7]
            world.speed[i], world.collided[i] = own[0], own[6] > 0
            drive_sincos(state[7], &world.sin[i], &world.cos[i])

    cdef void observe_row(self, row_state *row, char *out) noexcept nogil:
        cdef size_t agent = row.world * DRIVE_AGENTS + row.slot
        cdef drive_raw raw
        cdef const float *lidar = self.sim.lidar + agent * LIDAR
        if self.fast:
            memcpy(self.mirrors[row.world].weights[row.slot], row.weights, sizeof(row.weights))
            drive_write_row(&self.mirrors[row.world], row.slot, &self.mirrored, out)
            if self.rules.data.row.lidar:  # mirrors have nothing that beams could hit; there is no bev behind it
                memcpy(out + self.rules.data.row.nbytes - LIDAR * sizeof(float), lidar, LIDAR * sizeof(float))
            return
        raw.self, raw.weights = self.sim.self_observation + agent * SELF, row.weights
        raw.partners = self.sim.partners + agent * DRIVE_PARTNERS * DRIVE_RAW_PARTNER
        raw.roads = self.sim.roads + agent * DRIVE_ROADS * DRIVE_RAW_ROAD
        raw.lidar = lidar
        raw.bev = self.sim.bev + agent * DRIVE_BEV * DRIVE_BEV
        drive_pack_row(&self.rules.data.row, &raw, <float *>out)
