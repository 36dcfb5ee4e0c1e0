from .buffer_env cimport BufferEnv


cdef class EmulatedEnv(BufferEnv):
    cdef bint discrete        # an action is one number
    cdef bint settled         # PufferLib's checks of a first observation and a first action have been made
    cdef object action        # of the action row, flat
    cdef object observations, rewards, terminals, truncations, masks  # the buffers

    cdef bint takes(self, tuple result) except -1
    cdef object store(self, tuple result)
    cdef int write_observation(self, object observation) except -1
