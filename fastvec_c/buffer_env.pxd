from .pyenv cimport PyEnv


cdef class BufferEnv(PyEnv):
    cdef object build
    cdef object env_step
    cdef object env_reset
    cdef tuple names  # of the env's buffers,
    cdef list views   # [slot]: and the rows that they end up in, in the same order
    cdef list actions  # [slot]

    cdef object finish(self, object result, int size, int slot, str method)
