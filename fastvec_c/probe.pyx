"""A compiled env whose every number can be predicted: for benchmarks, tests, and to try a machine."""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from fastvec_c.env cimport FASTVEC_ENV_ABI, FASTVEC_ENV_CAPSULE, FASTVEC_ERROR, FASTVEC_OK, fastvec_env, fastvec_rows
from fastvec_c.sync cimport fv_now

import numpy as np


cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(clockid_t clock, timespec *t)
    clockid_t CLOCK_THREAD_CPUTIME_ID

cdef extern from "<signal.h>" nogil:
    int raise_ "raise"(int signal)


ctypedef struct State:
    int num_agents, observation_size, episode_len, signal
    int64_t work_ns, steps, fail_at, signal_at
    int64_t t          # steps since reset
    uint64_t seed
    uint64_t *hashes   # [num_agents]


cdef class Probe:
    """Observes [steps since reset, hash of its seed and all its actions, agent, 0, 0, ...].

    The hash is an integer below 2**24, which a float32 holds exactly: two runs agree in all observations only if every
    agent got the same actions in the same order.

    Args:
        observation_size: floats in a row, at least 4.
        num_agents: rows.
        episode_len: steps to a truncation, which resets the env.
        num_actions: actions are 0 to num_actions - 1.
        work_us: microseconds of CPU time to burn in a step.
        fail_at: the step, counted from the start, that fails with an error; 0 never.
        signal_at, signal: the step that raises a signal in the worker, and which.
    """

    cdef fastvec_env c
    cdef State state
    cdef uint64_t[::1] hashes
    cdef readonly object observation_space, action_space
    cdef readonly int num_agents

    def __init__(self, int observation_size=4, int num_agents=1, int episode_len=1000, int num_actions=2,
                 double work_us=0, int64_t fail_at=0, int64_t signal_at=0, int signal=11):
        from fastvec.spaces import Spec

        self.observation_space = Spec((observation_size,), np.float32)
        self.action_space = Spec((), np.int64, 0, num_actions - 1)
        self.num_agents = num_agents
        self.hashes = np.zeros(num_agents, np.uint64)
        self.state = State(
            num_agents, observation_size, episode_len, signal, <int64_t>(work_us * 1000), 0, fail_at, signal_at, 0, 0,
            &self.hashes[0],
        )
        self.c.abi = FASTVEC_ENV_ABI
        self.c.num_agents = num_agents
        self.c.observation_nbytes = observation_size * sizeof(float)
        self.c.action_nbytes = sizeof(int64_t)
        self.c.self = &self.state
        self.c.reset = _reset
        self.c.step = _step
        self.c.error = _error

    def __fastvec_env__(self):
        return PyCapsule_New(&self.c, FASTVEC_ENV_CAPSULE, NULL)


cdef void begin(State *env) noexcept nogil:
    cdef int r
    env.t = 0
    for r in range(env.num_agents):
        env.hashes[r] = (env.seed * 7919 + r) & 0xFFFFFF


cdef void observe(State *env, const fastvec_rows *rows) noexcept nogil:
    cdef float *out = <float *>rows.observations
    cdef int r
    for r in range(env.num_agents):
        out[0] = env.t
        out[1] = env.hashes[r]
        out[2] = r
        out[3] = 0
        out += env.observation_size


cdef int _reset(void *this, const fastvec_rows *rows, const uint64_t *seed) noexcept nogil:
    cdef State *env = <State *>this
    if seed != NULL:
        env.seed = seed[0]
    begin(env)
    memset(rows.observations, 0, env.num_agents * env.observation_size * sizeof(float))
    observe(env, rows)
    return FASTVEC_OK


cdef int _step(void *this, const fastvec_rows *rows) noexcept nogil:
    cdef State *env = <State *>this
    cdef const int64_t *actions = <const int64_t *>rows.actions
    cdef int r
    cdef bint over
    env.steps += 1
    env.t += 1
    if env.work_ns:
        burn(env.work_ns)
    if env.steps == env.signal_at:
        raise_(env.signal)
    if env.steps == env.fail_at:
        return FASTVEC_ERROR
    over = env.t == env.episode_len
    for r in range(env.num_agents):
        env.hashes[r] = (env.hashes[r] * 31 + actions[r] + 1) & 0xFFFFFF
        rows.rewards[r] = actions[r]
        rows.terminations[r] = 0
        rows.truncations[r] = over
    if over:
        env.seed += 1
        begin(env)
    observe(env, rows)
    return FASTVEC_OK


cdef const char *_error(void *this) noexcept nogil:
    return "the probe was told to fail here"


cdef void burn(int64_t ns) noexcept nogil:
    """Burns CPU time, not wall time: what an env with work to do needs of a shared CPU."""
    cdef timespec t
    cdef int64_t end
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    end = t.tv_sec * 1000000000 + t.tv_nsec + ns
    while t.tv_sec * 1000000000 + t.tv_nsec < end:
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)


def burn_cpu(double us):
    """Burns `us` microseconds of this thread's CPU time without the GIL."""
    with nogil:
        burn(<int64_t>(us * 1000))
