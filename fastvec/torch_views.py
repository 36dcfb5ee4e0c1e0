"""A VecEnv's arrays as torch tensors on the same memory."""
from __future__ import annotations

import numpy as np


class TorchViews:
    """`vec.torch`: tensors that share memory with the arena, nothing copied.

    Whose the memory is, and until when, is as for the NumPy views (see `VecEnv`): rows of a batch are the trainer's from the
    `recv` that returned it until the `send` that answers it, and what is read from a tensor later is what the workers wrote
    since.  So `clone()` what is to be kept.  Tensors stay readable memory after `close`.

    Dict and Tuple observations are dicts of tensors by the names of their fields ("f0", "f1", … for a Tuple).

    Attributes:
        fields: {name: tensor [slots, num_rows, ...]}.
        observations, actions: [num_rows, ...], rewards: float32 [num_rows], terminations, truncations, masks: bool [num_rows];
            of the slot written last, as the VecEnv's attributes of the same names.
    """

    def __init__(self, vec, fields):
        self._vec = vec
        self.fields = fields

    def _last(self, name):
        return _at(self.fields[name], self._vec._slot)

    observations = property(lambda self: self._last("observations"))
    actions = property(lambda self: self._last("actions"))
    rewards = property(lambda self: self._last("rewards"))
    terminations = property(lambda self: self._last("terminations"))
    truncations = property(lambda self: self._last("truncations"))
    masks = property(lambda self: self._last("masks"))


def tensors(array: np.ndarray):
    """A tensor on the array's memory; a dict of them where the array is structured.

    Raises:
        ImportError: torch is not installed.
        TypeError: torch has no such dtype.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"vec.torch needs torch ({error}): pip install torch") from error
    if array.dtype.names is not None:
        return {name: tensors(array[name]) for name in array.dtype.names}
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise TypeError(f"torch has no tensors of {array.dtype} ({error}); read the NumPy array instead, or give the env another dtype") from error


def _at(tree, slot):
    return {name: _at(part, slot) for name, part in tree.items()} if isinstance(tree, dict) else tree[slot]
