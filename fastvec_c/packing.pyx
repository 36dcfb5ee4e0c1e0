"""Samples of gymnasium spaces in and out of rows of bytes: memcpy where the sample already has the row's layout, NumPy's
`same_kind` casting where it does not."""
cimport numpy as cnp
from cpython.dict cimport PyDict_CheckExact
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLong, PyLong_CheckExact
from cpython.ref cimport Py_INCREF, PyObject
from libc.string cimport memcpy

import numpy as np

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object new_array "PyArray_NewFromDescr"(
        type subtype, cnp.dtype descr, int nd, const cnp.npy_intp *dims, const cnp.npy_intp *strides, void *data,
        int flags, PyObject *obj
    )
    # A NULL base makes structured scalars copies; NumPy's own .pxd has no way to say NULL.
    object scalar_from_bytes "PyArray_Scalar"(void *data, cnp.dtype descr, PyObject *base)
    bint can_cast "PyArray_CanCastTypeTo"(cnp.dtype from_, cnp.dtype to, cnp.NPY_CASTING casting)
    void scalar_to_bytes "PyArray_ScalarAsCtype"(object scalar, void *data)

cdef object copyto = np.copyto
cdef frozenset PLAIN_NUMBERS = frozenset((bool, int, float, complex))


cdef class Packer:
    """The layout of one row: `write_row` and `read_row` are for Python, `write` and `read` for the hot loop."""

    cdef int write(self, char *row, object sample) except -1:
        raise NotImplementedError

    cdef object read(self, const char *row):
        raise NotImplementedError

    def write_row(self, cnp.ndarray row not None, sample):
        """Writes `sample` into `row`, which the caller has checked: C-contiguous, writeable, this packer's layout."""
        self.write(<char *>cnp.PyArray_DATA(row), sample)

    def read_row(self, cnp.ndarray row not None):
        """A copy of `row` as the space's sample."""
        return self.read(<const char *>cnp.PyArray_DATA(row))


cdef class Leaf(Packer):
    """A row that is one array or one scalar."""

    cdef cnp.dtype descr
    cdef object scalar_type
    cdef int type_num
    cdef int ndim
    cdef cnp.npy_intp dims[64]  # NumPy's own limit
    cdef size_t nbytes

    def __cinit__(self, cnp.dtype dtype not None, tuple shape not None, str what not None):
        cdef int axis
        self.descr = dtype
        self.scalar_type = (<object>dtype).type  # of a cnp.dtype it would be the C type code
        self.type_num = dtype.num
        self.ndim = len(shape)
        self.nbytes = dtype.itemsize
        for axis in range(self.ndim):
            self.dims[axis] = shape[axis]
            self.nbytes *= self.dims[axis]
        self.what = what

    cdef bint fits(self, cnp.ndarray array) noexcept:
        """Whether the array's bytes are, as they lie, the row's bytes."""
        cdef int axis
        cdef cnp.npy_intp *dims
        if cnp.PyArray_NDIM(array) != self.ndim or not cnp.PyArray_IS_C_CONTIGUOUS(array):
            return False
        # Identity is enough: NumPy keeps one descriptor per native type, and others may take the slow path.
        if <PyObject *>cnp.PyArray_DESCR(array) != <PyObject *>self.descr:
            return False
        dims = cnp.PyArray_DIMS(array)
        for axis in range(self.ndim):
            if dims[axis] != self.dims[axis]:
                return False
        return True

    cdef cnp.ndarray view(self, void *data):
        """An array over `data`, or over new memory if it is NULL."""
        Py_INCREF(self.descr)  # PyArray_NewFromDescr steals it
        return new_array(
            cnp.ndarray, self.descr, self.ndim, self.dims, NULL, data,
            cnp.NPY_ARRAY_WRITEABLE if data else 0, NULL,
        )

    cdef int cast(self, char *row, object sample) except -1:
        """The general path: any array-like of the row's shape and of a dtype that casts as `same_kind`."""
        cdef cnp.ndarray array
        cdef int axis
        if sample is None:
            raise TypeError(f"{self.what} is None; {self.expected()}: return an observation from reset() and from step()")
        try:
            array = cnp.PyArray_FROM_O(sample)
        except ValueError as error:
            raise ValueError(f"{self.what} is no array ({error}); {self.expected()}") from error
        same_shape = cnp.PyArray_NDIM(array) == self.ndim
        for axis in range(self.ndim if same_shape else 0):
            same_shape = same_shape and cnp.PyArray_DIMS(array)[axis] == self.dims[axis]
        if not same_shape:
            raise ValueError(
                f"{self.what} has shape {np.shape(array)} and dtype {array.dtype}; {self.expected()}: "
                "correct the space or reshape the value"
            )
        # A plain Python number has no dtype of its own, so NumPy may fit it to the row's (5 goes into a uint8).
        if type(sample) in PLAIN_NUMBERS:
            return self.cast_number(row, sample, array)
        if not can_cast(array.descr, self.descr, cnp.NPY_SAME_KIND_CASTING):
            raise self.cast_error(array)
        return cnp.PyArray_CopyInto(self.view(row), array)

    cdef int cast_number(self, char *row, object number, cnp.ndarray array) except -1:
        cdef cnp.ndarray view = self.view(row)
        try:
            copyto(view, number, casting="same_kind")
        except (TypeError, OverflowError) as error:
            raise self.cast_error(array) from error
        if type(number) is int and self.descr.kind in "iu" and int(view[()]) != number:  # NumPy 1 lets it wrap
            raise self.cast_error(array)
        return 0

    cdef object cast_error(self, cnp.ndarray array):
        return TypeError(
            f"{self.what} has shape {np.shape(array)} and dtype {array.dtype}, which does not cast safely; "
            f"{self.expected()}: correct the space or convert the value with .astype({self.descr.name!r})"
        )

    cdef str expected(self):
        return f"expected shape {tuple([self.dims[axis] for axis in range(self.ndim)])} and dtype {self.descr}"


cdef class ArrayLeaf(Leaf):
    cdef int write(self, char *row, object sample) except -1:
        if cnp.PyArray_CheckExact(sample) and self.fits(<cnp.ndarray>sample):
            memcpy(row, cnp.PyArray_DATA(<cnp.ndarray>sample), self.nbytes)
            return 0
        return self.cast(row, sample)

    # A copy: the row is overwritten by the next send, and an env may keep its actions (for a cost on changes of
    # action, say).  A new small array takes about as long as a new view would.
    cdef object read(self, const char *row):
        cdef cnp.ndarray array = self.view(NULL)
        memcpy(cnp.PyArray_DATA(array), row, self.nbytes)
        return array


cdef class ScalarLeaf(Leaf):
    cdef bint is_native_number  # the layouts of C; everything else goes the general way

    def __cinit__(self, dtype, shape, what):
        self.is_native_number = cnp.PyTypeNum_ISNUMBER(self.type_num) and dtype.isnative

    cdef int write(self, char *row, object sample) except -1:
        cdef long long integer
        cdef double real
        cdef float single
        cdef long double number[2]  # room for any NumPy number, aligned as the row may not be
        if not self.is_native_number:
            self.cast(row, sample)
        elif PyLong_CheckExact(sample) and self.type_num == cnp.NPY_INT64:
            integer = PyLong_AsLongLong(sample)
            memcpy(row, &integer, sizeof(integer))
        elif PyFloat_CheckExact(sample) and self.type_num == cnp.NPY_FLOAT32:
            single = <float>PyFloat_AS_DOUBLE(sample)
            memcpy(row, &single, sizeof(single))
        elif PyFloat_CheckExact(sample) and self.type_num == cnp.NPY_FLOAT64:
            real = PyFloat_AS_DOUBLE(sample)
            memcpy(row, &real, sizeof(real))
        elif type(sample) is self.scalar_type:
            scalar_to_bytes(sample, number)
            memcpy(row, number, self.nbytes)
        else:
            self.cast(row, sample)
        return 0

    cdef object read(self, const char *row):
        return scalar_from_bytes(<void *>row, self.descr, NULL)


cdef class DictPacker(Packer):
    cdef list keys
    cdef list parts
    cdef list offsets

    def __cinit__(self, list keys not None, list parts not None, list offsets not None, str what not None):
        self.keys, self.parts, self.offsets, self.what = keys, parts, offsets, what

    cdef int write(self, char *row, object sample) except -1:
        cdef Py_ssize_t i
        cdef Py_ssize_t offset
        if not PyDict_CheckExact(sample) and not hasattr(sample, "keys"):
            raise TypeError(f"{self.what} is a {type(sample).__name__}; expected a dict with the keys {self.keys}")
        for i in range(len(self.keys)):
            try:
                part = sample[self.keys[i]]
            except KeyError:
                raise KeyError(f"{self.what} has the keys {list(sample)}; {self.keys[i]!r} is missing") from None
            offset = self.offsets[i]
            (<Packer>self.parts[i]).write(row + offset, part)
        return 0

    cdef object read(self, const char *row):
        cdef Py_ssize_t i
        cdef Py_ssize_t offset
        cdef dict sample = {}
        for i in range(len(self.keys)):
            offset = self.offsets[i]
            sample[self.keys[i]] = (<Packer>self.parts[i]).read(row + offset)
        return sample


cdef class TuplePacker(Packer):
    cdef list parts
    cdef list offsets

    def __cinit__(self, list parts not None, list offsets not None, str what not None):
        self.parts, self.offsets, self.what = parts, offsets, what

    cdef int write(self, char *row, object sample) except -1:
        cdef Py_ssize_t i
        cdef Py_ssize_t offset
        if not isinstance(sample, (tuple, list, np.ndarray)) or len(sample) != len(self.parts):
            size = f" of {len(sample)} parts" if hasattr(sample, "__len__") else ""
            raise TypeError(f"{self.what} is a {type(sample).__name__}{size}; expected a tuple of {len(self.parts)} parts")
        for i in range(len(self.parts)):
            offset = self.offsets[i]
            (<Packer>self.parts[i]).write(row + offset, sample[i])
        return 0

    cdef object read(self, const char *row):
        cdef Py_ssize_t i
        cdef Py_ssize_t offset
        cdef list sample = []
        for i in range(len(self.parts)):
            offset = self.offsets[i]
            sample.append((<Packer>self.parts[i]).read(row + offset))
        return tuple(sample)


cpdef Packer packer(object space, object dtype, tuple shape, str what):
    """The packer of rows of this dtype and shape that hold samples of `space`.

    Only `space.spaces` is looked at, to tell a Dict (a mapping) from a Tuple: their rows look the same.
    """
    if dtype.names is None or not hasattr(space, "spaces"):
        return ArrayLeaf(dtype, shape, what) if shape else ScalarLeaf(dtype, shape, what)
    is_dict = hasattr(space.spaces, "keys")
    keys = list(space.spaces) if is_dict else list(range(len(space.spaces)))
    parts = []
    offsets = []
    for key, name in zip(keys, dtype.names):
        field, offset = dtype.fields[name][:2]
        parts.append(packer(space.spaces[key], field.base, field.shape, f"{what}[{key!r}]"))
        offsets.append(offset)
    return DictPacker(keys, parts, offsets, what) if is_dict else TuplePacker(parts, offsets, what)
