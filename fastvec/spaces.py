"""What one row of a field looks like, and how samples of gymnasium spaces lie in it."""
from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastvec_c.packing import packer


class UnsupportedSpace(TypeError):
    """Samples of a space have no fixed size in memory."""


@dataclass(frozen=True, eq=False)
class Spec:
    """One row of a field: what one agent observes, or does, in one step.

    Args:
        shape: the row's shape; `()` for a scalar.
        dtype: a NumPy dtype; a structured one for a row made of named parts (a Dict or Tuple space).
        low, high: inclusive bounds, a number or an array of the row's shape, or None.  Integer actions are checked
            against them; with `make(debug=True)` everything is, else they are information only.

    Two specs are equal when shape, dtype and every element's bounds are.

    >>> Spec((2984,), "float32")
    Spec(shape=(2984,), dtype=dtype('float32'), low=None, high=None)
    >>> Spec((), "int64", low=0, high=90).nbytes
    8
    """

    shape: tuple[int, ...] = ()
    dtype: Any = field(default=np.dtype("float32"))
    low: Any = None
    high: Any = None

    def __post_init__(self):
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def __eq__(self, other):
        if not isinstance(other, Spec):
            return NotImplemented
        return describe_difference(self, other) is None

    def __hash__(self):
        return hash((self.shape, self.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def describe_difference(a: Spec, b: Spec) -> str | None:
    """What distinguishes two specs, in words, or None if they are equal.

    >>> describe_difference(Spec((4,)), Spec((5,)))
    'shape (4,) against (5,)'
    >>> describe_difference(Spec((), "int64", 0, 3), Spec((), "int64", 0, 4))
    'high 3 against 4'
    """
    if a.shape != b.shape:
        return f"shape {a.shape} against {b.shape}"
    if a.dtype != b.dtype:
        return f"dtype {a.dtype} against {b.dtype}"
    for name in ("low", "high"):
        difference = _bound_difference(getattr(a, name), getattr(b, name), a.shape)
        if difference:
            return f"{name} {difference}"
    return None


def _bound_difference(x, y, shape):
    if x is None or y is None:
        return None if x is y else f"{x} against {y}"
    x, y = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
    if np.array_equal(x, y):
        return None
    index = tuple(int(i) for i in np.argwhere(x != y)[0])
    at = f" at {index}" if index else ""
    return f"{x[index]} against {y[index]}{at}"


def as_spec(space: Any, what: str) -> Spec:
    """The row that holds one sample of `space`.

    | space | row |
    | --- | --- |
    | Spec | itself |
    | Box | its shape and dtype; low and high are numbers where all elements agree |
    | Discrete | shape (), the space's dtype (int64), low = start, high = start + n - 1 |
    | MultiDiscrete | its shape and dtype, low and high per element |
    | MultiBinary | its shape, int8, low 0, high 1 |
    | Dict | shape (), an aligned structured dtype with a field per key, in the space's order |
    | Tuple | the same, with the fields "f0", "f1", … |

    Bounds of the parts of a Dict or Tuple are not kept.  A part without elements (a Box of shape (0,)) takes no bytes;
    a whole row must have some.

    Args:
        space: a Spec or a gymnasium space.
        what: what the space is for, such as "observation_space"; errors start with it.

    Raises:
        TypeError: the space is of another kind (Text, Sequence, Graph, OneOf, a space of the old `gym` package, no
            space at all), or a Dict's key cannot name a field.
        ValueError: its row would be empty.
    """
    spec = space if isinstance(space, Spec) else _spec_of(space, what)
    if spec.nbytes == 0:
        raise ValueError(f"{what} is {space}, a row of 0 bytes; give it at least one element")
    return spec


def _spec_of(space, what):
    # Whoever made a gymnasium space has imported gymnasium; nobody else should pay for it.
    spaces = getattr(sys.modules.get("gymnasium"), "spaces", None)
    if spaces is None or not isinstance(space, spaces.Space):
        raise TypeError(f"{what} is {space!r} of type {_type_name(space)}; expected a fastvec.Spec or a gymnasium space")
    if isinstance(space, spaces.Box):
        return Spec(space.shape, space.dtype, _collapse(space.low), _collapse(space.high))
    if isinstance(space, spaces.Discrete):
        return Spec((), space.dtype, int(space.start), int(space.start) + int(space.n) - 1)
    if isinstance(space, spaces.MultiDiscrete):
        # n - 1 first: start + n may be one more than the dtype holds.
        return Spec(space.shape, space.dtype, space.start.copy(), space.start + (space.nvec - 1))
    if isinstance(space, spaces.MultiBinary):
        return Spec(space.shape, space.dtype, 0, 1)
    if isinstance(space, spaces.Dict):
        return Spec((), _struct(list(space.spaces), list(space.spaces.values()), space, what))
    if isinstance(space, spaces.Tuple):
        names = [f"f{i}" for i in range(len(space.spaces))]
        return Spec((), _struct(names, list(space.spaces), space, what))
    raise UnsupportedSpace(
        f"{what} is {space}, and samples of a {type(space).__name__} space have no fixed size in memory; "
        "wrap the env so that the space is a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of those"
    )


def _struct(names, spaces, space, what):
    if not names:
        raise ValueError(f"{what} is {space}, which is empty; give it at least one part")
    for name in names:
        # NumPy renames a field with an empty name.
        if not isinstance(name, str) or not name:
            raise TypeError(f"{what} is {space} with the key {name!r}; keys must be non-empty strings")
    specs = [_spec_of(part, f"{what}[{name!r}]") for name, part in zip(names, spaces, strict=True)]
    return np.dtype([(name, spec.dtype, spec.shape) for name, spec in zip(names, specs, strict=True)], align=True)


def _collapse(bound):
    """A bound that is the same everywhere as one number: thousands of equal ones are no use to anybody."""
    same = bound.size > 0 and bool(np.all(bound == bound.flat[0]))
    return bound.flat[0].item() if same else bound.copy()


def _type_name(value):
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def write_sample(row: np.ndarray, sample: Any, space: Any) -> None:
    """Writes a sample of `space` into its row, casting as `np.copyto(..., casting="same_kind")` would.

    Loops that write many rows keep a `fastvec_c.packing.packer` instead.

    Args:
        row: C-contiguous, of `as_spec(space)`'s dtype and shape.  Take it as `rows[i, ...]`: `rows[i]` of a structured
            array is a scalar.
        sample: an array, number, dict or tuple, as the space samples them; further keys of a dict are left out.

    Raises:
        TypeError, ValueError, KeyError: the row is not one of `space`, or the sample does not fit into it.
    """
    spec = as_spec(space, "space")
    if not isinstance(row, np.ndarray):
        raise TypeError(f"row is a {_type_name(row)}; expected an ndarray on the row's memory, such as rows[i, ...]")
    if not (row.flags.c_contiguous and row.flags.writeable):
        raise ValueError("row is read-only or not C-contiguous; take it from a C-contiguous array of rows")
    _check_row(row, spec)
    packer(space, spec.dtype, spec.shape, "sample").write_row(row, sample)


def read_sample(row: np.ndarray, space: Any) -> Any:
    """A row as a sample of `space`, the way gymnasium hands it to `env.step`; nothing of it aliases the row.

    Returns:
        a NumPy scalar (Discrete, a Box of shape ()), an array, a dict in the space's key order, or a tuple.
    """
    spec = as_spec(space, "space")
    row = np.ascontiguousarray(row).reshape(np.shape(row))
    _check_row(row, spec)
    return packer(space, spec.dtype, spec.shape, "sample").read_row(row)


def _check_row(row, spec):
    if row.dtype != spec.dtype or row.shape != spec.shape:
        raise ValueError(f"row has shape {row.shape} and dtype {row.dtype}; the space needs {spec.shape} and {spec.dtype}")
