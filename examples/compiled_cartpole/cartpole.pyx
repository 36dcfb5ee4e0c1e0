"""CartPole as a compiled fastvec env: copy this file and setup.py, build, and vectorize.

    pip install cython && python setup.py build_ext --inplace

    import fastvec
    from cartpole import CartPole
    vec = fastvec.make(lambda: CartPole(poles=64), num_workers=2)

The dynamics, bounds and rewards are those of gymnasium's CartPole-v1 (Barto, Sutton, Anderson 1983).  One env balances
many poles, a row each; the worker steps it without the GIL.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport M_PI, cos, fabs, sin
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

from fastvec_c.env cimport FASTVEC_ENV_ABI, FASTVEC_ENV_CAPSULE, FASTVEC_OK, fastvec_env, fastvec_rows

import fastvec

cdef double GRAVITY = 9.8, POLE_MASS = 0.1, TOTAL_MASS = 1.1, HALF_LENGTH = 0.5, FORCE = 10.0, TAU = 0.02
cdef double X_LIMIT = 2.4, THETA_LIMIT = 12 * 2 * M_PI / 360
cdef int EPISODE = 500


cdef struct Pole:
    double x, x_dot, theta, theta_dot
    int steps


cdef struct Poles:
    int n
    uint64_t random
    Pole *pole


cdef double uniform(Poles *env) noexcept nogil:
    """In [-0.05, 0.05): splitmix64 (Steele, Lea, Flood 2014)."""
    cdef uint64_t z
    env.random += <uint64_t>0x9E3779B97F4A7C15
    z = env.random
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return ((z ^ (z >> 31)) >> 11) * (0.1 / (<uint64_t>1 << 53)) - 0.05


cdef void begin(Poles *env, Pole *p) noexcept nogil:
    p.x, p.x_dot, p.theta, p.theta_dot = uniform(env), uniform(env), uniform(env), uniform(env)
    p.steps = 0


cdef void move(Pole *p, int64_t action) noexcept nogil:
    cdef double force = FORCE if action == 1 else -FORCE
    cdef double c = cos(p.theta), s = sin(p.theta), along, theta_acc, x_acc
    along = (force + POLE_MASS * HALF_LENGTH * p.theta_dot * p.theta_dot * s) / TOTAL_MASS
    theta_acc = (GRAVITY * s - c * along) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * c * c / TOTAL_MASS))
    x_acc = along - POLE_MASS * HALF_LENGTH * theta_acc * c / TOTAL_MASS
    p.x += TAU * p.x_dot
    p.x_dot += TAU * x_acc
    p.theta += TAU * p.theta_dot
    p.theta_dot += TAU * theta_acc
    p.steps += 1


cdef void observe(Pole *p, float *out) noexcept nogil:
    out[0], out[1], out[2], out[3] = <float>p.x, <float>p.x_dot, <float>p.theta, <float>p.theta_dot


cdef int reset(void *this, const fastvec_rows *rows, const uint64_t *seed) noexcept nogil:
    cdef Poles *env = <Poles *>this
    cdef int i
    if seed != NULL:
        env.random = seed[0]
    for i in range(env.n):
        begin(env, &env.pole[i])
        observe(&env.pole[i], <float *>rows.observations + 4 * i)
    return FASTVEC_OK


cdef int step(void *this, const fastvec_rows *rows) noexcept nogil:
    cdef Poles *env = <Poles *>this
    cdef const int64_t *actions = <const int64_t *>rows.actions
    cdef Pole *p
    cdef int i
    for i in range(env.n):
        p = &env.pole[i]
        move(p, actions[i])
        rows.rewards[i] = 1
        rows.terminations[i] = fabs(p.x) > X_LIMIT or fabs(p.theta) > THETA_LIMIT
        rows.truncations[i] = not rows.terminations[i] and p.steps >= EPISODE
        if rows.terminations[i] or rows.truncations[i]:
            begin(env, p)
        observe(p, <float *>rows.observations + 4 * i)
    return FASTVEC_OK


cdef class CartPole:
    """`poles` cart-poles, one agent each.  A finished one begins anew at once: its observation is the next episode's."""

    observation_space = fastvec.Spec((4,), "float32")
    action_space = fastvec.Spec((), "int64", low=0, high=1)
    cdef fastvec_env c
    cdef Poles state
    cdef readonly int num_agents

    def __cinit__(self, int poles=1):
        self.num_agents = poles
        self.state.n = poles
        self.state.pole = <Pole *>calloc(poles, sizeof(Pole))
        if self.state.pole == NULL:
            raise MemoryError()
        self.c = fastvec_env(FASTVEC_ENV_ABI, poles, 4 * sizeof(float), sizeof(int64_t), &self.state, reset, step, NULL)

    def __dealloc__(self):
        free(self.state.pole)

    def __fastvec_env__(self):
        return PyCapsule_New(&self.c, FASTVEC_ENV_CAPSULE, NULL)
