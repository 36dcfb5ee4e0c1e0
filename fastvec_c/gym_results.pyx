"""What gymnasium's `step` returns, made from a VecEnv's rows: fresh arrays, since its users keep them."""
cimport numpy as cnp
from libc.string cimport memcpy

from fastvec_c.pool cimport Pool

cnp.import_array()


cdef class Results:
    """Called with infos, returns (observations, rewards float64, terminations, truncations, infos).

    Args:
        vec: of one slot, and batches of all rows.
        observations: views on its observations: an array, or a dict or tuple of arrays, nested as you like.
        copy: observations are copied; else they are handed out as they are.
    """

    cdef Pool vec
    cdef object views
    cdef cnp.ndarray rewards, terminations, truncations
    cdef readonly bint copy

    def __init__(self, Pool vec not None, observations, bint copy):
        self.vec = vec
        self.views = observations
        self.rewards = vec.fields.views["rewards"][0]
        self.terminations = vec.fields.views["terminations"][0]
        self.truncations = vec.fields.views["truncations"][0]
        self.copy = copy

    def step(self, actions):
        """Steps the VecEnv; the infos are as the VecEnv gives them, a new dict if there are none."""
        infos = self.vec.step_rows(actions)
        return self.observations(), doubles(self.rewards), copied(self.terminations), copied(self.truncations), infos if infos else {}

    def __call__(self, infos):
        return self.observations(), doubles(self.rewards), copied(self.terminations), copied(self.truncations), infos

    cpdef object observations(self):
        return copies(self.views) if self.copy else self.views


cdef object copies(object tree):
    if type(tree) is dict:
        return {key: copies(part) for key, part in (<dict>tree).items()}
    if type(tree) is tuple:
        return tuple([copies(part) for part in <tuple>tree])
    return copied(tree)


cdef object copied(cnp.ndarray source):
    cdef cnp.ndarray copy = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(source), cnp.PyArray_DIMS(source), cnp.PyArray_TYPE(source), 0)
    if cnp.PyArray_IS_C_CONTIGUOUS(source):
        memcpy(cnp.PyArray_DATA(copy), cnp.PyArray_DATA(source), cnp.PyArray_NBYTES(source))
    else:  # a part of structured rows
        cnp.PyArray_CopyInto(copy, source)
    return copy


cdef object doubles(cnp.ndarray source):
    cdef cnp.ndarray copy = cnp.PyArray_EMPTY(1, cnp.PyArray_DIMS(source), cnp.NPY_FLOAT64, 0)
    cdef const float *x = <const float *>cnp.PyArray_DATA(source)
    cdef double *y = <double *>cnp.PyArray_DATA(copy)
    cdef Py_ssize_t i
    for i in range(cnp.PyArray_DIM(source, 0)):
        y[i] = x[i]
    return copy
