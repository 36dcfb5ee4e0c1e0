"""A CUDA whose every piece of work is late: streams are queues, run in any order that events allow.

It stands where torch.cuda does for `fastvec.torch_devices.Cuda`.  Copies happen when a stream comes to them, policies too, so that an
event that nobody waits for shows as wrong numbers; and a row that is given to its worker while a copy still waits to touch it is an
error at once.
"""
import contextlib
import random

import torch

import fastvec
import fastvec.torch
from fastvec.torch_devices import Cuda

MODES = ("at once", "late", "random", "one ahead")


class Event:
    def __init__(self, machine):
        self.machine, self.stream, self.happened = machine, None, True

    def query(self):
        self.machine.time_passes()
        self.machine.calls += 1
        if self.machine.calls % 7 == 0:  # nothing is late for ever
            self.machine.force(self)
        return self.happened

    def synchronize(self):
        self.machine.force(self)


class Stream:
    def __init__(self, machine):
        self.machine, self.work = machine, []
        machine.streams.append(self)

    def wait_event(self, event):
        if not event.happened:
            self.work.append(event)

    def record_event(self, event):
        event.stream, event.happened = self, False
        self.work.append(lambda: setattr(event, "happened", True))
        self.machine.time_passes()
        return event

    def synchronize(self):
        self.machine.force(self.record_event(Event(self.machine)))

    def awaits(self):
        """The event that the next piece of work is, or None."""
        return self.work[0] if isinstance(self.work[0], Event) else None

    def step(self):
        work = self.work.pop(0)
        if not isinstance(work, Event):
            work()


class Copy:
    def __init__(self, target, source):
        self.target, self.source = target, source

    def __call__(self):
        self.target.copy_(self.source)

    def touches(self, start, end):
        return any(t.data_ptr() < end and start < t.data_ptr() + t.nbytes for t in (self.target, self.source))


class Code(int):
    """cudaError_t."""


class Runtime:
    """libcudart as torch has it.

    Attributes:
        refuses: the error of cudaHostRegister.
        registered: {address: bytes}; history: what was called.
        last_error: which the next launch of a kernel would report.
    """

    def __init__(self, machine):
        self.machine, self.refuses, self.registered, self.history, self.last_error = machine, 0, {}, [], 0

    def cudaHostRegister(self, address, nbytes, flags):  # noqa: N802
        assert type(address) is int and type(nbytes) is int and flags == 1 and nbytes > 0
        assert mapped(address) and mapped(address + nbytes - 1)
        self.history.append("register")
        if self.refuses:
            self.last_error = self.refuses
        else:
            self.registered[address] = nbytes
        return Code(self.refuses)

    def cudaHostUnregister(self, address):  # noqa: N802
        assert mapped(address), "unlocked after it was unmapped"
        assert not any(isinstance(work, Copy) for s in self.machine.streams for work in s.work), "unlocked before the copies were done"
        self.history.append("unregister")
        del self.registered[address]
        return Code(0)

    def cudaGetErrorString(self, code):  # noqa: N802
        assert isinstance(code, Code)
        return "out of memory"

    def cudaGetLastError(self):  # noqa: N802
        self.last_error = 0


def mapped(address):
    """Whether an address is in a mapping of an arena's."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            if start <= address < end:
                return "fastvec-arena" in line
    return False


class Machine:
    """torch.cuda, as far as it is used.

    Args:
        mode: of MODES: work is done when it is asked for; when somebody waits for it; some time in between; or at once on one
            stream, which the seed chooses, and as late as possible on the others.
    """

    def __init__(self, mode, seed=0):
        self.mode, self.seed, self.rng = mode, seed, random.Random(seed)
        self.calls = 0
        self.streams = []
        self.current = Stream(self)
        self.runtime = Runtime(self)

    def Stream(self, device):  # noqa: N802
        assert device.type == "cpu"
        return Stream(self)

    def Event(self, blocking=False):  # noqa: N802
        assert blocking
        return Event(self)

    def current_stream(self, device):
        return self.current

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def device(self, device):
        return contextlib.nullcontext()

    def cudart(self):
        return self.runtime

    def synchronize(self, device):
        for stream in self.streams:
            stream.synchronize()

    def launch(self, work):
        self.current.work.append(work)
        self.time_passes()

    def time_passes(self):
        steps = {"late": 0, "random": self.rng.choice((0, 0, 0, 0, 1, 8))}.get(self.mode, 1 << 30)
        moving = self.streams if self.mode != "one ahead" else [self.streams[self.seed % len(self.streams)]]
        while steps:
            able = [s for s in moving if s.work and (s.awaits() is None or s.awaits().happened)]
            if not able:
                return
            self.rng.choice(able).step()
            steps -= 1

    def check_rows(self, vec, units):
        """Before rows go to their workers."""
        for stream in self.streams:
            for work in stream.work:
                assert not (isinstance(work, Copy) and touches_rows(work, vec, units)), "a row was given back while a copy uses it"

    def force(self, event):
        """No more work than needed."""
        while not event.happened:
            awaited = event.stream.awaits()
            if awaited is not None and not awaited.happened:
                self.force(awaited)
            event.stream.step()


class FakeGpu(Cuda):
    """Its memory is the CPU's, full of rubbish."""

    def __init__(self, machine):
        super().__init__(torch.device("cpu"), machine)

    def empty(self, nbytes):
        return torch.full((nbytes,), 0xAA, dtype=torch.uint8)

    def staging(self, tensor):
        return torch.full(tensor.shape, 0 if tensor.dtype == torch.bool else 77, dtype=tensor.dtype)

    def _copy(self, target, source):
        assert target.is_contiguous() and source.is_contiguous() and target.dtype == source.dtype and target.shape == source.shape
        self._cuda.launch(Copy(target, source))


def install(monkeypatch, mode="random", seed=0):
    """Puts a FakeGpu in the place of every device, and watches rows that are given back.  Returns its Machine."""
    machine = Machine(mode, seed)
    give_back, async_reset = fastvec.torch.give_back, fastvec.VecEnv.async_reset

    def watched_give_back(vec, units, actions=None):
        machine.check_rows(vec, units)
        give_back(vec, units, actions)

    def watched_reset(vec, *args):
        machine.check_rows(vec, range(vec.num_units))
        async_reset(vec, *args)

    monkeypatch.setattr(fastvec.torch, "open_device", lambda device: FakeGpu(machine))
    monkeypatch.setattr(fastvec.torch, "give_back", watched_give_back)
    monkeypatch.setattr(fastvec.VecEnv, "async_reset", watched_reset)
    return machine


def touches_rows(copy, vec, units):
    n = vec.rows_per_unit
    return any(
        copy.touches(rows.ctypes.data, rows.ctypes.data + rows.nbytes)
        for name in ("observations", "actions") for slot in range(vec.slots) for u in units
        for rows in [vec.fields[name][slot, u * n:(u + 1) * n]]
    )
