from fastvec_c.drive.layout cimport drive_rules


cdef class Rules:
    # What a DriveConfig says, for the C code; never changes after __init__.  Pointers in `data` go into what is kept.
    cdef drive_rules data
    cdef list _keep

    cdef void *_zeros(self, size_t nbytes)
    cdef _set_row(self, config)
    cdef _set_actions(self, config)
