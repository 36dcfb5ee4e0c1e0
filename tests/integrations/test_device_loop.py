"""fastvec.torch.DeviceLoop, on the CPU and on a CUDA that is late."""
import contextlib
import functools
import gc
import importlib
import inspect
import itertools
import os
import signal
import subprocess
import sys
import time
import warnings

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

sys.path[:0] = [os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "..", "engine")]
import envs  # noqa: E402
import fake_cuda  # noqa: E402
import fastvec  # noqa: E402
import fastvec.drive  # noqa: E402
import fastvec.torch  # noqa: E402
from fastvec import torch_devices  # noqa: E402
from fastvec.cli import main  # noqa: E402
from fastvec.torch import DeviceLoop  # noqa: E402
from fastvec_c.loans import borrow, give_back  # noqa: E402

BATCHES = 60
POOLS = {
    "this process": dict(num_workers=0, num_envs=4),
    "all": dict(num_workers=2, num_envs=4),
    "first to finish": dict(num_workers=4, num_envs=4, batch_size=2),
    "one by one": dict(num_workers=4, num_envs=4, batch_size=1),
    "blocks": dict(num_workers=4, num_envs=4, batch_size=2, zero_copy=True),
    "in order, slots": dict(num_workers=4, num_envs=4, batch_size=1, in_order=True, slots=3),
}


def chosen(observations):
    """Actions of `envs.probe`, which follow from all that was observed and done before."""
    return observations[:, 1].to(torch.int64) % 5


class Course:
    """What each row saw, as it is told batch by batch."""

    def __init__(self, num_rows):
        self.rows = [[] for _ in range(num_rows)]

    def tell(self, batch):
        parts = batch.observations, batch.rewards, batch.terminations, batch.truncations, batch.masks
        for i, row in enumerate(batch.rows.tolist()):
            self.rows[row].append([part[i].tolist() for part in parts])

    def check(self):
        """Against the same steps with `VecEnv.step`."""
        for row, seen in enumerate(self.rows):
            assert seen == reference()[row][:len(seen)], f"row {row}"
        assert sum(map(len, self.rows)) >= BATCHES * 3


@functools.cache
def reference():
    course = Course(12)
    with fastvec.make(envs.probe, 0, num_envs=4, seed=3) as vec:
        vec.reset()
        for _ in range(BATCHES):
            course.tell(fastvec.Batch(vec.observations, vec.rewards, vec.terminations, vec.truncations, vec.masks, {}, np.arange(12)))
            vec.step(chosen(torch.from_numpy(vec.observations)))
    return course.rows


def play(vec, depth, machine=None):
    """Steps a loop of `envs.probe`; on a late GPU the policy is late too."""
    with DeviceLoop(vec, device="cpu", depth=depth) as loop:
        course = Course(vec.num_rows)
        loop.reset(seed=3)
        for batch in itertools.islice(loop.batches(), BATCHES):
            if machine is None:
                course.tell(batch)
                actions = chosen(batch.observations)
            else:
                actions = torch.full((len(batch.rows),), 1 << 40)

                def policy(batch=batch, actions=actions):
                    course.tell(batch)
                    actions.copy_(chosen(batch.observations))

                machine.launch(policy)
            loop.send(actions)
            assert len(loop._ready) < depth
    return course


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
def test_cpu_and_late_gpu_see_what_step_returns(pool, monkeypatch):
    with fastvec.make(envs.probe, **POOLS[pool]) as vec:
        for depth in (1, 2):
            play(vec, depth).check()
        ways = [("at once", 0), ("late", 0), ("random", 0), ("random", 1), ("one ahead", 0), ("one ahead", 1), ("one ahead", 2)]
        for depth, (mode, seed) in itertools.product((1, 2, 3), ways):
            with monkeypatch.context() as m:
                machine = fake_cuda.install(m, mode, seed)
                play(vec, depth, machine).check()
                assert machine.runtime.history == ["register", "unregister"] and not machine.runtime.registered


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch sees")
@pytest.mark.parametrize("pool", POOLS)
def test_a_real_gpu_sees_it_too(pool):
    with fastvec.make(envs.probe, **POOLS[pool]) as vec:
        for depth, pin in ((1, False), (1, True), (2, True), (3, True)):
            kept = []
            with DeviceLoop(vec, "cuda", depth=depth, pin=pin) as loop:
                assert torch.from_numpy(vec.fields["observations"]).is_pinned() == loop.pinned
                loop.reset(seed=3)
                for batch in itertools.islice(loop.batches(), BATCHES):
                    kept.append(batch._replace(infos={}, **{k: t.clone() for k, t in batch._asdict().items() if k != "infos"}))
                    loop.send(chosen(batch.observations))
            course = Course(vec.num_rows)
            for batch in kept:
                course.tell(batch)
            course.check()


MISTAKES = {
    "use": lambda self, event: None,  # the policy does not wait for its batch
    "done": lambda self, event: True,  # nobody waits for actions
    "mark": lambda self: self._cuda.Event(blocking=True),  # the next copy does not wait for the policy, nor do actions
    "wait": lambda self, event: None,  # staging memory is written while it is read
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_late_gpu_would_show_a_mistake(mistake, monkeypatch):
    monkeypatch.setattr(fake_cuda.FakeGpu, mistake, MISTAKES[mistake])
    monkeypatch.setattr(fake_cuda.Runtime, "cudaHostUnregister", lambda *_: 0)
    with fastvec.make(envs.probe, **POOLS["one by one"]) as vec:
        for seed, mode in itertools.product(range(4), fake_cuda.MODES):
            with monkeypatch.context() as m:
                machine = fake_cuda.install(m, mode, seed)
                try:
                    play(vec, 2, machine).check()
                except (AssertionError, ValueError, IndexError):  # actions or rows that are rubbish
                    return
    pytest.fail("unnoticed")


def test_the_late_gpu_is_called_as_torch_is():
    machine = fake_cuda.Machine("at once")
    for double, real in ((machine, torch.cuda), (fake_cuda.Stream, torch.cuda.Stream), (fake_cuda.Event, torch.cuda.Event)):
        for name, method in inspect.getmembers(double, inspect.isroutine):
            if name in ("launch", "time_passes", "force", "check_rows", "awaits", "step") or name.startswith("__"):
                continue
            theirs = getattr(real, name)
            theirs = theirs.__new__ if name in ("Stream", "Event") else theirs
            parameters = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
            args = [None] * (len(parameters) + (name in ("Stream", "Event")))  # and the class
            inspect.signature(theirs).bind(*args, **{"blocking": True} if name == "Event" else {})


def test_the_cpu_copies_nothing_that_lies_in_one_piece():
    with fastvec.make(envs.probe, 2, num_envs=4, slots=2) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset(seed=0)
        for t in range(3):
            batch = loop.recv()
            assert batch.observations.data_ptr() == vec.fields["observations"][t % 2].ctypes.data
            assert batch.masks.data_ptr() == vec.fields["masks"][t % 2].ctypes.data
            loop.send(torch.zeros(12, dtype=torch.int64))
        assert not loop.pinned and loop.device == torch.device("cpu")


@pytest.mark.parametrize("fake", [False, True])
def test_many_agents_masks_and_floats(fake, monkeypatch):
    actions = torch.from_numpy(np.random.default_rng(1).random((20, 8, 2), np.float32) / 10)
    with fastvec.make(envs.Herd, 2, num_envs=2, seed=5) as vec:
        vec.reset()
        steps = [[np.copy(x) for x in (*vec.step(a)[:4], vec.masks)] for a in actions]
    if fake:
        fake_cuda.install(monkeypatch, "at once")
    with fastvec.make(envs.Herd, 2, num_envs=2, seed=5) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset()
        loop.recv()
        for a, expected in zip(actions, steps, strict=True):
            loop.send(a.requires_grad_())
            batch = loop.recv()
            for tensor, array in zip((batch.observations, batch.rewards, batch.terminations, batch.truncations, batch.masks), expected,
                                     strict=True):
                assert tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)


class Structured(gymnasium.Env):
    """Observes what it was told to do, in parts."""

    observation_space = gymnasium.spaces.Dict({
        "place": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(9), gymnasium.spaces.Box(-1, 1, (2, 3), np.float64))),
        "light": gymnasium.spaces.MultiBinary(3), "far": gymnasium.spaces.Box(-9, 9, (), np.float32),
    })
    action_space = gymnasium.spaces.Dict({"steer": gymnasium.spaces.Box(-1, 1, (2,), np.float32), "gear": gymnasium.spaces.Discrete(4)})

    def reset(self, *, seed=None, options=None):
        return self.seen(0, np.zeros(2)), {}

    def step(self, action):
        return self.seen(action["gear"], action["steer"]), 0.0, False, False, {}

    def seen(self, gear, steer):
        return {"place": (gear, np.tile(steer[:1], (2, 3)) / 2), "light": np.array([1, 0, 1], np.int8), "far": np.float32(steer[1])}


@pytest.mark.parametrize("fake", [False, True])
def test_structured_rows(fake, monkeypatch):
    if fake:
        fake_cuda.install(monkeypatch, "at once")
    with fastvec.make(Structured, 3, batch_size=2) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset()
        told = [(0, 0.0, 0.0)] * 3
        for t in range(8):
            batch = loop.recv()
            place = batch.observations["place"]
            assert place["f1"].shape == (2, 2, 3) and place["f1"].dtype == torch.float64
            for i, row in enumerate(batch.rows.tolist()):
                gear, left, right = told[row]
                assert place["f0"][i] == gear and (place["f1"][i] == left / 2).all() and batch.observations["far"][i] == right
                told[row] = (t + i) % 4, 0.25 * i, -0.5 * i
            assert batch.observations["light"].tolist() == [[1, 0, 1]] * 2
            loop.send({"steer": torch.tensor([[0.0, 0.0], [0.25, -0.5]]), "gear": [t % 4, (t + 1) % 4]})


class Narrow(fastvec.Env):
    observation_space = fastvec.Spec((2,), "float16")
    action_space = fastvec.Spec((2,), "int32", 0, 9)
    num_agents = 2

    def reset(self, seed=None, options=None):
        self.observations[:] = 0

    def step(self, actions):
        self.observations[:] = actions


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_actions_of_another_dtype(dtype, monkeypatch):
    machine = fake_cuda.install(monkeypatch, "late")
    with fastvec.make(Narrow, 2) as vec, DeviceLoop(vec, "cuda") as loop:
        loop.reset()
        actions = torch.arange(16, dtype=dtype).reshape(4, 4)[:, 1:3] % 10
        loop.recv()
        loop.send(actions)  # of strides that no copy likes
        batch = loop.recv()
        machine.current.synchronize()
        assert batch.observations.tolist() == actions.tolist() and batch.observations.dtype == torch.float16
        with pytest.raises(TypeError, match="actions: dtype torch.float32 cannot become int32"):
            loop.send(torch.zeros(4, 2))
        with pytest.raises(TypeError, match="bfloat16 cannot become int32"):
            loop.send(torch.zeros(4, 2, dtype=torch.bfloat16))
        with pytest.raises(ValueError, match=r"actions: shape \(4,\); give \(4, 2\)"):
            loop.send(torch.zeros(4, dtype=dtype))
        loop.send(np.ones((4, 2), int))  # not of the device: at once
        assert loop.recv().rows.tolist() and vec.observations.tolist() == [[1, 1]] * 4


def test_infos_and_run():
    with fastvec.make(envs.Scripted, 3, batch_size=1, in_order=True, seed=1) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset(options={"a": 1})
        batch = loop.recv()
        assert batch.infos == {0: {"options": {"a": 1}}} and batch.observations[0, 0] == 1
        loop.send([0])
        loop.run(lambda observations: torch.full((len(observations),), 2), 3 * 5 - 1)
        assert {int(vec.apply(_calls, envs=[e])[0]) for e in range(3)} == {5}
        assert loop.recv().infos == {0: {"length": 5}}
        with pytest.raises(ValueError, match="steps=-1"):
            loop.run(None, -1)


def _calls(env):
    return env.unwrapped.calls


def test_reset_in_the_middle(monkeypatch):
    machine = fake_cuda.install(monkeypatch, "late")
    with fastvec.make(envs.probe, 3, batch_size=1, seed=7) as vec, DeviceLoop(vec, "cuda") as loop:
        for _ in range(3):
            loop.reset(seed=7)
            first = {}
            while len(first) < 3:
                batch = loop.recv()
                machine.current.synchronize()
                first.setdefault(batch.rows[0].item(), batch.observations[:, 0].tolist())
                loop.send(torch.zeros(3, dtype=torch.int64))
            assert first == {0: [0] * 3, 3: [0] * 3, 6: [0] * 3}
            loop.recv()  # and is not answered
        with pytest.raises(ValueError, match="seed='x'"):
            loop.reset(seed="x")
        loop.send(torch.zeros(3, dtype=torch.int64))  # the batch is still ours
        loop.flush()
        assert not loop._sent


def test_recv_and_send_on_different_streams(monkeypatch):
    """Actions may then arrive before the batch is copied: its rows are kept back all the same."""
    machine = fake_cuda.install(monkeypatch, "late")
    other = machine.Stream(torch.device("cpu"))
    with fastvec.make(envs.probe, 2, batch_size=1) as vec, DeviceLoop(vec, "cuda") as loop:
        loop.reset()
        for _ in range(20):
            n = len(loop.recv().rows)
            with machine.stream(other):
                loop.send(torch.zeros(n, dtype=torch.int64))


@pytest.mark.parametrize("fake", [False, True])
def test_packed_rows_of_drive(fake, monkeypatch):
    from fastvec.drive.observation import Expand

    creator = fastvec.drive.creator(worlds=1, observation="packed")
    with fastvec.make(creator, 2, seed=4) as vec:
        expected = [Expand()(torch.from_numpy(vec.reset()[0]))]
        for t in range(10):
            vec.step(np.full(vec.num_rows, t))
            expected.append(Expand()(torch.from_numpy(vec.observations)))
    if fake:
        fake_cuda.install(monkeypatch, "at once")
    with fastvec.make(creator, 2, batch_size=1, zero_copy=True, seed=4) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset()
        steps = [0] * vec.num_rows
        for _ in range(10):
            batch = loop.recv()
            t = steps[batch.rows[0]]
            for row in batch.rows:
                steps[row] += 1
            assert torch.equal(Expand()(batch.observations), expected[t][batch.rows])
            loop.send(torch.full((len(batch.rows),), t))


# ---- page-locking ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_arena_is_locked_as_long_as_the_loop_lives(monkeypatch):
    machine = fake_cuda.install(monkeypatch, "late")
    with no_warning(), fastvec.make(envs.probe, 2) as vec:
        with DeviceLoop(vec, "cuda") as loop:
            assert loop.pinned and list(machine.runtime.registered.values()) == [vec.fields["masks"].base.nbytes]
        loop.close()
        assert machine.runtime.history == ["register", "unregister"] and not loop.pinned
        with DeviceLoop(vec, "cuda", pin=False) as loop:
            assert not loop.pinned
        assert len(machine.runtime.history) == 2


def test_unlocked_before_unmapped_whatever_happens(monkeypatch):
    machine = fake_cuda.install(monkeypatch, "late")
    runtime = machine.runtime
    with pytest.raises(KeyError), fastvec.make(envs.probe, 2) as vec, DeviceLoop(vec, "cuda") as loop:
        loop.reset()
        loop.recv()
        loop.send(torch.zeros(6, dtype=torch.int64))
        raise KeyError
    assert runtime.history == ["register", "unregister"]
    vec = fastvec.make(envs.probe, 2)
    loop = DeviceLoop(vec, "cuda")
    loop.reset()
    loop.recv()
    vec.close()
    del vec, loop  # never closed, and all at once
    gc.collect()
    assert runtime.history == ["register", "unregister"] * 2

    class Unaligned(Narrow):
        observation_space = fastvec.Spec((), np.dtype([("a", "u1"), ("b", "f4")]))

    with fastvec.make(Unaligned, 1) as vec:
        with pytest.raises(TypeError, match="torch has no tensors of unaligned float32; give the structured dtype align=True"):
            DeviceLoop(vec, "cuda")
        assert runtime.history == ["register", "unregister"] * 3
    with fastvec.make(envs.probe, 2) as vec, DeviceLoop(vec, "cuda") as loop:
        monkeypatch.setattr(fake_cuda.Machine, "synchronize", _fails)
    assert runtime.history == ["register", "unregister"] * 4


def _fails(self, device):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("torch_knows_last_error", [True, False])
def test_cuda_refuses_to_lock(torch_knows_last_error, monkeypatch):
    machine = fake_cuda.install(monkeypatch, "random")
    machine.runtime.refuses = 2
    if not torch_knows_last_error:
        monkeypatch.delattr(fake_cuda.Runtime, "cudaGetLastError")

        def ones(*_, **__):
            machine.runtime.last_error = 0
            raise RuntimeError("CUDA error: out of memory")

        monkeypatch.setattr(torch, "ones", ones)
    with fastvec.make(envs.probe, 4, batch_size=1, seed=3) as vec, pytest.warns(RuntimeWarning) as told, DeviceLoop(vec, "cuda") as loop:
        assert not loop.pinned and machine.runtime.last_error == 0
        loop.reset()
        for batch in itertools.islice(loop.batches(), 20):
            actions = torch.zeros(3, dtype=torch.int64)
            loop.send(actions)
    assert len(told) == 1 and told[0].filename == __file__
    for part in ("does not page-lock the arena of 0.", "MiB: out of memory (CUDA error 2); RLIMIT_MEMLOCK is", "pin=False"):
        assert part in str(told[0].message)
    assert machine.runtime.history == ["register"]
    with warnings.catch_warnings(), fastvec.make(envs.probe, 1) as vec:
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            DeviceLoop(vec, "cuda")


# ---- bad input, bad ends ---------------------------------------------------------------------------------------------


def test_devices_that_are_not_there(monkeypatch):
    with fastvec.make(envs.probe, 0) as vec:
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="device='cuda': torch .* (is built without CUDA|sees no GPU).*give device='cpu'"):
                DeviceLoop(vec, "cuda")
            with DeviceLoop(vec) as loop:
                assert loop.device.type == "cpu"
        with pytest.raises(ValueError, match="device='nowhere': .*give 'cpu', 'cuda'"):
            DeviceLoop(vec, "nowhere")
        with pytest.raises(ValueError, match="device='meta': a DeviceLoop knows 'cpu' and 'cuda'"):
            DeviceLoop(vec, "meta")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        with pytest.raises(ValueError, match="device='cuda:2': there is no such GPU among 2; give 'cuda:0' or 'cuda:1'"):
            DeviceLoop(vec, "cuda:2")


def test_calls_that_do_not_fit():
    with pytest.raises(TypeError, match="vec is a list; give the VecEnv"):
        DeviceLoop([])
    with fastvec.make(envs.probe, 2) as vec:
        for depth in (0, 1.5, True):
            with pytest.raises(ValueError, match="depth="):
                DeviceLoop(vec, "cpu", depth=depth)
        loop = DeviceLoop(vec, "cpu")
        with pytest.raises(fastvec.StateError, match="before reset"):
            loop.recv()
        with pytest.raises(fastvec.StateError, match="no batch to answer"):
            loop.send([0] * 6)
        loop.reset()
        loop.recv()
        with pytest.raises(fastvec.StateError, match="last batch unanswered"):
            loop.recv()
        with pytest.raises(fastvec.StateError, match="a DeviceLoop has the rows"):
            vec.recv()
        with pytest.raises(fastvec.StateError, match="send\\(\\) twice"):
            vec.send([0] * 6)
        for bad, error, said in (([0] * 5, ValueError, "shape"), ([0.5] * 6, TypeError, "float.. cannot become int64"),
                                 ([0, 0, 9, 0, 0, 0], ValueError, r"actions\[2\] = 9 is out of range")):
            with pytest.raises(error, match=said):
                loop.send(bad)
            with pytest.raises(error, match=said):
                loop.send(torch.tensor(bad))
        loop.send([1] * 6)
        assert loop.recv().rewards.tolist() == [1] * 6
        vec.reset()
        with pytest.raises(fastvec.StateError, match="from before a reset of the VecEnv"):
            loop.send([1] * 6)
        loop.reset()
        loop.recv()
        loop.close()
        loop.close()
        for call in (loop.recv, loop.reset, lambda: loop.send([1] * 6)):
            with pytest.raises(fastvec.StateError, match="after close"):
                call()
        assert vec.reset()[0].shape == (6, 6)
        assert vec.step([1] * 6)[1].tolist() == [1] * 6
        with pytest.raises(fastvec.StateError, match="of the VecEnv's own in hand"):
            DeviceLoop(vec, "cpu").recv()


def test_beside_rollouts():
    with fastvec.make(envs.probe, 2, batch_size=1, horizon=3, seed=3) as vec, DeviceLoop(vec, "cpu") as loop:
        play(vec, 2).check()
        vec.reset()
        batches = iter(vec.rollout().collect())
        assert next(batches).observations.shape == (3, 6)
        with pytest.raises(fastvec.StateError, match="of the VecEnv's own in hand"):
            loop.recv()
        vec.send([0] * 3)
        with pytest.raises(fastvec.StateError, match="amid a rollout"):
            loop.recv()
        loop.reset()
        loop.recv()
        with pytest.raises(fastvec.StateError, match="all rows in hand"):
            vec.rollout(lambda batch: ([0] * 3, None))


def test_actions_from_a_gpu_that_are_out_of_bounds(monkeypatch):
    fake_cuda.install(monkeypatch, "late")
    with fastvec.make(envs.probe, 2, batch_size=1, seed=1) as vec, DeviceLoop(vec, "cuda") as loop:
        loop.reset()
        loop.recv()
        loop.send(torch.tensor([0, 7, 0]))
        with pytest.raises(ValueError, match=r"actions\[1\] = 7 is out of range; give numbers from 0 to 4"):
            loop.flush()
        for _ in range(4):  # the other batch goes on
            loop.recv()
            loop.send(torch.zeros(3, dtype=torch.int64))
        loop.recv()
        loop.send(torch.tensor([0, 0, -1]))
        with pytest.raises(ValueError, match=r"actions\[2\] = -1"):
            loop.flush()
        with pytest.raises(fastvec.StateError, match="out of bounds; call reset"):
            loop.recv()
        loop.reset()
        assert loop.recv().rows[0] in (0, 3)
    with fastvec.make(envs.probe, 1) as vec, DeviceLoop(vec, "cuda", depth=1) as loop:
        loop.reset()
        loop.recv()
        with pytest.raises(ValueError, match=r"actions\[0\] = 7"):
            loop.send(torch.tensor([7, 0, 0]))


def test_a_worker_dies():
    with fastvec.make(envs.probe, 2) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset()
        loop.recv()
        os.kill(vec._workers[1].process.pid, signal.SIGKILL)
        loop.send([0] * 6)
        with pytest.raises(fastvec.WorkerError, match="SIGKILL"):
            loop.recv()
        with pytest.raises(fastvec.ClosedError):
            loop.recv()


def test_a_worker_dies_and_is_replaced(monkeypatch):
    fake_cuda.install(monkeypatch)
    with fastvec.make(envs.cartpole, 2, batch_size=1, on_failure="restart") as vec, DeviceLoop(vec, "cuda") as loop:
        loop.reset()
        loop.recv()
        os.kill(vec._workers[1].process.pid, signal.SIGKILL)
        told = {}
        while not told:
            loop.send(torch.zeros(1, dtype=torch.int64))
            told = {env: info for env, info in loop.recv().infos.items() if "restarted" in info}
        assert list(told) == [1]


def test_a_worker_dies_and_the_run_goes_on_without(monkeypatch):
    fake_cuda.install(monkeypatch, "at once")
    with fastvec.make(envs.cartpole, 3, batch_size=1, on_failure="drop") as vec, DeviceLoop(vec, "cuda") as loop:
        loop.reset()
        os.kill(vec._workers[0].process.pid, signal.SIGKILL)
        told = {}
        for batch in loop.batches():
            if told and batch.rows[0] == 0:
                break
            told |= {env: info for env, info in batch.infos.items() if "dropped" in info}
            loop.send(torch.zeros(1, dtype=torch.int64))
        assert list(told) == [0] and not batch.masks[0]


@pytest.mark.parametrize("fake", [False, True])
def test_time_is_not_counted_twice(fake, monkeypatch):
    if fake:
        fake_cuda.install(monkeypatch)
    began = time.monotonic()
    with fastvec.make(envs.probe, 3, batch_size=1) as vec, DeviceLoop(vec, "cpu") as loop:
        loop.reset()
        loop.run(lambda observations: torch.zeros(3, dtype=torch.int64), 200)
        stats, passed = vec.stats(), time.monotonic() - began
    assert stats.batches == 200 and stats.rows == 600 and min(stats.env, stats.handoff, stats.policy) >= 0
    assert 0 < stats.env + stats.handoff + stats.policy <= passed


def test_loans():
    with fastvec.make(envs.probe, 3, batch_size=1, seed=2) as vec:
        with pytest.raises(fastvec.StateError, match="before reset"):
            borrow(vec)
        vec.async_reset()
        loans = [borrow(vec) for _ in range(3)]
        assert sorted(u for units, _, _ in loans for u in units) == [0, 1, 2] and loans[0][1][0][2] == 3
        with pytest.raises(fastvec.StateError, match="nothing sent"):
            borrow(vec)
        assert vec.apply(_num_agents) == [3] * 3  # the slow path goes on working
        (units, _, _), *others = loans
        give_back(vec, units, [1, 2, 3])
        found = borrow(vec, 10.0)
        assert found[0] == units and vec.rewards[3 * units[0]:][:3].tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="out of range"):
            give_back(vec, units, [1, 2, 9])
        give_back(vec, units, [1, 2, 3])
        with pytest.raises(fastvec.StateError, match="from before a reset"):
            give_back(vec, units)
        vec.async_reset()
        with pytest.raises(fastvec.StateError, match="from before a reset"):
            give_back(vec, others[0][0])
        assert borrow(vec, 10.0)
        vec.reset()
        vec.send([0] * 9)
        assert len(vec.recv().rows) == 3


def _num_agents(env):
    return env.num_agents


def test_looking_does_not_wait():
    with fastvec.make(envs.Trapped(envs.sleep_long, at=1, env=0), 1) as vec:
        vec.async_reset()
        units, runs, infos = borrow(vec)
        assert runs == ((0, 0, 1),) and infos == {}
        give_back(vec, units, [1])
        assert borrow(vec, 0) is None and borrow(vec, 1e-4) is None
        vec.close(0.01)
        with pytest.raises(fastvec.ClosedError):
            borrow(vec, 0)


# ---- beside it -------------------------------------------------------------------------------------------------------


def test_without_torch(monkeypatch):
    done = subprocess.run([sys.executable, "-c", "import fastvec, sys; sys.exit('torch' in sys.modules)"], timeout=60)
    assert done.returncode == 0
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fastvec.torch")
    with pytest.raises(ImportError, match="fastvec.torch needs torch .*: pip install torch"):
        importlib.import_module("fastvec.torch")


def test_doctor(capsys, monkeypatch):
    monkeypatch.setattr(torch_devices, "diagnose", lambda: "none: no GPU here")
    assert main(["doctor"]) == 0
    assert "GPU for torch: none: no GPU here" in capsys.readouterr().out
    monkeypatch.delattr(fastvec, "torch_devices")
    monkeypatch.setitem(sys.modules, "fastvec.torch_devices", None)
    assert main(["doctor"]) == 0
    assert "GPU for torch: unknown: torch does not load" in capsys.readouterr().out


def test_diagnosis(monkeypatch):
    if not torch.cuda.is_available():
        assert torch_devices.diagnose().startswith("none: torch ")
    machine = fake_cuda.Machine("at once")
    monkeypatch.setattr(fake_cuda, "mapped", lambda address: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "NVIDIA A")
    monkeypatch.setattr(torch_devices, "Cuda", lambda device: fake_cuda.FakeGpu(machine))
    assert torch_devices.diagnose() == "NVIDIA A; memory can be page-locked"
    machine.runtime.refuses = 2
    assert torch_devices.diagnose().startswith("NVIDIA A; memory cannot be page-locked: out of memory (CUDA error 2); RLIMIT_MEMLOCK")
