"""Simulators that fail: at start-up, in a step, by hanging, by not being there."""
import os
import sys
import time

import numpy as np
import psutil
import pytest

import fastvec
from fastvec.drive.scenes import SHIPPED
from fastvec.gpudrive import GPUDrive, creator
from fastvec.gpudrive.simulator import SimulatorError

SCENES = sorted(SHIPPED.glob("*.json.gz"))[:2]


@pytest.fixture(autouse=True)
def no_process_left():
    before, fds = set(psutil.Process().children(recursive=True)), len(os.listdir("/proc/self/fd"))
    yield
    deadline = time.monotonic() + 10
    while set(psutil.Process().children(recursive=True)) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(psutil.Process().children(recursive=True)) <= before
    assert len(os.listdir("/proc/self/fd")) <= fds


@pytest.fixture
def telling(monkeypatch):
    """Envs say of their simulators in which process they were built, and how many CPUs that had."""
    for name in ("pid", "threads"):
        monkeypatch.setattr(GPUDrive, name, property(lambda self, name=name: getattr(self.sim, name)), raising=False)


@pytest.fixture
def crashes(double, tmp_path, monkeypatch):
    """crashes(n): the next n simulators that are built take their processes down."""
    counter = tmp_path / "crashes"

    def expect(n):
        counter.write_text(str(n))
        monkeypatch.setattr(double.SimManager, "crash_builds", counter)

    return expect


def test_a_worker_that_dies_while_building_is_started_again(crashes):
    crashes(2)
    with fastvec.make(creator(SCENES, 1), 2) as vec:
        observations, _ = vec.reset(seed=0)
        with fastvec.make(creator(SCENES, 1), 0, num_envs=2) as here:
            assert np.array_equal(here.reset(seed=0)[0], observations)
            actions = np.arange(vec.num_rows) % 91
            assert all(np.array_equal(a, b) for a, b in zip(vec.step(actions)[:4], here.step(actions)[:4]))


def test_a_worker_that_always_dies_is_an_error_with_its_scenes(crashes):
    crashes(100)
    with pytest.raises(fastvec.WorkerError, match=r"SIGSEGV") as caught:
        fastvec.make(creator(SCENES, 2), 1)
    assert "It did so 3 times." in str(caught.value)
    assert f"It was hosting {SCENES[0].name}, {SCENES[1].name}." in str(caught.value)


def test_a_worker_of_another_creator_is_started_once():
    with pytest.raises(fastvec.WorkerError) as caught:
        fastvec.make(lambda: os._exit(7), 1)
    assert "times" not in str(caught.value)


def test_no_simulator(monkeypatch):
    monkeypatch.setitem(sys.modules, "madrona_gpudrive", None)  # cannot be imported, even where it is installed
    with pytest.raises(fastvec.WorkerError, match=r"GPUDrive's simulator cannot be imported.*github.com/Emerge-Lab/gpudrive"):
        fastvec.make(creator(SCENES, 1), 1)
    with pytest.raises(SimulatorError):
        GPUDrive(SCENES, 1)


@pytest.mark.parametrize("step", [0, 5])
def test_a_crash_takes_down_one_worker_and_says_which(double, step, monkeypatch):
    monkeypatch.setattr(double.SimManager, "crash_at", step)
    with fastvec.make([creator(SCENES, 1), lambda: Quiet(creator(SCENES, 1)(1, 2))], 2) as vec:
        vec.reset()
        with pytest.raises(fastvec.WorkerError, match="SIGSEGV") as caught:
            for _ in range(step + 1):
                vec.step(np.zeros(vec.num_rows, int))
        assert caught.value.worker == 0 and caught.value.phase == "step"


class Quiet(fastvec.Env):
    """Steps nothing, in rows like those of another env."""

    def __init__(self, like):
        self.observation_space, self.action_space, self.num_agents = like.observation_space, like.action_space, like.num_agents

    def reset(self, seed=None, options=None):
        self.observations[:] = 0

    def step(self, actions):
        self.observations[:] = 0


def test_a_hang_is_a_timeout(double, monkeypatch):
    monkeypatch.setattr(double.SimManager, "hang_at", 2)
    with fastvec.make(creator(SCENES, 1), 1, timeout=1) as vec:
        vec.reset()
        vec.step(np.zeros(vec.num_rows, int))
        vec.step(np.zeros(vec.num_rows, int))
        with pytest.raises(fastvec.RecvTimeout):
            vec.step(np.zeros(vec.num_rows, int))


def test_a_simulator_of_another_version(double, monkeypatch):
    monkeypatch.setattr(double.SimManager, "__init__", lambda self, **kwargs: None)
    with pytest.raises(SimulatorError, match="SimManager does not export what GPUDrive's SimManager in CPU mode does: .*action_tensor"):
        GPUDrive(SCENES, 1)


def test_tensors_of_another_shape(double, monkeypatch):
    build = double.SimManager.__init__

    def smaller(self, **kwargs):
        build(self, **kwargs)
        self._arrays["info"] = np.zeros((len(kwargs["scenes"]), 64, 6), np.int32)

    monkeypatch.setattr(double.SimManager, "__init__", smaller)
    with pytest.raises(ValueError, match=r"info_tensor\(\) is int32\[2, 64, 6\]: expected \[2, 64, 5\].*another version"):
        GPUDrive(SCENES, 2)


def test_tensors_that_move_are_noticed(double, monkeypatch):
    monkeypatch.setattr(double.SimManager, "move_tensors", True)
    env = GPUDrive(SCENES, 2)
    with pytest.raises(SimulatorError, match="moved its tensors info"):
        env.set_scenes(SCENES)


def test_one_cpu_for_each_worker_and_the_trainer_keeps_its_own(double, telling):
    before = os.sched_getaffinity(0)
    with fastvec.make(creator(SCENES, 1), 2) as vec:
        assert vec.call("threads") == [1, 1]
    assert os.sched_getaffinity(0) == before
    with fastvec.make(creator(SCENES, 1), 0) as vec:
        vec.reset()
    assert os.sched_getaffinity(0) == before
    if len(before) > 1:
        with fastvec.make(creator(SCENES, 1, pin=False), 1) as vec:
            assert vec.call("threads") == [len(before)]


def test_the_simulator_is_built_in_the_worker_and_never_deleted(double, telling):
    """A double refuses to be stepped in a process that did not build it, as GPUDrive hangs there."""
    with fastvec.make(creator(SCENES, 1), 2) as vec:
        vec.reset()
        vec.step(np.zeros(vec.num_rows, int))
        pids = vec.call("pid")
        assert len({os.getpid(), *pids}) == 3
        vec.close()  # right after a step
        vec.close()
