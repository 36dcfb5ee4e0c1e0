from .pyenv cimport PyEnv


cdef class BufferEnv(PyEnv):
    cdef readonly bint resets_itself
    cdef object build
    cdef object env_step
    cdef object env_reset
    cdef tuple names  # of the env's buffers,
    cdef list views   # [slot]: and the rows that they end up in, in the same order
    cdef list actions  # [slot]
    cdef bint in_place  # the buffers were the rows when we last looked at all of them

    cdef object finish(self, object result, int size, int slot, str method)
    cdef bint still_in_place(self, tuple result, tuple views)


# Whether there is a value in an info: infos by agent are full of empty dicts.
cdef bint says_something(object info) except -1
