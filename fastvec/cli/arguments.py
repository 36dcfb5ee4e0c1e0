"""Argument types that commands share; argparse shows their errors."""
from __future__ import annotations

import argparse
import math


def count(text) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number of at least 1")
    return value


def count_or_auto(text):
    """A whole number of at least 1, or "auto"."""
    if text == "auto":
        return text
    try:
        return count(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number of at least 1, or 'auto'") from None


def seconds(text) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}; give a number of seconds above 0")
    return value


def seed(text) -> int:
    """A whole number that envs and torch take as a seed."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 62:
        raise argparse.ArgumentTypeError(f"{text!r}; give a whole number from 0 to 2**62 - 1")
    return value
