"""The worker's end: the envs of one worker, and the loop that steps them on order."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from fastvec_c.env cimport fastvec_env, fastvec_rows
from fastvec_c.fields cimport Fields
from fastvec_c.mailbox cimport Mailboxes
from fastvec_c.sync cimport fv_waiter
from fastvec_c.trace cimport fv_ring


cpdef enum:
    # What an env is told to do at a reset; [num_envs] of these lie in the arena.
    KEEP = 0          # nothing: its episode goes on
    RESET = 1         # begin an episode, go on with its random stream
    RESEED = 2        # begin an episode with the seed that lies beside


cdef class Host:
    cdef readonly list envs            # PyEnv or CompiledEnv
    cdef readonly int first_env        # global index of the first env
    cdef readonly int num_envs
    cdef readonly bint compiled        # CompiledEnv: stepped without the GIL
    cdef int32_t *current              # index of the env at work: own_current, or in the worker's mailbox
    cdef int32_t own_current
    cdef public object check           # debug=True: fastvec.debug.RowCheck; else None
    cdef readonly dict infos           # {global index: info} of the last order
    cdef fastvec_env **c               # [num_envs]
    cdef int *agents                   # [num_envs]: rows in use
    cdef uint8_t *has_info             # [num_envs]
    cdef Fields fields
    cdef int first_row, rows_per_env
    cdef int64_t *seed                 # [num_envs] of the arena, from first_env on
    cdef uint8_t *what                 # likewise: KEEP, RESET or RESEED

    cdef fastvec_rows rows(self, int i, int action_slot, int slot) noexcept nogil
    cdef void prepare_reset(self, int i, const fastvec_rows *at) noexcept nogil
    cdef void carry_masks(self, int i, int from_slot, int slot) noexcept nogil
    cdef int step_compiled(self, int action_slot, int slot) noexcept nogil
    cdef int reset_compiled(self, int slot) noexcept nogil
    cdef finish_compiled(self, int rc)
    cdef step(self, int action_slot, int slot)
    cdef step_python(self, int action_slot, int slot)
    cdef reset(self, int slot, list options)
    cdef reset_python(self, int slot, list options)
    cdef check_rows(self, int slot, bint stepped)


cdef class WorkerLoop:
    cdef readonly Host host
    cdef Mailboxes boxes
    cdef object conn
    cdef int index
    cdef uint32_t last                 # the last cmd seen
    cdef fv_waiter waiter
    cdef fv_ring *ring
    cdef int64_t now                   # when the last order came or was done: one look at the clock serves both

    cdef uint32_t serve_compiled(self, int *rc) noexcept nogil
    cdef void account(self, uint32_t order) noexcept nogil
