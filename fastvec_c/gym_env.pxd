from .packing cimport Packer
from .pyenv cimport PyEnv

# The only row of one slot.
ctypedef struct SlotRow:
    char *observation
    const char *action
    float *reward
    unsigned char *termination
    unsigned char *truncation


cdef class GymEnv(PyEnv):
    cdef readonly str autoreset
    cdef int mode
    cdef bint ended  # the last step ended the episode, and nothing has been reset since
    cdef object env_step
    cdef object env_reset
    cdef Packer observation_packer
    cdef Packer action_packer
    cdef SlotRow *rows
    cdef int num_slots

    cdef SlotRow *row_of(self, int slot) except NULL
    cdef object begin(self, SlotRow *row, object result)
    cdef object begin_at_once(self, SlotRow *row, object final_obs, object final_info)
