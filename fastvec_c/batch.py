"""What one `recv` returns."""
from typing import Any, Mapping, NamedTuple

import numpy as np


class Batch(NamedTuple):
    """The rows of the workers that one `recv` returns; n rows.

    The arrays are views on shared memory, or for gathered batches on buffers of the VecEnv's.  They are the caller's
    to read until the next `send` (with `slots=k`: until the k-th next one); then their workers write them again.

    Attributes:
        observations: [n, *observation shape].
        rewards: float32 [n].
        terminations, truncations: bool [n].
        masks: bool [n], False where no agent took part: its reward and flags mean nothing, its action is ignored.
        infos: {env index: dict} of the envs that had something to say.
        rows: int64 [n], the rows' global indices; env e has rows e * agents_per_env to (e + 1) * agents_per_env - 1.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    masks: np.ndarray
    infos: Mapping[int, Any]
    rows: np.ndarray
