"""Generalized advantage estimation, over arrays of any trainer."""
from __future__ import annotations

import numpy as np

from fastvec_c.gae import estimate


def gae(rewards, values, last_values, terminations, truncations, *, masks=None, final_values=None, gamma=0.99, gae_lambda=0.95):
    """Advantages and returns of T steps of many rows (one row is an agent's stream of steps).

    With V(s_t) = values[t], and s_T the observation after the last step (Schulman et al. 2016, arXiv 1506.02438, eq. 11 to 16):

        delta_t = r_t + gamma * V' - V(s_t)
        A_t = delta_t + gamma * gae_lambda * A_{t+1}         and A_t = delta_t in the last step and at the end of an episode
        returns_t = A_t + V(s_t)

    V' is V(s_{t+1}), and 0 where the episode terminated.  Where it was cut off (truncated) more would have come, so V' is the
    value of the observation that it ended with (Pardo et al. 2018, arXiv 1712.00378), which `final_values` has; s_{t+1} may be the
    first of another episode.  Where nobody knows it, V(s_t) stands for it: an error of gamma * (V(s') - V(s_t)), which is small
    where values change little in a step; to take the end for a termination (`final_values=0`) errs by gamma * V(s').

    Steps masked 0 have advantage and return 0, and the one before takes nothing from them but V(s_{t+1}).

    Args:
        rewards, values: float32 [T, ...], any shape behind T, read in place if the rows of a step lie side by side (other dtypes
            and orders are converted; torch tensors are taken, too, those on a CPU without a copy).
        last_values: [...], V(s_T).
        terminations, truncations: bool [T, ...].
        masks: bool [T, ...], False where no agent took part; None: all did.
        final_values: "next" where an episode ends with s_{t+1} (as with gymnasium's autoreset in the next step, whose own step
            is masked); [T, ...], or a number for all, read where truncated, NaN where unknown; None: unknown.
        gamma, gae_lambda: from 0 to 1.

    Returns:
        (advantages, returns): float32 [T, ...] arrays of their own.

    Raises:
        ValueError, TypeError: shapes differ, or an argument is out of range.

    >>> advantages, returns = gae(np.ones((3, 1)), np.zeros((3, 1)), [10.0], np.zeros((3, 1)), np.zeros((3, 1)), gamma=0.5, gae_lambda=1)
    >>> returns[:, 0].tolist()
    [3.0, 4.0, 6.0]
    """
    for name, value in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
            raise ValueError(f"{name}={value!r}; give a number from 0 to 1")
    shape = np.shape(rewards)
    if not shape:
        raise ValueError(f"rewards={rewards!r}; give an array [T, ...]")
    floats = {"rewards": rewards, "values": values}
    if final_values is not None and not isinstance(final_values, str):
        floats["final_values"] = np.broadcast_to(np.float32(final_values), shape) if np.ndim(final_values) == 0 else final_values
    elif final_values not in (None, "next"):
        raise ValueError(f"final_values={final_values!r}; give 'next', an array of shape {shape}, a number or None")
    flags = {"terminations": terminations, "truncations": truncations, "masks": np.broadcast_to(True, shape) if masks is None else masks}
    floats = {name: _steps(name, x, shape, np.float32) for name, x in floats.items()}
    flags = {name: _steps(name, x, shape, np.bool_).view(np.uint8) for name, x in flags.items()}
    last = _steps("last_values", as_array("last_values", last_values, shape[1:])[None], (1, *shape[1:]), np.float32)[0]
    final = None if isinstance(final_values, str) else floats.get("final_values", floats["values"])
    advantages, returns = np.empty((2, *floats["rewards"].shape), np.float32)
    estimate(floats["rewards"], floats["values"], last, final, flags["terminations"], flags["truncations"], flags["masks"],
             gamma, gae_lambda, advantages, returns)
    return advantages.reshape(shape), returns.reshape(shape)


def as_array(name, x, shape):
    """An array, or a torch tensor, as an array.

    Raises:
        ValueError: it has another shape.
        TypeError: it has no numbers.
    """
    x = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    if x.shape != shape:
        raise ValueError(f"{name}: shape {x.shape}; give {shape}, as rewards have")
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{name}: dtype {x.dtype}; give numbers or bools")
    return x


def _steps(name, x, shape, dtype):
    """[T, rows], the rows of a step side by side."""
    x = as_array(name, x, shape)
    rows = int(np.prod(shape[1:], dtype=np.int64))
    x = x.astype(dtype, copy=False).reshape(shape[0], rows)
    return x if rows < 2 or x.strides[1] == x.itemsize else np.ascontiguousarray(x)
