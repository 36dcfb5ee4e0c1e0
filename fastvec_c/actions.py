"""Actions as users hand them over, made into rows."""
import numpy as np


def as_rows(actions, num_rows, shape, dtype, name="actions"):
    """A C-contiguous array [num_rows, *shape] of `dtype` with the values of `actions`.

    Args:
        actions: an array, a torch tensor on any device, nested lists; for a structured dtype also a dict or a tuple of
            these, one for each part.
        name: what errors call them.

    Raises:
        ValueError: the shape does not fit.
        TypeError: the values cannot be cast without loss of kind (floats for a discrete action).
    """
    return np.ascontiguousarray(_as_rows(actions, (num_rows, *shape), dtype, name))


def _as_rows(value, shape, dtype, name):
    if dtype.subdtype is not None:
        dtype, inner = dtype.subdtype
        shape = (*shape, *inner)
    if dtype.names is not None and isinstance(value, (dict, tuple)):
        return _structured_rows(value, shape, dtype, name)
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
    try:
        value = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"{name}: no array ({error}); give one of shape {shape}, the rows of the last batch first") from error
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape}; give {shape}, the rows of the last batch first")
    if value.dtype == dtype:
        return value
    if dtype.names is not None or not np.can_cast(value.dtype, dtype, "same_kind"):
        raise TypeError(f"{name}: dtype {value.dtype} cannot become {dtype}; convert it first")
    if dtype.kind in "iu" and value.size and (
        value.min() < np.iinfo(dtype).min or value.max() > np.iinfo(dtype).max
    ):
        raise ValueError(f"{name}: values from {value.min()} to {value.max()} do not fit into {dtype}")
    return value.astype(dtype)


def _structured_rows(value, shape, dtype, name):
    parts = value if isinstance(value, dict) else {f"f{i}": part for i, part in enumerate(value)}
    if set(parts) != set(dtype.names):
        raise ValueError(f"{name}: parts {sorted(parts)}; give {sorted(dtype.names)}")
    rows = np.zeros(shape, dtype)
    for key in dtype.names:
        rows[key] = _as_rows(parts[key], shape, dtype[key], f"{name}[{key!r}]")
    return rows


def out_of_bounds(rows, low, high):
    """The error for rows of which some number lies outside its bounds; `low` and `high` have a row's shape."""
    bad = (rows < low) | (rows > high)
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    low, high = np.broadcast_to(low, rows.shape)[at], np.broadcast_to(high, rows.shape)[at]
    index = ", ".join(map(str, at))
    return ValueError(f"actions[{index}] = {rows[at]} is out of range; give numbers from {low} to {high}")
