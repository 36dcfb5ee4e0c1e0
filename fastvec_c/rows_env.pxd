from .pyenv cimport PyEnv


cdef class RowsEnv(PyEnv):
    cdef tuple names  # the attributes of the user's object that are rows
    cdef list views  # views[slot]: their values while the env writes that slot
    cdef list actions  # actions[slot]
    cdef int current  # the slot whose views the object has; -1 before the first reset
    cdef object env_step
    cdef object env_reset

    cdef int show(self, int slot) except -1
    cdef object finish(self, object info, int slot, str method)
