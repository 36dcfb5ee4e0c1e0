"""Every death and every hang is told with what there is to know: who, where, how, the stack, the end of stderr."""
import ctypes
import os
import signal
import subprocess
import sys
import time
from functools import partial

import envs
import numpy as np
import psutil
import pytest

import fastvec

DEADLY = [s for s in ("SIGHUP", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV", "SIGUSR2",
                      "SIGPIPE", "SIGALRM", "SIGTERM", "SIGXCPU", "SIGSYS") if hasattr(signal, s)]
FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


def die_of(name):
    number = getattr(signal, name)
    if name not in FAULTS:
        signal.signal(number, signal.SIG_DFL) if name != "SIGKILL" else None
    os.kill(os.getpid(), number)
    time.sleep(10)


def complain_and_abort():
    os.write(2, b"python says: about to abort\n")  # pytest's sys.stderr goes elsewhere, over a fork
    ctypes.CDLL(None).dprintf(2, b"C says: free(): invalid pointer\n")
    os.abort()


def complain_at_length():
    for i in range(5000):
        os.write(2, b"line %d\n" % i)
    os._exit(1)


def leave():
    sys.exit(4)


def wait_in_c_without_the_gil():
    ctypes.CDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)


def failed(vec):
    with pytest.raises(fastvec.WorkerError) as raised:
        vec.reset()
        for _ in range(10):
            vec.step(np.zeros(vec.num_rows, np.int64))
    return raised.value


@pytest.mark.parametrize("name", DEADLY)
def test_signals(name):
    error = failed(fastvec.make(envs.Trapped(partial(die_of, name), env=3), 2, num_envs=4))
    assert f"was killed by {name}" in str(error) and "in step(), at env 3" in str(error)
    assert (error.worker, error.env, error.envs, error.phase) == (1, 3, range(2, 4), "step")
    assert error.exitcode == -getattr(signal, name)
    if name in FAULTS:
        assert "in die_of" in str(error)  # the stack, of faulthandler


@pytest.mark.parametrize("how, code", [(envs.exit_now, 7), (leave, 4)])
@pytest.mark.parametrize("phase, at", [("reset", 0), ("step", 2)])
def test_exits(how, code, phase, at):
    error = failed(fastvec.make(envs.Trapped(how, at), 2))
    assert f"exit code {code}" in str(error) and (error.env, error.phase, error.exitcode) == (1, phase, code)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_end_of_stderr(method, capfd):
    error = failed(fastvec.make(envs.Trapped(complain_and_abort), 2, start_method=method))
    end = str(error).split("The end of its stderr:\n")[1]
    assert end.splitlines()[:2] == ["python says: about to abort", "C says: free(): invalid pointer"]
    shown = capfd.readouterr().err
    assert "python says: about to abort\nC says: free(): invalid pointer\n" in shown  # and it was seen


def test_much_stderr(capfd):
    error = failed(fastvec.make(envs.Trapped(complain_at_length), 2))
    end = str(error).split("The end of its stderr:\n")[1].splitlines()
    assert end == [f"line {i}" for i in range(4980, 5000)]
    assert [line for line in capfd.readouterr().err.splitlines() if line.startswith("line")] == [f"line {i}" for i in range(5000)]


def test_stderr_of_workers_that_close_in_peace(capfd):
    class Chatty(envs.Scripted):
        def close(self):
            os.write(2, b"good bye\n")

    with fastvec.make(Chatty, 2) as vec:
        vec.reset()
    assert capfd.readouterr().err.count("good bye\n") == 2


def test_a_stopped_trainer_blocks_no_worker():
    """Workers write more than a pipe holds while nobody of the trainer's reads."""
    with fastvec.make(Talker, 1) as vec:
        vec.reset()
        vec.send([0])
        time.sleep(0.2)
        vec.recv(timeout=20)


class Talker(envs.Scripted):
    def step(self, action):
        os.write(2, b" " * 1_000_000)
        return super().step(action)


def test_a_grandchild_that_keeps_stderr_delays_nothing():
    class Parent(envs.Scripted):
        def reset(self, **kwargs):
            self.child = subprocess.Popen(["sleep", "86399"])
            return super().reset(**kwargs)

    vec = fastvec.make(Parent, 1)
    vec.reset()
    os.kill(vec._workers[0].process.pid, signal.SIGKILL)
    with pytest.raises(fastvec.WorkerError, match="SIGKILL"):
        vec.step([0])
    grandchild, = [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "86399"]]
    grandchild.kill()  # still there: nobody waited for its end


HANGS = [(envs.sleep_long, "sleep_long"), (envs.loop_for_ever, "loop_for_ever"),
         (envs.wait_in_c_with_the_gil, "wait_in_c_with_the_gil"),
         (wait_in_c_without_the_gil, "wait_in_c_without_the_gil")]


@pytest.mark.parametrize("how, where", HANGS)
def test_hangs(how, where):
    vec = fastvec.make(envs.Trapped(how), 2)
    vec.reset()
    vec._timeout = 0.4  # as make's, which would be one for the start as well
    with pytest.raises(fastvec.RecvTimeout, match=rf"(?s)within 0.4 s from worker (0, )?1;.*Worker 1 is in step\(\), at env 1:\n.*in {where}"):
        for _ in range(5):
            vec.step([0, 0])
    with pytest.raises(fastvec.RecvTimeout, match=f"in {where}"):  # asking does it no harm
        vec.recv()
    vec.close(grace=0.1)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_hang_while_building(method):
    with pytest.raises(fastvec.RecvTimeout, match="(?s)worker 1 still builds its envs after 2 s.*in slow_creator"):
        fastvec.make([envs.Scripted, envs.slow_creator], 2, timeout=2, start_method=method)


def test_hung_and_replaced_the_stack_is_told():
    with fastvec.make(envs.Trapped(envs.loop_for_ever), 2, on_failure="restart", timeout=1) as vec:
        vec.reset()
        told = [infos[1]["error"] for infos in (vec.step([0, 0])[4] for _ in range(3)) if 1 in infos]
    assert len(told) == 1 and "in loop_for_ever" in told[0]


class ImportFails:
    def __reduce__(self):
        return __import__, ("no_such_module_anywhere",)


def test_unpickling_fails():
    creator = partial(envs.Scripted, None, ImportFails())
    with pytest.raises(fastvec.WorkerError, match="No module named 'no_such_module_anywhere'") as raised:
        fastvec.make(creator, 2, start_method="spawn")
    assert raised.value.phase == "start" and raised.value.envs == range(0, 1)


class DiesInClose(envs.Scripted):
    def close(self):
        os.abort()


class RaisesInClose(envs.Scripted):
    def close(self):
        raise OSError("the door is stuck")


@pytest.mark.parametrize("env, says", [(DiesInClose, r"SIGABRT.* in close\(\)"), (RaisesInClose, "(?s)exit code 1 .*in close.*the door is stuck")])
def test_death_in_close_is_logged(env, says, caplog):
    vec = fastvec.make([envs.Scripted, env], 2, start_method="spawn")
    vec.reset()
    vec.close()
    assert len(caplog.records) == 1
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(caplog.text)


def test_render_dies():
    class Renders(envs.Scripted):
        def render(self):
            os.abort()

    vec = fastvec.make(Renders, 2)
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match=r"SIGABRT.*in call\(\)"):
        vec.call("render")


@pytest.mark.parametrize("wait", ["spin", "yield", "park"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 1, "zero_copy": True}])
def test_in_every_wait_and_mode(wait, options):
    vec = fastvec.make(envs.Trapped(envs.segfault), 2, wait=wait, **options)
    vec.async_reset()
    with pytest.raises(fastvec.WorkerError, match="worker 1 .*SIGSEGV") as raised:
        while True:
            vec.send(np.zeros(len(vec.recv().rows), np.int64))
    assert raised.value.env == 1


def test_errors_in_this_process_name_all_envs():
    vec = fastvec.make(envs.Trapped(envs.throw), 0, num_envs=3)
    assert failed(vec).envs == range(3)



class Forks(envs.Scripted):
    """Its worker dies between announcing infos and sending them, while a process that an env forked lives on."""

    def step(self, action):
        class Lethal:
            def __reduce__(self):
                os.kill(os.getpid(), signal.SIGKILL)

        if os.fork() == 0:
            time.sleep(15)  # longer than anybody should wait for it
            os._exit(0)
        return *super().step(action)[:4], {"lethal": Lethal()}


def test_a_forked_grandchild_does_not_keep_the_pipe():
    vec = fastvec.make(Forks, 1)
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match="SIGKILL"):
        vec.recv(vec.send([0]) or 10)
