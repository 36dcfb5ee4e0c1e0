"""What a device loop needs of a device: memory, streams, events, page-locking.  The CPU needs next to nothing of it.

`Cpu` and `Cuda` have the same methods.  An event is what they return for it, and means: all that was asked for before it is done.
"""
from __future__ import annotations

import contextlib
import resource

import numpy as np
import torch

_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for every CUDA context of this process


def open_device(device):
    """The `Cpu` or `Cuda` of a device's name.

    Args:
        device: what torch.device takes, or a torch.device; None is "cuda" where torch sees a GPU, else "cpu".

    Raises:
        ValueError: there is no such device, or it is of another kind.
    """
    try:
        wanted = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r}: {str(error).splitlines()[0]}; give 'cpu', 'cuda', or 'cuda:1' and so on") from None
    if wanted.type == "cpu":
        return Cpu()
    if wanted.type != "cuda":
        raise ValueError(f"device={device!r}: a DeviceLoop knows 'cpu' and 'cuda'; take 'cpu', and copy batches there yourself")
    if not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: {_why_no_cuda()}; give device='cpu', or None for whatever there is")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    if index >= count:
        raise ValueError(f"device={device!r}: there is no such GPU among {count}; give " + " or ".join(f"'cuda:{i}'" for i in range(count)))
    return Cuda(torch.device("cuda", index))


class Cpu:
    """Everything is done when it is asked for, and nothing needs to be copied that lies in one piece."""

    in_place = True  # batches may be views on the arena
    device = torch.device("cpu")

    pinned = False

    def pin(self, memory):
        pass

    def empty(self, nbytes):
        return torch.empty(nbytes, dtype=torch.uint8)

    def staging(self, tensor):
        return tensor  # written where it is read

    def copy_in(self, pairs, after):
        for target, source in pairs:
            if target is not source:
                target.copy_(source)

    def mark(self):
        pass

    def use(self, event):
        pass

    def done(self, event):
        return True

    def wait(self, event):
        pass

    def finish(self):
        pass

    def release(self):
        pass


class Cuda:
    """Copies run on two streams of their own, one for each direction, as GPUs have a copy engine for each.

    Rows are read and written by DMA.  A worker's writes are visible to it: the trainer acquired the rows (mailbox.h) before it
    asked for the copy.  And what a copy wrote is visible to the worker: the trainer saw the copy's event done before it released
    the rows.

    Args:
        device: torch.device with an index.
        cuda: torch.cuda; tests have another.
    """

    in_place = False

    def __init__(self, device, cuda=torch.cuda):
        self.device = device
        self._cuda = cuda
        self._in, self._out = cuda.Stream(device), cuda.Stream(device)
        self._locked = None  # host memory that is page-locked

    # ---- memory ------------------------------------------------------------------------------------------------------

    @property
    def pinned(self):
        return self._locked is not None

    def pin(self, memory):
        """Page-locks host memory, until `release`: copies then run by DMA, and without this thread.

        Args:
            memory: a uint8 array; it is kept, and so stays mapped, until it is unlocked.

        Returns:
            None, or in words why CUDA refuses.
        """
        with self._cuda.device(self.device):
            runtime = self._cuda.cudart()
            code = runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, _PORTABLE)
            if int(code) == 0:
                self._locked = memory
                return None
            self._forget_error(runtime)
        return f"{_in_words(runtime, code)}{_lock_limit()}"

    def _forget_error(self, runtime):
        """CUDA keeps an error until somebody asks for it: the launch of the next kernel, which had nothing to do with it."""
        if hasattr(runtime, "cudaGetLastError"):  # not in every torch
            runtime.cudaGetLastError()
            return
        with contextlib.suppress(RuntimeError):
            torch.ones(1, device=self.device).add_(1)

    def empty(self, nbytes):
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def staging(self, tensor):
        """Host memory like a tensor of the device, page-locked if the arena is."""
        with self._cuda.device(self.device):
            return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.pinned)

    # ---- copies ------------------------------------------------------------------------------------------------------

    def copy_in(self, pairs, after):
        """Copies (device, host) tensors, contiguous and alike, when the event `after` is done.  Returns the event of their end."""
        return self._copy_on(self._in, pairs, after)

    def copy_out(self, pairs, after):
        """The same for (host, device) tensors."""
        return self._copy_on(self._out, pairs, after)

    def _copy_on(self, stream, pairs, after):
        with self._cuda.stream(stream):
            if after is not None:
                stream.wait_event(after)
            for target, source in pairs:
                self._copy(target, source)
            return stream.record_event(self._event())

    def _copy(self, target, source):
        target.copy_(source, non_blocking=True)

    # ---- events ------------------------------------------------------------------------------------------------------

    def _event(self):
        return self._cuda.Event(blocking=True)  # who waits for it sleeps: workers need the CPU

    def mark(self):
        """An event behind what the caller has asked of the GPU so far, on his current stream."""
        return self._cuda.current_stream(self.device).record_event(self._event())

    def use(self, event):
        """Has what the caller asks of the GPU from here on, on his current stream, wait for an event."""
        self._cuda.current_stream(self.device).wait_event(event)

    def done(self, event):
        return event is None or event.query()

    def wait(self, event):
        if event is not None:
            event.synchronize()

    def finish(self):
        """Waits for all copies."""
        self._in.synchronize()
        self._out.synchronize()

    def release(self):
        """Waits for the GPU, which may use memory of ours on any stream, and unlocks what is page-locked.  May be called again."""
        with contextlib.suppress(RuntimeError):  # it has failed, and its work has ended with it
            self._cuda.synchronize(self.device)
        memory, self._locked = self._locked, None
        if memory is None:
            return
        # As long as `memory` is referenced its pages are mapped: unlocking comes before unmapping.
        runtime = self._cuda.cudart()
        if int(runtime.cudaHostUnregister(memory.ctypes.data)):
            self._forget_error(runtime)  # CUDA is being shut down, and unlocks everything


def _in_words(runtime, code):
    return f"{runtime.cudaGetErrorString(code)} (CUDA error {int(code)})"


def _lock_limit():
    """The limit that page-locked memory may have run into."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit == resource.RLIM_INFINITY:
        return "; RLIMIT_MEMLOCK is unlimited"
    return f"; RLIMIT_MEMLOCK is {limit / 2**20:.3g} MiB (ulimit -l), which may be why"


def _why_no_cuda():
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    return f"torch {torch.__version__} sees no GPU (nvidia-smi says whether the driver does)"


def diagnose() -> str:
    """One line: which GPUs there are, and whether memory can be page-locked for them."""
    if not torch.cuda.is_available():
        return f"none: {_why_no_cuda()}"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = Cuda(torch.device("cuda", 0))
    refusal = device.pin(np.zeros(1 << 20, np.uint8))
    device.release()
    return f"{', '.join(names)}; memory can{f'not be page-locked: {refusal}' if refusal else ' be page-locked'}"
