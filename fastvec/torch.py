"""fastvec with a policy on a GPU: batches to the device and actions back, while envs step."""
from __future__ import annotations

import contextlib
import itertools
import os
import warnings
import weakref
from collections import deque
from types import MappingProxyType
from typing import Any, Mapping, NamedTuple

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError(f"fastvec.torch needs torch ({error}): pip install torch") from error

from fastvec_c.errors import ClosedError, StateError
from fastvec_c.loans import PACKED_NBYTES, borrow, give_back, pack

from fastvec.torch_devices import open_device
from fastvec.torch_views import tensors
from fastvec.vec_env import VecEnv

_GLANCE, _LONGER = 50e-6, 1.25  # seconds to wait for workers before looking at the GPU again, and how much longer each next time
_MIB = 2**20
_NO_INFOS = MappingProxyType({})


class DeviceBatch(NamedTuple):
    """The rows of the workers that one `recv` returns, on the device; n rows.

    Attributes:
        observations: [n, *observation shape]; a dict of tensors for Dict and Tuple spaces ("f0", "f1", …).
        rewards: float32 [n].
        terminations, truncations: bool [n].
        masks: bool [n], False where no agent took part.
        infos: {env index: dict} of the envs that had something to say; not on the device.
        rows: int64 [n], the rows' global indices.
    """

    observations: Any
    rewards: torch.Tensor
    terminations: torch.Tensor
    truncations: torch.Tensor
    masks: torch.Tensor
    infos: Mapping[int, Any]
    rows: torch.Tensor


class DeviceLoop:
    """Steps a VecEnv with a policy on a device.

    >>> import fastvec, gymnasium, torch
    >>> from fastvec.torch import DeviceLoop
    >>> creator = lambda: gymnasium.make("CartPole-v1")
    >>> with fastvec.make(creator, num_workers=3, batch_size=1) as vec, DeviceLoop(vec, device="cpu") as loop:
    ...     loop.reset(seed=0)
    ...     for batch in loop.batches():
    ...         loop.send(torch.zeros(len(batch.rows), dtype=torch.int64))
    ...         if batch.terminations.any():
    ...             break

    On a GPU the arena is page-locked.  Observations go from the workers' own rows to the device, one copy for each run of
    neighbouring workers; rewards, flags, masks and row indices are small and go together in one more; actions go straight into
    their rows of the arena.  Copies have streams of their own.  No call waits for the GPU while there is something else to do: with
    `batch_size` a third of the envs, say, one batch is with the policy while the next is copied and the envs of the third step.
    The workers of a batch step when its actions have arrived, which `recv` and `flush` look for.

    On the CPU a batch that lies in one piece is tensors on the arena, with nothing copied; others are copied together.

    Who owns what: a batch's tensors are yours from the `recv` that returned it to the `send` that answers it.  What you have asked
    of the GPU before that `send`, on the stream that is current there, still sees them; so does a copy, `clone()`.  The stream that
    is current in `recv` waits for the batch; use the same in both, or have streams wait for one another.  The tensors of a loop lie
    at the same few addresses, as CUDA graphs want it.

    While a loop is in use, take its `reset`, `recv` and `send` and not those of the VecEnv, nor `step`.

    Args:
        vec: from `fastvec.make`.
        device: "cpu", "cuda", "cuda:1", a torch.device; None is "cuda" where torch sees a GPU, else "cpu".
        depth: batches that have tensors at the same time, each a batch's size in the device's memory.  With 1 nothing overlaps:
            `recv` looks for one batch only, and `send` returns when the actions have arrived.
        pin: page-lock the arena.  Where CUDA refuses there is a RuntimeWarning, and copies are slower.

    Attributes:
        vec, depth: as given.
        device: the torch.device.
        pinned: whether the arena is page-locked.

    Raises:
        ValueError, TypeError: an argument does not fit, the device is not there, or torch lacks a dtype.

    For one thread at a time.  `close` it (or leave its `with`) before the VecEnv.
    """

    def __init__(self, vec, device=None, *, depth=2, pin=True):
        if not isinstance(vec, VecEnv):
            raise TypeError(f"vec is a {type(vec).__name__}; give the VecEnv that fastvec.make returned")
        if isinstance(depth, bool) or not hasattr(depth, "__index__") or depth < 1:
            raise ValueError(f"depth={depth!r}; give an int of at least 1")
        self._device = open_device(device)
        # Also runs when the loop is garbage or the interpreter exits; the device keeps the arena mapped until then.
        self._release = weakref.finalize(self, _release_if_ours, os.getpid(), self._device)
        self.vec = vec
        self.depth = int(depth)
        self.device = self._device.device
        self._units = vec.num_rows // vec.rows_per_unit
        self._n = vec.units_per_batch * vec.rows_per_unit
        self._lent = 0  # units
        self._current = None  # with the user
        self._ready = deque()  # received, on their way to the device or there
        self._sent = deque()  # answered, whose actions are on their way
        self._in_place = {}  # {(slot, first row): DeviceBatch}
        self._all_rows = torch.arange(vec.num_rows)
        memory = np.frombuffer(vec.fields["masks"].base, np.uint8)
        try:
            if pin:
                self._pin(memory)
            with torch.inference_mode(False):  # else they could be written under it only
                self._host = _bytes(vec.fields["observations"], memory)
                self._host_actions = _plain_tensor(vec.fields["actions"])
                self._free = deque(_Buffers(self._device, vec, self._n) for _ in range(self.depth))
        except BaseException:
            self._release()
            raise

    def _pin(self, memory):
        refusal = self._device.pin(memory)
        if refusal:
            warnings.warn(
                f"DeviceLoop: CUDA does not page-lock the arena of {memory.nbytes / _MIB:.3g} MiB: {refusal}.  The loop goes on with "
                "copies from pageable memory, which are slower and keep this thread busy.  Raise the limit, make fewer envs or slots, or "
                "give pin=False to have it so", RuntimeWarning, stacklevel=3,
            )

    @property
    def pinned(self) -> bool:
        return self._device.pinned

    # ---- the loop ----------------------------------------------------------------------------------------------------

    def reset(self, seed=None, options=None):
        """Begins new episodes in all envs; `recv` then gives the first batches.  Actions that were sent are carried out before.

        Args:
            seed, options: as for `VecEnv.reset`.

        Raises:
            what `VecEnv.async_reset` raises; ValueError: actions sent before are out of bounds: call it again.
        """
        self._check_open("reset")
        self.flush()
        self._device.finish()  # no copy reads rows any more
        self.vec.async_reset(seed, options)
        mark = self._device.mark()
        for loan in (*self._ready, *([self._current] if self._current else ())):
            self._let_go(loan, mark)
        self._ready.clear()
        self._current, self._lent = None, 0

    def batches(self):
        """Batch after batch, for ever: each must be answered with `send` before the next."""
        while True:
            yield self.recv()

    def run(self, policy, steps):
        """Answers `steps` batches with `policy(batch.observations)`, without gradients; for a loop that needs more than that, take
        `batches`.  All actions have reached their workers when it returns."""
        if isinstance(steps, bool) or not hasattr(steps, "__index__") or steps < 0:
            raise ValueError(f"steps={steps!r}; give a number of batches")
        with torch.no_grad():
            for batch in itertools.islice(self.batches(), int(steps)):
                self.send(policy(batch.observations))
        self.flush()

    def recv(self) -> DeviceBatch:
        """The next batch; see `VecEnv.recv` for which it is.

        Raises:
            StateError: before the first `reset`, or the last batch has not been answered.
            RecvTimeout, WorkerError: as in `VecEnv.recv`.
            ValueError: actions of an earlier batch, now arrived, are out of bounds.  That batch stays unanswered until a `reset`.
        """
        self._check_open("recv")
        if self._current is not None:
            raise StateError("recv() with the last batch unanswered: call send(actions) first")
        self._give_back_arrived()
        self._receive(0)
        glance = _GLANCE
        while not self._ready:
            self._receive_first(glance)
            glance *= _LONGER
        loan = self._ready.popleft()
        self._device.use(loan.copied)
        self._current = loan
        return loan.batch

    def send(self, actions):
        """Answers the batch that `recv` returned last.

        Args:
            actions: [n, *action shape]; a tensor of the device, best of the action dtype (one that casts to it without loss of
                kind will do, and is cast on the host), or anything that `VecEnv.send` takes, at the cost of waiting for it.

        Raises:
            StateError: there is no batch to answer.
            ValueError, TypeError: wrong shape, dtype or range; nothing has been sent then, and the batch is still yours.  But the
                range of actions from a GPU is checked when they have arrived: see `recv` (with `depth=1`, that is in this call).
        """
        self._check_open("send")
        loan = self._current
        if loan is None:
            raise StateError("send() with no batch to answer: call recv() first")
        if isinstance(actions, torch.Tensor) and actions.device == self.device and not self._device.in_place and self._host_actions is not None:
            self._fetch(loan, actions.detach())
        else:
            self._answer_now(loan, actions)
        self._current = None
        if self.depth == 1:
            self.flush()

    def flush(self):
        """Waits until all actions that were sent have arrived and their workers step.

        Raises:
            ValueError: some are out of bounds: see `recv`.
        """
        while self._sent:
            self._device.wait(self._sent[0].arrived)
            self._give_back_first()

    def close(self):
        """Hands over the actions that were sent, waits for the GPU, and unlocks the arena.  May be called again.

        Batches that were not answered stay so: the VecEnv's next call is `reset`.
        """
        try:
            with contextlib.suppress(ClosedError):  # of the VecEnv
                self.flush()
        finally:
            self._end()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self._end()  # no second error on top

    def _end(self):
        self._release()
        self._current = None
        for batches in (self._ready, self._sent, self._free):
            batches.clear()

    def __repr__(self):
        return f"<fastvec.torch.DeviceLoop on {self.device}: {self._n} rows a batch of {self.vec!r}>"

    def _check_open(self, call):
        if not self._release.alive:
            raise StateError(f"{call}() after close(): make a new DeviceLoop")

    # ---- batches in --------------------------------------------------------------------------------------------------

    def _receive(self, wait):
        """Borrows batches as long as there are buffers for them, and has them copied.  Waits for the first, `wait` seconds."""
        while len(self._ready) < self.depth and self._some_are_out():
            found = borrow(self.vec, wait)
            if found is None:
                return
            self._lent += len(found[0])
            self._ready.append(self._to_device(*found))
            wait = 0

    def _receive_first(self, glance):
        """One step of waiting, for workers or for actions: whichever comes first gives somebody something to do."""
        if not self._some_are_out():
            if not self._sent:
                raise StateError("recv() with nothing sent: the actions of every batch were out of bounds; call reset()")
            self._device.wait(self._sent[0].arrived)
            self._give_back_first()
        elif self._sent:
            self._receive(glance)
            self._give_back_arrived()
        else:
            self._receive(-1)

    def _some_are_out(self):
        """Whether a batch is with the workers."""
        return self._units - self._lent >= self.vec.units_per_batch

    def _to_device(self, units, runs, infos):
        """A loan whose rows are being copied to the device, or lie there already."""
        if self._device.in_place and len(runs) == 1:
            return _Loan(units, runs, None, None, _with(self._views(*runs[0][:2]), infos))
        buffers = self._free.popleft()
        self._device.wait(buffers.copied)  # the staging memory has been read
        pack(self.vec, units, buffers.staging_array)
        pairs, at = [(buffers.packed, buffers.staging)], 0
        for slot, first, n in runs:
            pairs.append((buffers.observations[at:at + n], self._host[slot, first:first + n]))
            at += n
        buffers.copied = self._device.copy_in(pairs, buffers.seen)
        return _Loan(units, runs, buffers, buffers.copied, _with(buffers.batch, infos))

    def _views(self, slot, first):
        """A batch in place."""
        batch = self._in_place.get((slot, first))
        if batch is None:
            rows = slice(first, first + self._n)
            names = ("observations", "rewards", "terminations", "truncations", "masks")
            views = [tensors(self.vec.fields[name][slot, rows]) for name in names]
            batch = self._in_place[slot, first] = DeviceBatch(*views, _NO_INFOS, self._all_rows[rows])
        return batch

    # ---- actions out -------------------------------------------------------------------------------------------------

    def _fetch(self, loan, actions):
        """Has actions copied from the device into their rows, or to be cast from elsewhere."""
        field = self._host_actions
        if actions.shape != (self._n, *field.shape[2:]):
            raise ValueError(f"actions: shape {tuple(actions.shape)}; give {(self._n, *field.shape[2:])}, the rows of the last batch first")
        if actions.dtype == field.dtype:
            actions = actions.contiguous()
            pairs, at = [], 0
            for slot, first, n in loan.runs:
                pairs.append((field[slot, first:first + n], actions[at:at + n]))
                at += n
        elif _casts(actions.dtype, self.vec.action_spec.dtype):
            actions = actions.contiguous()
            target = self._device.staging(actions)
            pairs = [(target, actions)]
            loan.actions = target.numpy()
        else:
            raise TypeError(f"actions: dtype {actions.dtype} cannot become {self.vec.action_spec.dtype}; convert it first")
        mark = self._device.mark()
        loan.kept = actions  # torch's allocator knows nothing of the stream that reads it
        loan.arrived = self._device.copy_out(pairs, mark)
        self._let_go(loan, mark)
        self._sent.append(loan)

    def _answer_now(self, loan, actions):
        """Sends actions that are on the host, or that only the host can make sense of."""
        if isinstance(actions, torch.Tensor) and actions.device.type == "cpu":
            actions = actions.detach().numpy()
        self.flush()  # what was sent before goes first
        self._device.wait(loan.copied)
        self._step(loan, actions)
        self._let_go(loan, self._device.mark())

    def _let_go(self, loan, mark):
        """A loan's buffers may be written again when the device has come to `mark`."""
        if loan.buffers is not None:
            loan.buffers.seen = mark
            self._free.append(loan.buffers)
            loan.buffers = None

    def _give_back_arrived(self):
        while self._sent and self._device.done(self._sent[0].arrived):
            self._give_back_first()

    def _give_back_first(self):
        """The actions of the batch that was sent first have arrived: its workers step.  In the order of sending."""
        loan = self._sent.popleft()
        # Its rows are read no more: the copy to the device came before the policy, unless that ran on some other stream.
        self._device.wait(loan.copied)
        self._step(loan, loan.actions)

    def _step(self, loan, actions):
        give_back(self.vec, loan.units, actions)
        self._lent -= len(loan.units)


class _Loan:
    """A batch in the loop's hands.

    Attributes:
        units, runs: of `fastvec_c.loans.borrow`.
        buffers: where it is on the device, or None.
        copied: the event of it being there.
        arrived: the event of its actions being here.
        actions: where they are to be cast from, None if they lie in their rows.
        kept: the tensor that they are copied from.
    """

    __slots__ = ("units", "runs", "buffers", "copied", "batch", "arrived", "actions", "kept")

    def __init__(self, units, runs, buffers, copied, batch):
        self.units, self.runs, self.buffers, self.copied, self.batch = units, runs, buffers, copied, batch
        self.arrived = self.actions = self.kept = None


class _Buffers:
    """A batch's memory on the device.

    Attributes:
        observations: uint8 [n, bytes of a row].
        packed: uint8, what `fastvec_c.loans.pack` writes; staging, staging_array: the same on the host.
        batch: DeviceBatch of tensors on them.
        copied: the event of the last batch being here, or None; seen: of its memory being used no more.
    """

    def __init__(self, device, vec, n):
        spec = vec.observation_spec
        size = n * spec.nbytes
        memory = device.empty(-(-size // 16) * 16)  # whole numbers of every dtype
        self.observations = memory[:size].view(n, spec.nbytes)
        self.packed = device.empty(-(-n * PACKED_NBYTES // 8) * 8)[:n * PACKED_NBYTES]
        self.staging = device.staging(self.packed)
        self.staging_array = self.staging.numpy()
        self.copied = None
        self.seen = device.mark()  # memory from torch's allocator may be in use yet by what the current stream has to do
        rows, rewards, flags = self.packed[:8 * n].view(torch.int64), self.packed[8 * n:12 * n].view(torch.float32), self.packed[12 * n:]
        flags = flags.view(torch.bool).view(3, n)
        self.batch = DeviceBatch(_typed(memory, np.empty((n, *spec.shape), spec.dtype)), rewards, *flags, _NO_INFOS, rows)


def _with(batch, infos):
    return batch._replace(infos=infos) if infos else batch


def _bytes(view, memory):
    """A field of the arena as a uint8 tensor [slots, rows, bytes of a row]."""
    start = view.ctypes.data - memory.ctypes.data
    return torch.from_numpy(memory)[start:start + view.nbytes].view(*view.shape[:2], -1)


def _plain_tensor(array):
    """A tensor on the array's memory, or None where torch has no such dtype."""
    if array.dtype.names is not None:
        return None
    with contextlib.suppress(TypeError):
        return tensors(array)


def _casts(given, wanted):
    """Whether numbers of a torch dtype become those of a NumPy dtype without loss of kind, as `VecEnv.send` has it."""
    with contextlib.suppress(TypeError):  # NumPy has no bfloat16
        return np.can_cast(torch.empty(0, dtype=given).numpy().dtype, wanted, "same_kind")
    return False


def _typed(memory, like):
    """A tensor on raw memory that lies as an array does; a dict of them where the array is structured."""
    return _typed_part(memory, like, like.ctypes.data)


def _typed_part(memory, like, base):
    if like.dtype.names is not None:
        return {name: _typed_part(memory, like[name], base) for name in like.dtype.names}
    start, size = like.ctypes.data - base, like.dtype.itemsize
    if start % size or any(stride % size for stride in like.strides):
        raise TypeError(f"torch has no tensors of unaligned {like.dtype}; give the structured dtype align=True")
    dtype = tensors(np.empty(0, like.dtype)).dtype
    return memory.view(dtype).as_strided(like.shape, [stride // size for stride in like.strides], start // size)


def _release_if_ours(pid, device):
    if os.getpid() == pid:
        device.release()
