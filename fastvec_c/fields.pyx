"""The arrays of the arena: where each row of each slot lies."""
import numpy as np

STANDARD = ("observations", "actions", "rewards", "terminations", "truncations", "masks")
_ALIGN = 4096  # whole pages: the worker that owns a slab is the first to touch its pages


def plan(specs, slots, rows, start):
    """Lays fields of [slots, rows, *shape] one after the other from byte `start`.

    Args:
        specs: [(name, shape of a row, dtype)], the standard fields first, in the order of STANDARD.

    Returns:
        ([(name, shape, dtype, offset)], the first byte behind them)
    """
    placed = []
    for name, shape, dtype in specs:
        start = -(-start // _ALIGN) * _ALIGN
        placed.append((name, tuple(shape), np.dtype(dtype), start))
        start += slots * rows * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return placed, start


cdef class Fields:
    """Views on planned fields.

    Args:
        placed: what `plan` returned.
    """

    def __init__(self, Arena arena, list placed, int slots, int rows):
        if len(placed) > MAX_FIELDS:
            raise ValueError(f"fields: {len(placed) - EXTRA} extra fields; at most {MAX_FIELDS - EXTRA} are possible")
        self.arena = arena
        self.num_fields = len(placed)
        self.slots = slots
        self.rows = rows
        self.views = {}
        for i, (name, shape, dtype, offset) in enumerate(placed):
            view = arena.view(offset, (slots, rows, *shape), dtype)
            self.views[name] = view
            self.field[i].row_nbytes = view.nbytes // max(1, slots * rows)
            self.field[i].slot_nbytes = self.field[i].row_nbytes * rows
            self.field[i].base = arena.at(offset, view.nbytes)
