"""Where the time of a training loop goes: parts that add up, each moment counted once."""
import doctest
import os
import pickle
import time
from functools import partial

import envs
import numpy as np
import pytest

import fastvec
from fastvec import step_times
from fastvec_c.probe import Probe, burn_cpu

MS = 1_000_000


class Timeline:
    """A clock as Pool._clock has it, whose time the test sets: flights and what the slowest env of each takes, in ms."""

    def __init__(self):
        self.now = self.flown = self.stepped = 0
        self.sent = self.busy = None

    def __call__(self):
        sent = self.now if self.sent is None else self.sent
        done = self.now if self.sent is None else min(self.now, sent + self.busy)
        return tuple(MS * t for t in (self.now, self.flown + self.now - sent, self.stepped + done - sent, sent, done))

    def spend(self, ms):
        self.now += ms

    def send(self, busy):
        self.sent, self.busy = self.now, busy

    def recv(self):
        passed = self.now - self.sent
        self.flown += passed
        self.stepped += min(self.busy, passed)
        self.sent = None

    def drop(self):
        self.sent = None


@pytest.fixture
def timeline(monkeypatch):
    line = Timeline()
    monkeypatch.setattr(step_times, "_wall_clock", line)
    return line


def milliseconds(times):
    found = {part: round(s * 1e3, 6) for part, s in times.seconds().items()}
    assert sum(found.values()) == pytest.approx(round((times._clock()[0] - times._began[0]) / MS, 6))
    assert min(found.values()) >= 0
    return found


def test_parts_add_up(timeline):
    times = fastvec.StepTimes()
    for _ in range(3):
        with times("policy"):
            timeline.spend(2)
        timeline.send(busy=5)
        timeline.spend(6)
        timeline.recv()
        timeline.spend(1)
    with times("learning"):
        timeline.spend(30)
    assert milliseconds(times) == {"policy": 6, "learning": 30, "envs": 15, "handoff": 3, "other": 3}
    assert times.shares()["learning"] == pytest.approx(30 / 57) and sum(times.shares().values()) == pytest.approx(1)


@pytest.mark.parametrize("took, waited", [(4, {"envs": 6, "handoff": 1}), (12, {"envs": 0, "handoff": 1})])
def test_what_a_block_does_while_envs_step_is_its_own(timeline, took, waited):
    times = fastvec.StepTimes()
    timeline.send(busy=10)
    with times("copies"):
        timeline.spend(took)
    timeline.spend(sum(waited.values()))
    timeline.recv()
    assert milliseconds(times) == {"copies": took, **waited, "other": 0}


def test_a_long_block_hides_no_other_steps_envs(timeline):
    """One update overlaps one step of many: the envs of the others are waited for all the same."""
    times = fastvec.StepTimes()
    for step in range(10):
        timeline.send(busy=2)
        if step == 4:
            with times("learning"):
                timeline.spend(100)
        else:
            timeline.spend(3)
        timeline.recv()
    assert milliseconds(times) == {"learning": 100, "envs": 18, "handoff": 9, "other": 0}


def test_two_blocks_in_one_flight(timeline):
    times = fastvec.StepTimes()
    timeline.send(busy=10)
    timeline.spend(1)
    with times("copies"):
        timeline.spend(3)
    timeline.spend(2)
    with times("learning"):
        timeline.spend(20)
    timeline.recv()
    assert milliseconds(times) == {"copies": 3, "learning": 20, "envs": 3, "handoff": 0, "other": 0}


def test_a_block_around_send_and_recv(timeline):
    times = fastvec.StepTimes()
    with times("policy"):  # policy, send, recv of this one, send of the next
        timeline.spend(2)
        timeline.send(busy=4)
        timeline.spend(5)
        timeline.recv()
        timeline.spend(2)
        timeline.send(busy=4)
        timeline.spend(1)
    timeline.spend(4)
    with times("rest"):
        timeline.spend(2)  # still in recv
        timeline.recv()
        timeline.spend(3)
    assert milliseconds(times) == {"policy": 5, "rest": 3, "envs": 7, "handoff": 4, "other": 0}


@pytest.mark.parametrize("began_in_flight", [False, True])
def test_a_flight_that_is_dropped_leaves_no_negative_times(timeline, began_in_flight):
    if began_in_flight:
        timeline.send(busy=3)
        timeline.spend(7)
    times = fastvec.StepTimes()
    if not began_in_flight:
        timeline.send(busy=3)
    with times("copies"):
        timeline.spend(2)
        timeline.drop()
        timeline.spend(1)
    assert milliseconds(times) == {"copies": 3, "envs": 0, "handoff": 0, "other": 0}


def test_begun_in_flight(timeline):
    timeline.send(busy=10)
    timeline.spend(4)
    times = fastvec.StepTimes()
    timeline.spend(8)
    assert milliseconds(times) == {"envs": 6, "handoff": 2, "other": 0}
    timeline.recv()
    assert milliseconds(times) == {"envs": 6, "handoff": 2, "other": 0}


def test_an_open_block_counts_up_to_now(timeline):
    times = fastvec.StepTimes()
    with times("learning"):
        timeline.spend(5)
        assert milliseconds(times) == {"learning": 5, "envs": 0, "handoff": 0, "other": 0}
        timeline.spend(1)
    assert milliseconds(times)["learning"] == 6


def test_restart(timeline):
    times = fastvec.StepTimes()
    with times("policy"):
        timeline.spend(3)
    timeline.spend(2)
    times.restart()
    with times("learning"):
        timeline.spend(1)
        with pytest.raises(fastvec.StateError, match=r"restart\(\) inside of times\('learning'\)"):
            times.restart()
    assert milliseconds(times) == {"policy": 0, "learning": 1, "envs": 0, "handoff": 0, "other": 0}


def test_nothing_yet(timeline):
    times = fastvec.StepTimes()
    assert times.shares() == {"envs": 0, "handoff": 0, "other": 0}
    assert times.table().splitlines()[-1].split() == ["total", "0.000", "s", "0.0%"]


def test_table(timeline):
    times = fastvec.StepTimes()
    with times("policy"):
        timeline.spend(250)
    timeline.spend(750)
    assert times.table() == (
        "policy       0.250 s   25.0%\n"
        "envs         0.000 s    0.0%\n"
        "handoff      0.000 s    0.0%\n"
        "other        0.750 s   75.0%\n"
        "total        1.000 s  100.0%"
    )


def test_blocks_do_not_nest(timeline):
    times = fastvec.StepTimes()
    with times("policy"):
        timeline.spend(1)
        with pytest.raises(fastvec.StateError, match=r"times\('copies'\) inside of times\('policy'\)"):
            with times("copies"):
                raise AssertionError("entered")
        with pytest.raises(fastvec.StateError, match=r"inside of times\('policy'\)"), times("policy"):
            raise AssertionError("entered")
        timeline.spend(1)
    assert milliseconds(times) == {"policy": 2, "copies": 0, "envs": 0, "handoff": 0, "other": 0}


@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, GeneratorExit])
def test_a_block_that_raises_counts_and_is_left(timeline, exception):
    times = fastvec.StepTimes()
    with pytest.raises(exception), times("policy"):
        timeline.spend(4)
        raise exception
    with times("policy"):
        timeline.spend(1)
    assert milliseconds(times)["policy"] == 5


@pytest.mark.parametrize("part, error, told", [
    (3, TypeError, "part=3"), (None, TypeError, "part=None"), (["policy"], TypeError, "part="), ("", ValueError, "part=''"),
    ("envs", ValueError, "give a name other than 'envs', 'handoff', 'other'"), ("other", ValueError, "part='other'"),
])
def test_bad_names(part, error, told):
    times = fastvec.StepTimes()
    with pytest.raises(error, match=told):
        times(part)
    assert list(times.seconds()) == ["envs", "handoff", "other"]


@pytest.mark.parametrize("vec", [3, object(), "CartPole-v1"])
def test_bad_vec(vec):
    with pytest.raises(TypeError, match="give a VecEnv of fastvec's, or None"):
        fastvec.StepTimes(vec)


# ---- on a VecEnv


def test_the_example():
    assert doctest.testmod(step_times).failed == 0


def train(vec, times, steps):
    """A loop that marks all that it does itself; returns the seconds it took."""
    vec.async_reset(seed=0)
    batch = vec.recv()
    times.restart()
    began = time.perf_counter()
    for _ in range(steps):
        with times("policy"):
            burn_cpu(200)
            actions = np.zeros(len(batch.rows), np.int64)
        vec.send(actions)
        with times("copies"):
            burn_cpu(50)
        batch = vec.recv()
    with times("learning"):
        burn_cpu(2000)
    return time.perf_counter() - began


@pytest.mark.parametrize("num_workers, batch_size", [(0, None), (1, None), (2, None), (2, 1)])
def test_on_a_vec_env(num_workers, batch_size):
    with fastvec.make(partial(Probe, work_us=400), num_workers, batch_size=batch_size) as vec:
        times = fastvec.StepTimes(vec)
        before = vec.stats()
        took = train(vec, times, 64)
        found, after = times.seconds(), vec.stats()
        assert list(found) == ["policy", "copies", "learning", "envs", "handoff", "other"] and min(found.values()) >= 0
        assert sum(found.values()) >= took  # the part of the whole that comes after the loop is "other"
        assert found["policy"] >= 64 * 200e-6 and found["copies"] >= 64 * 50e-6 and found["learning"] >= 2000e-6
        assert found["envs"] > 0  # they take longer than what is done beside them
        # The same time that the VecEnv's own statistics have, but for what was done meanwhile.
        flown = after.env + after.handoff - before.env - before.handoff
        assert found["envs"] + found["handoff"] + found["copies"] == pytest.approx(flown, abs=1e-6)


def test_steps_within_a_block_are_not_the_blocks_time():
    with fastvec.make(partial(Probe, work_us=2000), 0) as vec:
        vec.reset(seed=0)
        times = fastvec.StepTimes(vec)
        began = time.perf_counter()
        with times("policy"):
            for _ in range(5):
                vec.step(np.zeros(1, np.int64))
        took, stats = time.perf_counter() - began, vec.stats()
        found = times.seconds()
    assert found["envs"] >= 5 * 2000e-6
    assert found["envs"] + found["handoff"] == pytest.approx(stats.env + stats.handoff, abs=1e-6)
    assert 0 < found["policy"] <= took - stats.env - stats.handoff + 1e-6


def test_resets_and_closing_in_flight():
    with fastvec.make(partial(Probe, work_us=100), 1) as vec:
        vec.reset(seed=0)
        times = fastvec.StepTimes(vec)
        vec.send(np.zeros(1, np.int64))
        with times("copies"):
            burn_cpu(1000)
            vec.reset()  # drops the step
            vec.send(np.zeros(1, np.int64))
    found = times.seconds()  # after close
    assert found["copies"] >= 1000e-6 and min(found.values()) >= 0 and sum(times.shares().values()) == pytest.approx(1)


def test_of_the_integrations():
    gym = pytest.importorskip("fastvec.gym")
    vec = gym.VectorEnv([envs.cartpole] * 2, num_workers=1)
    times = fastvec.StepTimes(vec)
    vec.reset(seed=0)
    for _ in range(20):
        with times("policy"):
            actions = vec.action_space.sample()
        vec.step(actions)
    found = times.seconds()
    vec.close()
    assert found["envs"] + found["handoff"] > 0 and found["policy"] > 0


def test_a_forked_child_goes_on_by_itself():
    with fastvec.make(envs.probe, 1) as vec:
        vec.reset(seed=0)
        times = fastvec.StepTimes(vec)
        with times("policy"):
            ours, theirs = os.pipe()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.close(ours)
                    burn_cpu(1000)
                    times._parts["policy"].__exit__(None, None, None)  # the block that the fork left open here, too
                    with times("learning"):
                        burn_cpu(3000)
                    os.write(theirs, pickle.dumps(times.seconds()))
                    status = 0
                finally:
                    os._exit(status)
            os.close(theirs)
            with open(ours, "rb") as pipe:
                told = pickle.loads(pipe.read())
            assert os.waitpid(child, 0)[1] == 0
        vec.step(np.zeros(vec.num_rows, np.int64))
        found = times.seconds()
    assert told["learning"] >= 3000e-6 and told["policy"] >= 1000e-6 and min(told.values()) >= 0
    assert list(found) == ["policy", "envs", "handoff", "other"] and found["envs"] + found["handoff"] > 0
