"""`make(debug=True)`: looks through every action and every row, and names whoever wrote what does not belong there."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastvec_c.errors import RowError

from fastvec.hosting import Description
from fastvec.spaces import Spec, as_spec

_FLAGS = ("terminations", "truncations", "masks")


@dataclass(frozen=True)
class Part:
    """One array of numbers in a row: the row itself, or a part of a structured one.

    Attributes:
        path: names of the part, outermost first; () for the row itself.
        low, high: inclusive bounds of the array's dtype, a number or one for each element; None where there are none.
        finite: NaN and infinities are wrong wherever they stand.
    """

    path: tuple[str, ...]
    low: Any
    high: Any
    finite: bool

    def of(self, rows: np.ndarray) -> np.ndarray:
        """This part of some rows: [n, *shape]."""
        for name in self.path:
            rows = rows[name]
        return rows

    def wrong(self, rows: np.ndarray, used: np.ndarray) -> tuple[int, ...] | None:
        """The place of the first wrong number in this part of the rows that are `used`, a bool [n]; None if there is none."""
        array, bad = self.of(rows), None
        if self.finite and array.dtype.kind in "fc":
            bad = ~np.isfinite(array)
        if self.low is not None:
            bad = _either(bad, ~(array >= self.low))  # so that NaN is wrong, too
        if self.high is not None:
            bad = _either(bad, ~(array <= self.high))
        if bad is None:
            return None
        bad[~used] = False
        return tuple(int(i) for i in np.unravel_index(np.argmax(bad), bad.shape)) if bad.any() else None

    def name(self, field: str, index: tuple[int, ...]) -> str:
        """How an element is written in Python."""
        return field + "".join(f"[{name!r}]" for name in self.path) + (f"[{', '.join(map(str, index))}]" if index else "")

    def bounds(self, index: tuple[int, ...]) -> tuple:
        """(low, high) of the element at `index` of a row; None where it has none."""
        return tuple(None if b is None else b[index].item() if b.ndim else b.item() for b in (self.low, self.high))


def _either(a, b):
    return b if a is None else a | b


def parts(spec: Spec, space=None, finite=True) -> list[Part]:
    """What a row of `spec` consists of; the bounds of a structured row's parts are those that its gymnasium space declares."""
    if spec.dtype.names is None:
        return [Part((), _bound(spec.low, spec, max), _bound(spec.high, spec, min), finite)]
    inner = getattr(space, "spaces", None)
    found = []
    for i, name in enumerate(spec.dtype.names):
        base, shape = spec.dtype[name].subdtype or (spec.dtype[name], ())
        part = None if inner is None else inner[name] if hasattr(inner, "keys") else inner[i]
        of_part = Spec(shape, base) if part is None else as_spec(part, name)
        found += [Part((name, *p.path), p.low, p.high, p.finite) for p in parts(of_part, part, finite)]
    return found


def _bound(value, spec, stricter):
    """A bound as an array of the dtype that it is compared in, of shape () or a row's; None where it forbids nothing."""
    if value is None or spec.dtype.kind not in "fiu":
        return None
    value = np.asarray(value)
    if spec.dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = value.astype(spec.dtype)
        limit = -np.inf if stricter is max else np.inf
    else:
        info = np.iinfo(spec.dtype)
        limit = info.min if stricter is max else info.max
        value = np.array([stricter(int(v), limit) for v in value.ravel()], spec.dtype).reshape(value.shape)
    if (value == limit).all():
        return None
    return value if value.ndim == 0 else np.broadcast_to(value, spec.shape)


def _allowed(low, high, dtype) -> str:
    """What may stand there, in words."""
    what = "finite numbers" if dtype.kind == "f" else "numbers"
    unbounded = [bound is None or not np.isfinite(bound) for bound in (low, high)]
    return what + {
        (False, False): f" from {low} to {high}", (False, True): f" of at least {low}", (True, False): f" of at most {high}", (True, True): "",
    }[tuple(unbounded)]


class RowCheck:
    """Looks through the rows of one worker's envs when they have written them.

    Args:
        fields: {name: array [slots, rows, ...]} of the arena.
        description: of the first env.
        first_env, num_envs: the worker's.
        rows_per_env: of each.
    """

    def __init__(self, fields: dict, description: Description, first_env: int, num_envs: int, rows_per_env: int):
        self._rows_per_env = rows_per_env
        self._first_row = first_env * rows_per_env
        rows = slice(self._first_row, self._first_row + num_envs * rows_per_env)
        self._slots = [{name: array[slot, rows] for name, array in fields.items()} for slot in range(len(fields["masks"]))]
        self._parts = {
            "observations": parts(description.observation_spec, description.observation_space),
            "rewards": parts(Spec()),
            # What an unbounded field of an env's own means is its own business: NaN may stand for "none".
            **{name: parts(spec, finite=False) for name, spec in description.fields.items()},
        }
        self._steps = 0

    def __call__(self, slot: int, stepped: bool) -> RowError | None:
        """The error for the first wrong thing in the rows of `slot`; after a step, or a reset."""
        rows = self._slots[slot]
        self._steps += stepped
        when = f"in step {self._steps} of its worker" if stepped else f"in a reset after {self._steps} steps of its worker"
        for name in _FLAGS:
            flags = rows[name].view(np.uint8)
            if flags.max() > 1:
                r = int(np.argmax(flags > 1))
                return self._error(name, (), r, f"{name} is the byte {flags[r]}", "0 or 1", when, flags[r].item(), 0, 1)
        for name, found in self._parts.items():
            for part in found:
                at = part.wrong(rows[name], rows["masks"])
                if at is not None:
                    array, (low, high) = part.of(rows[name]), part.bounds(at[1:])
                    return self._error(name, at[1:], at[0], f"{part.name(name, at[1:])} is {array[at]}", _allowed(low, high, array.dtype), when,
                                       array[at].item(), low, high)
        return None

    def _error(self, field, index, r, what, allowed, when, value, low, high):
        env, agent = divmod(self._first_row + r, self._rows_per_env)
        message = f"{what} for agent {agent} of env {env} (row {self._first_row + r}), {when}; allowed are {allowed}"
        return RowError(message, env=env, agent=agent, row=self._first_row + r, field=field, index=index, value=value, low=low, high=high)


class ActionCheck:
    """Looks through the actions of a batch before they are sent.

    Args:
        fields: {name: array [slots, rows, ...]} of the arena.
        description: of the first env.
        rows_per_env, rows_per_worker: as laid out.
        num_workers: 0 for envs in this process.
    """

    def __init__(self, fields: dict, description: Description, rows_per_env: int, rows_per_worker: int, num_workers: int):
        self._actions, self._masks = fields["actions"], fields["masks"]
        self._parts = parts(description.action_spec, description.action_space)
        self._rows_per_env, self._rows_per_worker, self._num_workers = rows_per_env, rows_per_worker, num_workers
        self._batches = 0

    def __call__(self, blocks):
        """Looks through blocks of rows, [(first row, rows, slot)], which the batch consists of.

        Raises:
            ValueError: some action does not belong to the action space.  Those of rows that are masked are ignored, but for
                integers, which envs may take for indices all the same.
        """
        self._batches += 1
        before = 0  # rows of the batch in earlier blocks
        for first, n, slot in blocks:
            rows, masks = self._actions[slot, first:first + n], self._masks[slot, first:first + n]
            for part in self._parts:
                used = masks if part.of(rows).dtype.kind == "f" else np.ones(n, bool)
                at = part.wrong(rows, used)
                if at is not None:
                    raise self._error(part, at, before, first, part.of(rows)[at])
            before += n

    def _error(self, part, at, before, first, value):
        row = first + at[0]
        env, agent = divmod(row, self._rows_per_env)
        worker = f", worker {row // self._rows_per_worker}" if self._num_workers else ""
        return ValueError(
            f"{part.name('actions', (before + at[0], *at[1:]))} = {value} for agent {agent} of env {env} (row {row}{worker}), in batch "
            f"{self._batches}; give {_allowed(*part.bounds(at[1:]), value.dtype)}"
        )
