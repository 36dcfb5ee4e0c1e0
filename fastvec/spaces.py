"""What one row of a field looks like."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spec:
    """One row of a field: what one agent observes, or does, in one step.

    Args:
        shape: the row's shape; `()` for a scalar.
        dtype: a NumPy dtype; a structured one for a row made of named parts (a Dict or Tuple space).
        low, high: inclusive bounds, a number or an array of the row's shape, or None.  Integer actions are checked
            against them; for floats they are information only.

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

    @property
    def nbytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
