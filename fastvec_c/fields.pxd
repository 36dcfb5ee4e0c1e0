"""The arrays of the arena: where each row of each slot lies."""
from fastvec_c.arena cimport Arena


cdef enum:
    OBSERVATIONS = 0
    ACTIONS = 1
    REWARDS = 2
    TERMINATIONS = 3
    TRUNCATIONS = 4
    MASKS = 5
    EXTRA = 6           # the env's own fields begin here
    MAX_FIELDS = 14     # EXTRA + FASTVEC_MAX_EXTRA


cdef struct Field:
    char *base          # of row 0 in slot 0
    size_t row_nbytes
    size_t slot_nbytes  # from one slot to the next: rows * row_nbytes


cdef class Fields:
    cdef Arena arena
    cdef Field field[MAX_FIELDS]
    cdef readonly int num_fields
    cdef readonly int slots
    cdef readonly int rows
    cdef readonly dict views   # {name: ndarray [slots, rows, *shape]}


cdef inline char *row(Field *f, int slot, int r) noexcept nogil:
    return f.base + slot * f.slot_nbytes + r * f.row_nbytes
