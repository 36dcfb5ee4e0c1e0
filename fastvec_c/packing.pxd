# A sample (what a gymnasium space samples) in and out of its row.  A Packer knows one row layout; it touches the row's
# bytes only during the call, and asks nothing of their alignment.

cdef class Packer:
    cdef readonly str what  # names the sample in errors
    cdef int write(self, char *row, object sample) except -1
    cdef object read(self, const char *row)


# space: a gymnasium space or a fastvec.Spec whose row has this dtype and shape.
cpdef Packer packer(object space, object dtype, tuple shape, str what)
