"""One block of memory that the trainer and its workers share."""


cdef class Arena:
    cdef char *base
    cdef readonly size_t nbytes
    cdef readonly int fd       # the memory file, -1 once closed; the mapping outlives it

    cdef char *at(self, size_t offset, size_t nbytes) except NULL
