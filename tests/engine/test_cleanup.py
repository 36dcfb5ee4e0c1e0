"""Nothing is left behind, however a run ends.  Each run is a process of its own, which prints its workers' pids."""
import gc
import os
import signal
import time

import envs
import psutil
import pytest
from scripts import IMPORTS, assert_gone, handles, popen, run

import fastvec
from fastvec_c.probe import Probe

START = IMPORTS + """
vec = fastvec.make(envs.Scripted, 2, start_method={method!r}, wait={wait!r}, on_failure={on_failure!r})
vec.reset()
vec.step([0, 0])
print(*[w.process.pid for w in vec._workers], flush=True)
"""
METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


def start(code, method="fork", wait="auto", on_failure="raise"):
    """Runs START and `code`; (the process, psutil handles of its workers)."""
    return started(START.format(method=method, wait=wait, on_failure=on_failure) + code)


def started(code):
    """Runs a program that prints its workers' pids; (the process, psutil handles of them)."""
    process = popen(code)
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return process, handles(line)


@METHODS
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


@METHODS
@pytest.mark.parametrize("code", ["pass", "raise RuntimeError", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_replaceable_worker_outlives_its_trainer(code, method):
    """Some of them have taken another's place."""
    process, workers = start(
        "os.kill(vec._workers[1].process.pid, signal.SIGKILL)\nvec.step([0, 0])\nprint(vec._workers[1].process.pid, flush=True)\n" + code,
        method, on_failure="restart",
    )
    workers += handles(process.stdout.readline())
    process.communicate(timeout=30)
    assert_gone(workers)


def test_exit_whatever_was_imported_first():
    """multiprocessing's exit hook may run before the one that closes the VecEnv."""
    process, workers = started("import tempfile\nd = tempfile.TemporaryDirectory()\n" + START.format(method="fork", wait="auto", on_failure="raise"))
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and err == ""
    assert_gone(workers)


STATES = {
    "start": "fastvec.make(envs.announced_creator, 1)",
    "step": "go(envs.loop_for_ever)",
    "step in C that keeps the GIL": "go(envs.wait_in_c_with_the_gil)",
    "parked": "go(None, wait='park')",
    "parked, with grandchildren": "go(None, envs.Nest)",
    "step of a grandchild": "go(envs.loop_for_ever, envs.Nest)",
}


@pytest.mark.parametrize("state", STATES)
def test_killed_trainer_takes_its_workers_along(state):
    """All descendants notice, whatever they are doing."""
    process, workers = started(IMPORTS + """
def go(trap, env=envs.Scripted, **options):
    vec = fastvec.make(lambda: env(trap, 1), 2, **options)
    vec.reset()
    print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)
    vec.send([0, 0])
    return vec
vec = """ + STATES[state] + "\ntime.sleep(3600)")
    assert len(workers) == (1 if state == "start" else 6 if "grandchild" in state else 2)
    time.sleep(0.1)  # the workers come to where they stay
    process.kill()
    process.communicate(timeout=30)
    assert_gone(workers)


@pytest.mark.parametrize("how", ["worker.kill()", "vec.close(grace=0.1)", "vec.close()"])
def test_grandchildren_do_not_outlive_a_worker(how):
    process, workers = started(IMPORTS + f"""
class Stuck(envs.Nest):
    def close(self):
        time.sleep(3600) if "0.1" in {how!r} else super().close()
vec = fastvec.make(Stuck, 1)
vec.reset()
worker = psutil.Process(vec._workers[0].process.pid)
grandchildren = [p.pid for p in worker.children()]
assert len(grandchildren) == 2
print(*grandchildren, flush=True)
{how}
print("done", flush=True)
time.sleep(3600)
""")
    assert process.stdout.readline() == "done\n"
    assert_gone(workers)  # while the trainer lives
    process.kill()
    process.communicate(timeout=30)


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


STUCK = IMPORTS + """
class Stuck(envs.Scripted):
    def close(self):
        time.sleep(3600)
vec = fastvec.make(lambda: Stuck(envs.sleep_long, 1), 3, start_method="fork")
vec.reset()
print(*[w.process.pid for w in vec._workers], flush=True)
"""


@pytest.mark.parametrize("rest", ["os._exit(0)", "", "vec.close(); vec.close()"])
def test_ctrl_c_while_closing(rest):
    """The second Ctrl-C: the user does not want to wait for envs that do not close, nor at the interpreter's exit."""
    process, workers = started(STUCK + f"""
try:
    print("closing", flush=True)
    vec.close(grace=3600)
except KeyboardInterrupt:
    print("interrupted", len(psutil.Process().children()), flush=True)
{rest}
""")
    assert process.stdout.readline() == "closing\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted 0\n", "", 0)
    assert_gone(workers)


def test_ctrl_c_twice():
    """In recv, and while the VecEnv is closed because of the first."""
    process, workers = started(STUCK + """
def press():
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

class Again:
    def __enter__(self):
        pass
    def __exit__(self, *_):
        threading.Thread(target=press).start()

try:
    with vec, Again():
        threading.Thread(target=press).start()
        vec.step([0] * 3)
except KeyboardInterrupt:
    print("left", flush=True)
""")
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("left\n", "", 0)
    assert_gone(workers)


@pytest.mark.parametrize("raises", ["KeyboardInterrupt", "TimeoutError", "KeyError"])
@pytest.mark.parametrize("call", [
    "vec.apply(envs.sleep_on)",
    "os.kill(vec._workers[0].process.pid, signal.SIGSTOP); vec.reset(options={'much': bytes(10_000_000)})",
    "vec.step([0])",
])
def test_interrupted_amid_a_message(call, raises):
    """While the slow path waits for an answer, sends to a worker that does not read, or unpickles what it has heard: the VecEnv is
    closed, for what is in its pipes is not known.  (While it waits for a step, nothing is lost.)"""
    process, workers = started(IMPORTS + f"""
def handler(*_):
    raise {raises}
signal.signal(signal.SIGALRM, handler)
vec = fastvec.make(envs.Sends, 1)
print(vec._workers[0].process.pid, flush=True)
vec.reset()
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    {call}
except ({raises}, fastvec.WorkerError):
    print("interrupted", flush=True)
try:
    vec.call("seed")
except fastvec.ClosedError as error:
    print(error)
""")
    out, err = process.communicate(timeout=30)
    assert out == "interrupted\ncall() after close(): make a new VecEnv\n", err
    assert_gone(workers)


@METHODS
def test_ctrl_c_while_making(method):
    process, workers = started(IMPORTS + f"""
try:
    fastvec.make([envs.Scripted, envs.announced_creator], 2, start_method={method!r})
except KeyboardInterrupt:
    print("interrupted", flush=True)
""")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
    assert_gone(workers)


@pytest.mark.parametrize("handler", ["sys.exit(7)", "vec.close(grace=0.1)", "raise KeyError"])
def test_sigterm_with_a_handler(handler):
    process, workers = start(f"""
def handler(*_):
    {handler}
signal.signal(signal.SIGTERM, handler)
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
try:
    vec.apply(envs.sleep_on)
except fastvec.ClosedError as error:
    print(error)
    sys.exit(8)
except KeyError:
    vec.close(grace=0.1)
    sys.exit(9)
""")
    out, err = process.communicate(timeout=30)
    assert process.returncode == {"s": 7, "v": 8, "r": 9}[handler[0]], err
    assert "Traceback" not in err and (handler[0] != "v" or "call() was waiting when the VecEnv was closed" in out)
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


CHILD = """
pid = os.fork()
if pid == 0:
    for call in (lambda: vec.step([0, 0]), vec.reset, vec.recv, lambda: vec.send([0, 0]), lambda: vec.call("seed")):
        try:
            call()
            os._exit(1)
        except fastvec.ClosedError as error:
            assert f"in process {{os.getpid()}}, a fork of the one that made the VecEnv" in str(error), error
    {ends}
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
for _ in range(10):
    vec.step([1, 1])
assert vec.call("double", 2) == [4, 4]
os.kill(vec._workers[0].process.pid, signal.SIGKILL)
try:
    vec.step([1, 1])
    print("restarts", vec.stats().workers[0].restarts)
except fastvec.WorkerError as error:
    print("death of", error.worker)
"""


@pytest.mark.parametrize("method, on_failure, ends", [
    ("fork", "raise", "os._exit(17)"),
    ("fork", "raise", "vec.close(); sys.exit(17)"),
    ("fork", "restart", "sys.exit(17)"),
    ("forkserver", "restart", "del vec, call; gc.collect(); sys.exit(17)"),
    ("spawn", "raise", "sys.exit(17)"),
])
def test_forked_child_cannot_harm(ends, on_failure, method):
    """A process that the trainer forks inherits a VecEnv that is not its own, with all its descriptors and exit hooks."""
    process, workers = start(CHILD.format(ends=ends), method, on_failure=on_failure)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err, err
    assert out == ("restarts 1\n" if on_failure == "restart" else "death of 0\n")
    assert_gone(workers)


def test_a_forked_child_that_lives_on_keeps_no_worker():
    """It holds copies of all pipes; deaths are noticed, and workers end, all the same."""
    process, workers = start("""
child = os.fork()
if child == 0:
    time.sleep(3600)
os.kill(vec._workers[1].process.pid, signal.SIGKILL)
try:
    vec.step([0, 0])
except fastvec.WorkerError as error:
    print(error.worker)
try:
    fastvec.make([envs.Scripted, envs.bad_creator], 2)
except fastvec.WorkerError as error:
    print(error.env)
print(sorted(p.pid for p in psutil.Process().children()) == [child])
os.kill(child, signal.SIGKILL)
""")
    out, err = process.communicate(timeout=30)
    assert out.split() == ["1", "1", "True"], err
    assert_gone(workers)


def test_children_that_the_kernel_reaps():
    """Where SIGCHLD is ignored nobody can ask for exit codes."""
    process, workers = started("import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
                               + START.format(method="fork", wait="auto", on_failure="restart") + """
os.kill(vec._workers[1].process.pid, signal.SIGKILL)
print(vec.step([0, 0])[4][1]["error"].splitlines()[0])
vec.close()
print(len(psutil.Process().children()))
""")
    out, err = process.communicate(timeout=30)
    assert "ended (and somebody else reaped it) while in step()" in out and out.endswith("\n0\n") and process.returncode == 0, err
    assert_gone(workers)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_nested(method):
    """An env may use fastvec itself."""
    with fastvec.make(envs.Nest, 2, start_method=method) as vec:
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


MANY = IMPORTS + """
from fastvec_c.probe import Probe
def once(i):
    with fastvec.make(Probe, 2, seed=0, batch_size=1 + i % 2, on_failure=("raise", "restart")[i % 3 == 0]) as vec:
        vec.async_reset()
        vec.send(np.zeros(len(vec.recv().rows), np.int64))
    try:
        fastvec.make([Probe, (envs.bad_creator, envs.dying_creator)[i % 2]], 2)
    except fastvec.WorkerError:
        pass
def usage():
    gc.collect()
    me = psutil.Process()
    with open("/proc/self/maps") as maps:
        mapped = sum("memfd:fastvec-" in line for line in maps)
    return (len(os.listdir("/proc/self/fd")), mapped, len(me.children()), me.num_threads()), me.memory_info().rss
for i in range(20):
    once(i)
before = usage()
for i in range(100):
    once(i)
after = usage()
assert after[0] == before[0] and before[0][1:3] == (0, 0), (before, after)
assert after[1] - before[1] < 2 << 20, (before, after)
"""


def test_hundreds_after_another():
    """No growth of descriptors, maps, threads, memory or processes (zombies included), also after creators that raise or die."""
    run(MANY)


def test_nothing_in_dev_shm():
    before = set(os.listdir("/dev/shm"))
    with fastvec.make(Probe, 2) as vec:
        vec.reset()
        assert set(os.listdir("/dev/shm")) == before
