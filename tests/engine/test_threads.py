"""A VecEnv is for one thread at a time, and any thread may close it."""
import os
import signal
import threading
import time
from contextlib import contextmanager

import envs
import numpy as np
import pytest
from scripts import IMPORTS, assert_gone, handles, popen

import fastvec
from fastvec_c.probe import Probe


@contextmanager
def gated():
    """A VecEnv of two workers that finish their first step when `gate.open()` is called."""
    gate = Gate()
    with fastvec.make(lambda: envs.Scripted(gate.wait, 1), 2) as vec:
        vec.reset()
        yield vec, gate
    gate.close()


class Gate:
    def __init__(self):
        self.out, self.into = os.pipe()

    def wait(self):
        os.read(self.out, 1)

    def open(self):
        os.write(self.into, b"--")

    def close(self):
        os.close(self.out)
        os.close(self.into)


def closer(vec, after):
    thread = threading.Timer(after, vec.close)
    thread.start()
    return thread


def receiver(vec, received):
    """A thread that is inside recv."""
    thread = threading.Thread(target=lambda: received.append(vec.recv()))
    thread.start()
    while not vec._busy:
        time.sleep(0.001)
    return thread


def calls(vec):
    actions = np.zeros(vec.num_rows, np.int64)
    return (vec.recv, vec.reset, vec.async_reset, lambda: vec.send(actions), lambda: vec.step(actions), lambda: vec.call("seed"),
            lambda: vec.apply(getattr, "seed"))


def test_while_another_thread_is_inside():
    with gated() as (vec, gate):
        received = []
        vec.send([1, 2])
        other = receiver(vec, received)
        for call in calls(vec):
            with pytest.raises(fastvec.StateError, match="while another call is under way: a VecEnv is for one thread at a time") as raised:
                call()
            assert not isinstance(raised.value, fastvec.ClosedError)
        gate.open()
        other.join()
        assert received[0].rewards.tolist() == [1, 2]  # nobody has disturbed it
        assert vec.step([1, 1])[1].tolist() == [2, 3]


def test_threads_in_turn():
    """Whoever has a lock of his own around his calls may use as many threads as he likes."""
    lock, steps = threading.Lock(), []
    with fastvec.make(Probe, 2) as vec:
        vec.reset()

        def play():
            for _ in range(100):
                with lock:
                    vec.step(np.ones(2, np.int64))
                    steps.append(vec.rewards.tolist())

        threads = [threading.Thread(target=play) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(steps) == 300 and [worker.steps for worker in vec.stats().workers] == [300, 300]


@pytest.mark.parametrize("wait", ["spin", "park"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"on_failure": "restart"}])
def test_closed_by_another_thread_at_any_moment(wait, options):
    """recv, which may be finishing just then, gives its batch before, or ClosedError; and nobody calls it alive afterwards."""
    for moment in np.linspace(0, 0.03, 7):
        vec = fastvec.make(lambda: Probe(work_us=15_000), 2, wait=wait, **options)
        vec.async_reset()
        thread = closer(vec, moment)
        with pytest.raises(fastvec.ClosedError):
            while True:
                vec.send(np.zeros(len(vec.recv(timeout=20).rows), np.int64))
        thread.join()
        for call in calls(vec):
            with pytest.raises(fastvec.ClosedError, match=r"after close\(\)"):
                call()


def test_closed_by_two_threads_at_once():
    vec = fastvec.make(lambda: envs.Scripted(envs.sleep_long, 1), 2)
    vec.reset()
    vec.send([0, 0])
    threads = [threading.Thread(target=vec.close, kwargs={"grace": 0.3}) for _ in range(3)]
    for thread in threads:
        thread.start()
    with pytest.raises(fastvec.ClosedError):
        vec.recv()
    for thread in threads:
        thread.join()


class Watched(envs.Scripted):
    """Has itself closed while it steps."""

    working = closed_at_work = False
    closed = 0

    def step(self, action):
        self.working = True
        self.trap()
        self.working = False
        return super().step(action)

    def close(self):
        self.closed += 1
        self.closed_at_work |= self.working


@pytest.mark.parametrize("how", ["step", "call"])
@pytest.mark.parametrize("by", ["another thread", "a signal handler"])
def test_envs_of_this_process_are_closed_by_who_is_at_work_in_them(how, by):
    def close():
        if by == "a signal handler":
            os.kill(os.getpid(), signal.SIGALRM)
        else:
            threads.append(closer(vec, 0))
            time.sleep(0.05)

    threads = []
    before = signal.signal(signal.SIGALRM, lambda *_: vec.close())
    env = Watched(close, at=-1)
    vec = fastvec.make(lambda: env, 0)
    vec.reset()
    with pytest.raises(fastvec.ClosedError):
        while True:
            vec.step([0]) if how == "step" else vec.apply(Watched.step, 0)
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGALRM, before)
    assert env.closed == 1 and not env.closed_at_work
    with pytest.raises(fastvec.ClosedError):
        vec.reset()


def test_compiled_envs_of_this_process():
    """Their memory is not given back below a step."""
    for moment in (0.0, 0.05, 0.1):
        vec = fastvec.make(lambda: Probe(work_us=100_000), 0)
        vec.reset()
        thread = closer(vec, moment)
        with pytest.raises(fastvec.ClosedError):
            while True:
                vec.step([0])
        thread.join()


def test_closed_during_a_restart():
    """The newcomer leaves as well, whenever it comes."""
    for moment in (0.0, 0.1, 0.2, 0.3):
        vec = fastvec.make(lambda: envs.Scripted(envs.kill_me, 1), 2, on_failure="restart", max_restarts=1000)
        vec.reset()
        thread = closer(vec, moment)
        with pytest.raises(fastvec.ClosedError):
            while True:
                vec.step([0, 0])
        thread.join()


def test_fork_while_another_thread_waits():
    """In the child nobody waits: its calls and close() return at once."""
    with gated() as (vec, gate):
        vec.send([1, 2])
        other = receiver(vec, [])
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            try:
                vec.recv()
            except fastvec.ClosedError:
                vec.close(grace=3600)
                os._exit(17)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
        gate.open()
        other.join()
        assert vec.step([1, 1])[1].tolist() == [2, 3]


@pytest.mark.parametrize("daemon", [False, True])
def test_interpreter_ends_while_a_thread_waits(daemon):
    process = popen(IMPORTS + f"""
vec = fastvec.make(lambda: envs.Scripted(lambda: time.sleep({1.0 if daemon else 0.3}), 1), 2)
print(*[w.process.pid for w in vec._workers], flush=True)
vec.reset()
vec.send([0, 0])
threading.Thread(target=vec.recv, daemon={daemon}).start()
time.sleep(0.1)
""")
    workers = handles(process.stdout.readline())
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert_gone(workers)
