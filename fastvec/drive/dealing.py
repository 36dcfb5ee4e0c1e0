"""Which world hosts which scenes."""
from __future__ import annotations

import numpy as np


def deal(files, worlds, first_world=0, total_worlds=None, resample_every=0, sample_with_replacement=False, seed=None):
    """For each of `worlds` worlds the files that it hosts in turn; the arguments are those of `fastvec.drive.Drive`.

    Raises:
        ValueError: names the argument that is out of range.
    """
    for name, value, least in (("worlds", worlds, 1), ("first_world", first_world, 0), ("resample_every", resample_every, 0), ("seed", seed, 0)):
        if value is not None:
            check_count(name, value, least)
    total_worlds = first_world + worlds if total_worlds is None else total_worlds
    check_count("total_worlds", total_worlds, first_world + worlds)
    if seed is not None:
        files = [files[i] for i in np.random.default_rng(seed).permutation(len(files))]
    if sample_with_replacement:
        return [files] * worlds
    if resample_every and len(files) > total_worlds:
        return [files[first_world + w::total_worlds] for w in range(worlds)]
    return [[files[(first_world + w) % len(files)]] for w in range(worlds)]


def check_count(name, value, least):
    """Raises ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least {least}")
