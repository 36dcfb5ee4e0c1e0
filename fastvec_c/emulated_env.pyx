"""PufferLib's GymnasiumPufferEnv, with its step compiled: what it does beside the env's own step takes a microsecond in Python."""
cimport numpy as cnp
from cpython.bool cimport PyBool_Check
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.object cimport PyObject_GetAttr, PyObject_SetAttr
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.string cimport memcpy

from .buffer_env cimport BufferEnv, says_something

import numpy as np

cnp.import_array()

cdef object NUMPY_BOOL = np.bool_


cdef class EmulatedEnv(BufferEnv):
    """A GymnasiumPufferEnv whose spaces need no conversion, in rows that it was built with.

    Its results are those of PufferLib's own step, which still makes every step that is not plain: the first ones, which it checks;
    the one that resets; those whose results are not of the usual types.

    Args:
        discrete: an action is one number.
        the others: as of BufferEnv.
    """

    def __cinit__(self, *_, bint discrete=False, **__):
        self.discrete = discrete

    cpdef bind(self, list slots):
        BufferEnv.bind(self, slots)
        self.action = self.actions[0].ravel()  # a view, as PufferLib's
        env = self.env
        self.observations, self.rewards, self.terminals = env.observations, env.rewards, env.terminals
        self.truncations, self.masks = env.truncations, env.masks

    cpdef object step(self, int action_slot, int slot):
        cdef object env = self.env, inner, result
        if not self.settled:
            self.settled = env.is_observation_checked and env.is_action_checked
        if slot or action_slot or not (self.settled and self.in_place) or PyObject_GetAttr(env, "done"):
            return BufferEnv.step(self, action_slot, slot)
        inner = PyObject_GetAttr(env, "env")
        result = inner.step(self.action[0] if self.discrete else self.action)
        if type(result) is tuple and self.takes(<tuple>result):
            return self.store(<tuple>result)
        env.env = Answer(result)  # PufferLib's own step knows what to make of it
        try:
            return BufferEnv.step(self, action_slot, slot)
        finally:
            env.env = inner

    cdef bint takes(self, tuple result) except -1:
        """Whether these are five values whose reward and flags are single ones."""
        return (
            PyTuple_GET_SIZE(result) == 5
            and PyFloat_Check(result[1])  # float64 too
            and (PyBool_Check(result[2]) or type(result[2]) is NUMPY_BOOL)
            and (PyBool_Check(result[3]) or type(result[3]) is NUMPY_BOOL)
        )

    cdef object store(self, tuple result):
        """Writes the row; the info, or None where it says nothing."""
        cdef bint terminated = bool(result[2]), truncated = bool(result[3])
        self.write_observation(result[0])
        (<float *>cnp.PyArray_DATA(self.rewards))[0] = <float>PyFloat_AS_DOUBLE(result[1])
        (<unsigned char *>cnp.PyArray_DATA(self.terminals))[0] = terminated
        (<unsigned char *>cnp.PyArray_DATA(self.truncations))[0] = truncated
        (<unsigned char *>cnp.PyArray_DATA(self.masks))[0] = True
        PyObject_SetAttr(self.env, "done", terminated or truncated)
        info = result[4]
        return info if says_something(info) else None

    cdef int write_observation(self, object observation) except -1:
        """What `observations[:] = observation` does."""
        cdef cnp.ndarray row = self.observations, source
        if cnp.PyArray_CheckExact(observation):
            source = observation
            if (
                cnp.PyArray_TYPE(source) == cnp.PyArray_TYPE(row) and cnp.PyArray_ISCARRAY_RO(source)
                and cnp.PyArray_NDIM(source) == cnp.PyArray_NDIM(row) - 1
                and same_row(source, row)
            ):
                memcpy(cnp.PyArray_DATA(row), cnp.PyArray_DATA(source), cnp.PyArray_NBYTES(row))
                return 0
        self.observations[:] = observation
        return 0


cdef bint same_row(cnp.ndarray source, cnp.ndarray row) noexcept:
    cdef int i
    for i in range(cnp.PyArray_NDIM(source)):
        if cnp.PyArray_DIM(source, i) != cnp.PyArray_DIM(row, i + 1):
            return False
    return True


class Answer:
    """In an env's place: has already stepped."""

    def __init__(self, result):
        self.result = result

    def step(self, action):
        return self.result

    def __getattr__(self, name):
        raise AttributeError(f"{name}: the env has stepped, and has only its result")
