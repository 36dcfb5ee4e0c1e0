"""Checks of what users give, whatever it is: strings, arrays and objects that compare with nothing included."""
from __future__ import annotations

import operator

import numpy as np

from fastvec_c.seconds import FOREVER, is_seconds


def check_count(name, value, least=1, most=None) -> int:
    """A whole number, of Python or NumPy (whose small ones overflow), as an int.

    Raises:
        ValueError: it is none, or not from `least` to `most`.
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or count < least:
        raise ValueError(f"{name}={value!r}; give an int of at least {least}")
    if most is not None and count > most:
        raise ValueError(f"{name}={value!r}; at most {most} are possible")
    return count


def check_flag(name, value):
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}={value!r}; give True or False")


def check_choice(name, value, choices):
    """Raises ValueError unless `value` is one of some strings."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r}; give one of {choices}")


def check_limit(name, value) -> float:
    """A time above 0, at most FOREVER.

    Raises:
        ValueError: it is none.
    """
    if not (is_seconds(value) and value > 0):
        raise ValueError(f"{name}={value!r}; give a number of seconds above 0")
    return float(min(value, FOREVER))
