"""Nothing is left behind, however a run ends.  Each run is a process of its own, which prints its workers' pids."""
import gc
import os
import signal
import subprocess
import sys
import time

import envs
import numpy as np
import psutil
import pytest

import fastvec
from fastvec_c.probe import Probe

HERE = os.path.dirname(__file__)
START = """
import os, signal, sys, threading, time
sys.path.insert(0, {here!r})
import numpy as np
import envs, fastvec
vec = fastvec.make(envs.Scripted, 2, start_method={method!r}, wait={wait!r})
vec.reset()
vec.step([0, 0])
print(*[w.process.pid for w in vec._workers], flush=True)
"""


# A background job of a shell without job control ignores it, and so would whatever the tests start.
HEED_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def start(code, method="fork", wait="auto"):
    """Runs START and `code`; (the process, psutil handles of its workers)."""
    source = HEED_CTRL_C + START.format(here=HERE, method=method, wait=wait) + code
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return process, handles(line)


def handles(line):
    """Of the processes in a line of pids; those that have ended already are left out."""
    found = []
    for pid in line.split():
        try:
            found.append(psutil.Process(int(pid)))
        except psutil.NoSuchProcess:
            pass
    return found


def assert_gone(workers):
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("code", [
    "pass  # the interpreter ends with the VecEnv open",
    "raise RuntimeError",
    "sys.exit(3)",
    "os._exit(0)",
    "os.kill(os.getpid(), signal.SIGKILL)",
    "os.kill(os.getpid(), signal.SIGTERM)",
    "del vec; import gc; gc.collect()",
    "vec.close(); vec.close()",
    "vec.send([0, 0])",
    "vec.send([0, 0]); os.kill(os.getpid(), signal.SIGKILL)",
])
def test_no_worker_outlives_its_trainer(code, method):
    process, workers = start(code, method)
    process.communicate(timeout=30)
    assert_gone(workers)


def test_hung_worker_does_not_outlive_a_killed_trainer():
    process, workers = start(
        "vec2 = fastvec.make(lambda: envs.Scripted(envs.sleep_long, 1), 1)\n"
        "print(*[w.process.pid for w in vec2._workers], flush=True)\n"
        "vec2.reset(); vec2.send([0]); time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    workers += handles(process.stdout.readline())
    process.communicate(timeout=30)
    assert_gone(workers)


@pytest.mark.parametrize("wait", ["spin", "yield", "park", "auto"])
def test_ctrl_c(wait):
    """KeyboardInterrupt reaches the trainer wherever it waits; the workers ignore the terminal's signal."""
    process, workers = start(
        "slow = fastvec.make(lambda: envs.Scripted(envs.sleep_long, 1), 1, wait=%r)\n"
        "slow.reset(); slow.send([0])\n"
        "print('waiting', flush=True)\n"
        "try:\n    slow.recv()\n"
        "except KeyboardInterrupt:\n    print('interrupted', vec.step([1, 1])[1].tolist(), flush=True)\n"
        "os._exit(0)" % wait, wait=wait,
    )
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.2)
    for p in [process, *workers]:  # as a terminal does
        os.kill(p.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out == "interrupted [1.0, 1.0]\n", err
    assert_gone(workers)


def test_threads_that_made_it_may_end():
    """A worker belongs to the process, not to the thread that started it."""
    import threading

    made = []
    thread = threading.Thread(target=lambda: made.append(fastvec.make(envs.Scripted, 2, seed=0)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    with made[0] as vec:
        assert vec.reset()[0][:, 0].tolist() == [0, 1]


def test_garbage_is_collected():
    vec = fastvec.make(envs.Scripted, 2)
    workers = [psutil.Process(w.process.pid) for w in vec._workers]
    vec.reset()
    del vec
    gc.collect()
    assert_gone(workers)


def test_forked_child_cannot_harm():
    with fastvec.make(envs.Scripted, 2, seed=0) as vec:
        vec.reset()
        pid = os.fork()
        if pid == 0:
            try:
                vec.step([0, 0])
            except fastvec.ClosedError:
                del vec
                gc.collect()
                os._exit(17)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
        assert vec.step([1, 1])[1].tolist() == [1, 1]


def test_nested():
    """An env may use fastvec itself."""

    class Nest(envs.Scripted):
        def __init__(self):
            super().__init__()
            self.inner = fastvec.make(envs.Scripted, 2, seed=5)

        def reset(self, **k):
            self.inner.reset(seed=9)
            return super().reset(**k)

        def step(self, action):
            _, rewards, *_ = self.inner.step([int(action)] * 2)
            assert rewards.tolist() == [self.sum + action] * 2
            return super().step(action)

        def close(self):
            self.inner.close()

    with fastvec.make(Nest, 2) as vec:
        vec.reset(seed=1)
        for _ in range(4):
            vec.step([2, 3])


def test_close_closes_the_envs(tmp_path):
    class Leaver(envs.Scripted):
        def close(self):
            (tmp_path / str(self.seed)).touch()

    for num_workers in (0, 2):
        vec = fastvec.make(Leaver, num_workers, num_envs=4, seed=10 * num_workers)
        vec.reset()
        vec.step([0] * 4)
        vec.close()
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [0, 1, 2, 3, 20, 21, 22, 23]


def test_many_after_another():
    """No growth of descriptors, maps or processes."""
    def once():
        with fastvec.make(Probe, 2, seed=0) as vec:
            vec.reset()
            vec.step(np.zeros(2, np.int64))

    def usage():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return len(os.listdir("/proc/self/fd")), sum("fastvec" in line for line in maps)

    once()
    before = usage()
    for _ in range(60):
        once()
    assert usage() == before


def test_nothing_in_dev_shm():
    before = set(os.listdir("/dev/shm"))
    with fastvec.make(Probe, 2) as vec:
        vec.reset()
        assert set(os.listdir("/dev/shm")) == before
