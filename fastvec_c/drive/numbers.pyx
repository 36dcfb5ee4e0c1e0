"""Numbers out of parsed JSON, into arrays: what takes longest in reading a scene file."""
from cpython.dict cimport PyDict_GetItemWithError
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsDouble, PyLong_Check
from cpython.object cimport PyObject
from libc.math cimport NAN, fabs


class BadValue(ValueError):
    """A value that cannot be used.

    Attributes:
        at: where in what was given, like "[3].x".
        problem: what is wrong with it, to be put behind its name.
    """

    def __init__(self, at, problem):
        super().__init__(f"{at} {problem}")
        self.at, self.problem = at, problem


def brief(value):
    """What a message shows of a value."""
    text = ascii(value) if isinstance(value, (str, int, float, type(None))) else f"of type {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "..."


def number(value, double largest, at=""):
    """The float that a JSON value is.

    Raises:
        BadValue: it is no number, NaN, or farther from 0 than `largest`.
    """
    cdef double v = _number(value)
    if fabs(v) <= largest:
        return v
    _fail(value, largest, at)


def fill(list values, float[::1] out, double largest):
    """Writes a list of numbers to `out`, which is as long.  Raises BadValue as `number` does."""
    cdef Py_ssize_t k
    cdef double v
    for k in range(out.shape[0]):
        v = _number(values[k])
        if not fabs(v) <= largest:
            _fail(values[k], largest, f"[{k}]")
        out[k] = <float>v


def fill_points(list values, float[:, ::1] out, double largest):
    """Writes a list of {"x": number, "y": number} to `out`, float32 (as long, 2).  Raises BadValue as `number` does."""
    cdef Py_ssize_t k
    cdef PyObject *x
    cdef PyObject *y
    cdef double vx, vy
    for k in range(out.shape[0]):
        value = values[k]
        if not isinstance(value, dict):
            raise BadValue(f"[{k}]", f"is {brief(value)}: expected an object with the keys x and y")
        x, y = PyDict_GetItemWithError(value, "x"), PyDict_GetItemWithError(value, "y")
        if x is NULL or y is NULL:
            raise BadValue(f"[{k}].{'x' if x is NULL else 'y'}", "is missing")
        vx, vy = _number(<object>x), _number(<object>y)
        if not fabs(vx) <= largest:
            _fail(<object>x, largest, f"[{k}].x")
        if not fabs(vy) <= largest:
            _fail(<object>y, largest, f"[{k}].y")
        out[k, 0], out[k, 1] = <float>vx, <float>vy


cdef inline double _number(value):
    # NaN for what is no number, or one beyond doubles.
    if PyFloat_CheckExact(value):
        return PyFloat_AS_DOUBLE(value)
    if PyLong_Check(value):
        try:
            return PyLong_AsDouble(value)
        except OverflowError:
            return NAN
    return NAN


cdef _fail(value, double largest, at):
    if not isinstance(value, (int, float)):
        raise BadValue(at, f"is {brief(value)}: expected a number")
    if isinstance(value, float) and value != value:
        raise BadValue(at, "is NaN: expected a finite number")
    shown = value if isinstance(value, float) else "beyond that"
    raise BadValue(at, f"is {shown}: expected a number of at most {largest:g} either way")
