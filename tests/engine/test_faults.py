"""Every failure has a name, reaches the caller, and leaves nothing behind (see conftest)."""
import os
import select
import signal
import threading
import time

import envs
import gymnasium
import numpy as np
import pytest

import fastvec
from fastvec_c.probe import Probe

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 2])


def run(vec, steps=10):
    vec.reset()
    for _ in range(steps):
        vec.step(np.zeros(vec.num_rows, np.int64))


# ---- an env raises ---------------------------------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize("phase, at", [("reset", 0), ("step", 3)])
def test_env_raises(num_workers, phase, at):
    vec = fastvec.make(envs.Trapped(envs.throw, at), num_workers, num_envs=4)
    with pytest.raises(fastvec.WorkerError, match=f"env 1.* raised KeyError .*in {phase}") as e:
        run(vec)
    assert "envs.py" in str(e.value) and "raise KeyError" in str(e.value)  # the worker's traceback
    assert isinstance(e.value.__cause__, KeyError)
    assert (e.value.env, e.value.phase) == (1, phase)
    assert e.value.worker == (0 if num_workers else None)
    with pytest.raises(fastvec.ClosedError, match="make a new VecEnv"):
        vec.reset()


@EVERYWHERE
def test_compiled_env_fails(num_workers):
    vec = fastvec.make(lambda env_index: Probe(fail_at=4 * env_index), num_workers, num_envs=2)
    with pytest.raises(fastvec.WorkerError, match="env 1.*the probe was told to fail here"):
        run(vec)


@EVERYWHERE
def test_creator_raises(num_workers):
    with pytest.raises(fastvec.WorkerError, match="env 2.* raised ValueError .no such world. when it was built") as e:
        fastvec.make([envs.Scripted, envs.Scripted, envs.bad_creator, envs.Scripted], num_workers)
    assert isinstance(e.value.__cause__, ValueError)


@EVERYWHERE
@pytest.mark.parametrize("wrong, says", [
    (lambda: None, "returned None"),
    (lambda: 3, "object of type builtins.int"),
    (lambda: envs.Scripted, "the class envs.Scripted itself"),
])
def test_creator_returns_no_env(num_workers, wrong, says):
    with pytest.raises(fastvec.WorkerError, match=says):
        fastvec.make(wrong, num_workers)


@EVERYWHERE
def test_spaces_differ(num_workers):
    class Wider(envs.Scripted):
        action_space = gymnasium.spaces.Discrete(8)

    with pytest.raises(ValueError, match="env 1 .Wider. and env 0 .Scripted. differ in their action space"):
        fastvec.make([envs.Scripted, Wider], num_workers)


@EVERYWHERE
def test_compiled_and_python_envs_do_not_mix(num_workers):
    class Like(envs.Scripted):
        action_space = gymnasium.spaces.Discrete(2)

        def __init__(self):
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    with pytest.raises((ValueError, TypeError, fastvec.WorkerError), match="compiled"):
        fastvec.make([Probe, Like], num_workers)


def test_info_that_cannot_be_pickled():
    class Secretive(envs.Scripted):
        def step(self, action):
            return *super().step(action)[:4], {"door": lambda: None}

    vec = fastvec.make(Secretive, 1)
    with pytest.raises(fastvec.WorkerError, match="pickle"):
        run(vec)


def test_exception_that_cannot_be_pickled():
    def throw():
        class Local(Exception):
            pass

        raise Local("mine")

    vec = fastvec.make(lambda: envs.Scripted(throw), 1)
    with pytest.raises(fastvec.WorkerError, match="Local .mine."):
        run(vec)


# ---- a worker dies ---------------------------------------------------------------------------------------------------

DEATHS = [(envs.kill_me, "SIGKILL"), (envs.segfault, "SIGSEGV"), (envs.exit_now, "exit code 7")]


@pytest.mark.parametrize("how, says", DEATHS)
@pytest.mark.parametrize("phase, at", [("reset", 0), ("step", 3)])
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_worker_dies(how, says, phase, at, start_method):
    vec = fastvec.make(envs.Trapped(how, at, env=2), 2, num_envs=4, start_method=start_method)
    with pytest.raises(fastvec.WorkerError, match=rf"worker 1 .*{says}.* in {phase}\(\), at env 2") as e:
        run(vec)
    assert (e.value.worker, e.value.env, e.value.phase) == (1, 2, phase)
    assert e.value.exitcode in (-signal.SIGKILL, -signal.SIGSEGV, 7)
    if how is envs.segfault:
        assert "string_at" in str(e.value)  # what faulthandler saw


def test_compiled_env_crashes():
    vec = fastvec.make(lambda env_index: Probe(signal_at=4 * env_index), 2, num_envs=2)
    with pytest.raises(fastvec.WorkerError, match=r"worker 1 .*SIGSEGV.* in step\(\), at env 1"):
        run(vec)


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_worker_dies_at_start(start_method):
    with pytest.raises(fastvec.WorkerError, match="worker 1 .*exit code 3 while building its envs"):
        fastvec.make([envs.Scripted, envs.dying_creator], 2, start_method=start_method)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("moment", ["idle", "sent", "parked"])
def test_kill_from_outside(batch_size, zero_copy, moment):
    """Noticed at every point of the protocol: before an order, after it, and with everybody asleep."""
    creator = (lambda: Probe(work_us=2000)) if moment == "parked" else Probe
    vec = fastvec.make(creator, 4, batch_size=batch_size, zero_copy=zero_copy, wait="park")
    vec.async_reset()
    batch = vec.recv()
    victim = int(batch.rows[0])
    pid = vec._workers[victim].process.pid
    if moment == "sent":
        vec.send(np.zeros(len(batch.rows), np.int64))
        os.kill(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
        select.select([vec._workers[victim].life_fd], [], [])
        vec.send(np.zeros(len(batch.rows), np.int64))
    with pytest.raises(fastvec.WorkerError, match=f"worker {victim} .*SIGKILL"):
        while True:  # what the others and it itself had finished is still delivered
            vec.send(np.zeros(len(vec.recv().rows), np.int64))


def test_kill_while_the_trainer_sleeps():
    vec = fastvec.make(lambda: envs.Scripted(envs.sleep_long), 2, wait="park")
    timer = threading.Timer(0.3, lambda: os.kill(vec._workers[1].process.pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(fastvec.WorkerError, match="worker 1 .*SIGKILL"):
        run(vec)


def test_worker_dies_in_call():
    class Mortal(envs.Scripted):
        def die(self):
            os._exit(9)

    vec = fastvec.make(Mortal, 2)
    with pytest.raises(fastvec.WorkerError, match=r"worker 0 .*exit code 9.* in call\(\)"):
        vec.call("die")


@EVERYWHERE
def test_call_raises(num_workers):
    vec = fastvec.make(envs.Scripted, num_workers, num_envs=2)
    with pytest.raises(fastvec.WorkerError, match="no attribute 'nothing'"):
        vec.call("nothing")


@EVERYWHERE
def test_apply_raises(num_workers):
    vec = fastvec.make(envs.Scripted, num_workers, num_envs=4)
    with pytest.raises(TypeError, match="function='seed'; give a function"):
        vec.apply("seed")
    for bad in ([4], [-1]):
        with pytest.raises(IndexError, match="there are 4 envs, 0 to 3"):
            vec.apply(getattr, "seed", envs=bad)
    with pytest.raises(fastvec.WorkerError, match="env 1.* raised AttributeError .*in call") as raised:
        vec.apply(getattr, "nothing", envs=[1])
    assert isinstance(raised.value.__cause__, AttributeError)
    with pytest.raises(fastvec.ClosedError):
        vec.apply(getattr, "seed")


# ---- time limits -----------------------------------------------------------------------------------------------------


def test_recv_timeout_loses_nothing():
    with fastvec.make(lambda: Probe(work_us=300_000), 2) as vec:
        vec.reset()
        vec.send(np.ones(2, np.int64))
        with pytest.raises(fastvec.RecvTimeout, match=r"recv\(\): no answer within 0.05 s from worker 0, 1"):
            vec.recv(timeout=0.05)
        batch = vec.recv()
        assert batch.observations[:, 0].tolist() == [1, 1] and batch.rewards.tolist() == [1, 1]


def test_timeout_of_make():
    with pytest.raises(fastvec.RecvTimeout, match="worker 1 still builds its envs after 0.5 s"):
        fastvec.make([envs.Scripted, envs.slow_creator], 2, timeout=0.5)


def test_timeout_for_every_wait():
    vec = fastvec.make(lambda: envs.Scripted(envs.sleep_long), 2, timeout=60)
    assert vec._timeout == 60
    vec._timeout = 0.3  # too short for the start, on a busy machine
    with pytest.raises(fastvec.RecvTimeout, match="the envs may be slow or stuck"):
        run(vec)
    vec.close()  # kills the sleepers


# ---- calls out of order ----------------------------------------------------------------------------------------------


@EVERYWHERE
def test_calls_out_of_order(num_workers):
    vec = fastvec.make(envs.Scripted, num_workers, num_envs=2)
    actions = np.zeros(2, np.int64)
    for call in (lambda: vec.step(actions), lambda: vec.send(actions), vec.recv):
        with pytest.raises(fastvec.StateError, match="before reset"):
            call()
    vec.reset()
    with pytest.raises(fastvec.StateError, match="recv.. with nothing sent"):
        vec.recv()
    vec.send(actions)
    with pytest.raises(fastvec.StateError, match="send.. twice"):
        vec.send(actions)
    vec.recv()
    vec.step(actions)
    vec.send(actions)
    assert vec.reset()[0][:, 2].tolist() == [0, 0]  # waits for what is under way, and drops it
    vec.step(actions)
    vec.close()
    vec.close()
    for call in (vec.reset, vec.recv, vec.async_reset, lambda: vec.send(actions), lambda: vec.step(actions), lambda: vec.call("t")):
        with pytest.raises(fastvec.ClosedError):
            call()


# ---- bad actions -----------------------------------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize("actions, error, says", [
    (np.zeros(3, np.int64), ValueError, r"actions: shape \(3,\); give \(2,\)"),
    (np.zeros((2, 1), np.int64), ValueError, r"actions: shape \(2, 1\)"),
    (np.zeros(2), TypeError, "actions: dtype float64 cannot become int64"),
    (np.array([0, 7]), ValueError, r"actions\[1\] = 7 is out of range; give numbers from 0 to 6"),
    (np.array([-1, 0]), ValueError, r"actions\[0\] = -1 is out of range"),
    (np.array([0, 9], np.int8), ValueError, r"actions\[1\] = 9"),
    (["a", "b"], TypeError, "actions: dtype <U1"),
])
def test_bad_actions(num_workers, actions, error, says):
    with fastvec.make(envs.Scripted, num_workers, num_envs=2) as vec:
        vec.reset()
        with pytest.raises(error, match=says):
            vec.step(actions)
        vec.step(np.array([6, 0]))  # nothing was sent: the batch can still be answered
        assert vec.rewards.tolist() == [6, 0]


def test_bad_actions_in_place():
    with fastvec.make(envs.Scripted, 1, num_envs=2) as vec:
        vec.reset()
        vec.actions[:] = [3, 99]
        with pytest.raises(ValueError, match="99 is out of range"):
            vec.send()


@pytest.mark.parametrize("actions", [[1, 2], (1, 2), np.array([1, 2], np.int32), np.array([1, 2], np.uint8), np.arange(4)[1:3],
                                     np.array([1, 0, 2, 0])[::2]])
def test_good_actions(actions):
    with fastvec.make(envs.Scripted, 1, num_envs=2) as vec:
        vec.reset()
        assert vec.step(actions)[1].tolist() == [1, 2]


class Narrow(envs.Scripted):
    action_space = gymnasium.spaces.Discrete(7, dtype=np.int32)


@EVERYWHERE
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int16])
def test_int32_actions(num_workers, dtype):
    with fastvec.make(Narrow, num_workers, num_envs=4) as vec:
        vec.reset()
        assert vec.step(np.array([1, 2, 6, 0], dtype))[1].tolist() == [1, 2, 6, 0]
        assert vec.step(np.arange(8, dtype=dtype)[::2])[1].tolist() == [1, 4, 10, 6]
        for bad in [7, -1, 2**15 - 1]:
            with pytest.raises(ValueError, match=rf"actions\[2\] = {bad} is out of range; give numbers from 0 to 6"):
                vec.send(np.array([1, 2, bad, 0], dtype))
        vec.actions[:] = 1, 2, 6, 7
        with pytest.raises(ValueError, match="= 7 is out of range"):
            vec.send()


def test_int64_actions_do_not_wrap():
    with fastvec.make(Narrow, 1) as vec:
        vec.reset()
        with pytest.raises(ValueError, match=rf"actions\[0\] = {2**32} is out of range"):
            vec.send(np.array([2**32]))


def test_torch_actions():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with fastvec.make(envs.Scripted, 1, num_envs=2) as vec:
        vec.reset()
        assert vec.step(torch.tensor([1, 2]))[1].tolist() == [1, 2]


# ---- bad arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, says", [
    (dict(num_workers=-1), "num_workers=-1"),
    (dict(num_workers=1.5), "num_workers=1.5"),
    (dict(num_workers=5000), "num_workers=5000; at most 1024"),
    (dict(num_workers="many"), "num_workers='many'"),
    (dict(num_workers=2, num_envs=3), "num_workers=2 does not divide the 3 envs"),
    (dict(num_workers=2, num_envs=4, envs_per_worker=3), "envs_per_worker=3 times num_workers=2 is not 4"),
    (dict(num_workers=2, num_envs=0), "num_envs=0"),
    (dict(num_workers=2, envs_per_worker=0), "envs_per_worker=0"),
    (dict(num_workers=4, batch_size=5), "batch_size=5; give a multiple of the 1 envs .*, 4 at most"),
    (dict(num_workers=4, batch_size=3, zero_copy=True), "batch_size=3; with zero_copy=True give a divisor of the 4 envs"),
    (dict(num_workers=2, envs_per_worker=2, batch_size=1), "batch_size=1; give a multiple of the 2 envs"),
    (dict(num_workers=0, num_envs=4, batch_size=2), "batch_size=2; give a multiple of the 4 envs"),
    (dict(num_workers=2, batch_size=0), "batch_size=0"),
    (dict(num_workers=2, slots=0), "slots=0"),
    (dict(num_workers=2, slots=True), "slots=True"),
    (dict(num_workers=2, wait="nap"), "wait='nap'"),
    (dict(num_workers=2, start_method="clone"), "start_method='clone'"),
    (dict(num_workers=2, timeout=0), "timeout=0"),
    (dict(num_workers=2, autoreset="never"), "autoreset='never'"),
    (dict(num_workers=2, affinity="far"), "affinity='far'"),
    (dict(num_workers=2, affinity=[0]), "affinity="),
    (dict(num_workers=2, affinity=[0, 4096]), r"affinity: \(4096,\) is not among the CPUs"),
])
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says):
        fastvec.make(envs.Scripted, **arguments)


@pytest.mark.parametrize("creator, says", [
    (None, "creator: None is not callable"), ([], "creator: an empty list"),
    ([envs.Scripted, 3], "creator: 3 is not callable .at place 1"),
])
def test_bad_creators(creator, says):
    with pytest.raises((TypeError, ValueError), match=says):
        fastvec.make(creator, num_workers=1)


def test_creator_that_cannot_cross_a_spawn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cloudpickle", None)
    with pytest.raises(TypeError, match="cannot be pickled .* install cloudpickle"):
        fastvec.make(lambda: envs.Scripted(), 1, start_method="spawn")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_cannot_be_pickled_is_not_sent(num_workers):
    with fastvec.make(envs.Scripted, num_workers, num_envs=4, seed=5) as vec:
        vec.reset()
        with pytest.raises(TypeError, match="call: .* cannot be pickled"):
            vec.apply(lambda env: env.seed)
        with pytest.raises(TypeError, match="call: .* cannot be pickled"):
            vec.call("seed", lambda: 0)
        with pytest.raises(TypeError, match="options: .* cannot be pickled"):
            vec.reset(options={"f": lambda: 0})
        assert vec.call("seed") == [5, 6, 7, 8]
        vec.step([0] * 4)


@EVERYWHERE
def test_creator_that_returns_the_same_env_again(num_workers):
    class Shell(gymnasium.Wrapper):
        pass

    env = envs.Scripted()
    for creator in (lambda: env, lambda: Shell(env)):
        with pytest.raises(fastvec.WorkerError, match="envs 0 and 1 are one and the same object; make a new one"):
            fastvec.make(creator, num_workers, num_envs=4)


def test_options_for_too_few_envs():
    with fastvec.make(envs.Scripted, 1, num_envs=3) as vec:
        with pytest.raises(ValueError, match="options: a list of 2; give one for each of the 3 envs, or a dict"):
            vec.reset(options=[{}, {}])


@pytest.mark.parametrize("seed", [-1, 1.5, "a", [1, 2, 3], [1, -2], True])
def test_bad_seeds(seed):
    with fastvec.make(envs.Scripted, 1, num_envs=2) as vec:
        with pytest.raises(ValueError, match="seed="):
            vec.reset(seed=seed)


def test_bad_env_mask():
    with fastvec.make(envs.Scripted, 1, num_envs=2) as vec:
        with pytest.raises(fastvec.StateError, match="all rows in hand"):
            vec.reset(env_mask=np.array([True, False]))
        vec.reset()
        with pytest.raises(ValueError, match="env_mask"):
            vec.reset(env_mask=[1, 0])


def test_compiled_envs_take_no_options():
    with fastvec.make(Probe, 1) as vec:
        with pytest.raises(TypeError, match="options=.*takes none"):
            vec.reset(options={"a": 1})


def test_arena_larger_than_memory():
    with pytest.raises(MemoryError, match="the arena needs .* are available; make fewer envs, or fewer slots"):
        fastvec.make(lambda: Probe(observation_size=1 << 20), 1, slots=1 << 20)


@EVERYWHERE
@pytest.mark.parametrize("base", [envs.Herd, Probe])
def test_field_with_a_standard_name(num_workers, base):
    class Greedy(base):
        fields = {"rewards": fastvec.Spec()}

    with pytest.raises(fastvec.WorkerError, match="Greedy.*rewards"):
        fastvec.make(Greedy, num_workers)


def test_close_ends_a_waiting_recv():
    """As a signal handler does that closes the VecEnv."""
    vec = fastvec.make(lambda: envs.Scripted(envs.sleep_long, 1), 1)
    vec.reset()
    vec.send([0])
    closer = threading.Timer(0.3, vec.close)
    closer.start()
    with pytest.raises(fastvec.ClosedError, match="was waiting when the VecEnv was closed"):
        vec.recv()
    closer.join()


def test_interrupted_in_this_process():
    """Ctrl-C amid an env's step: its state is unknown, so the next call must be a reset."""
    def interrupt():
        raise KeyboardInterrupt

    with fastvec.make(lambda: envs.Scripted(interrupt, at=2), 0) as vec:
        vec.reset()
        vec.step([1])
        with pytest.raises(KeyboardInterrupt):
            vec.step([1])
        with pytest.raises(fastvec.StateError, match="before reset"):
            vec.step([1])
        vec.reset()
        vec.step([1])


@pytest.mark.parametrize("kind", [BrokenPipeError, EOFError, ConnectionResetError])
def test_env_loses_a_connection_of_its_own(kind):
    """Not to be mistaken for the trainer's leaving."""
    def lose():
        raise kind("the simulator went away")

    vec = fastvec.make(lambda: envs.Scripted(lose), 1)
    with pytest.raises(fastvec.WorkerError, match=f"raised {kind.__name__} .the simulator went away."):
        run(vec)


# ---- found by tests/fuzz ---------------------------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize("bad", [
    {"seed": -1}, {"options": [{}] * 5}, {"env_mask": [1, 0]}, {"env_mask": np.array([True, False])}, {"options": {"f": lambda: 0}},
])
def test_a_refused_reset_leaves_makes_seed(num_workers, bad):
    with fastvec.make(envs.Scripted, num_workers, num_envs=2, seed=40) as vec:
        if num_workers or "f" not in (bad.get("options") or ()):
            with pytest.raises((ValueError, TypeError, fastvec.StateError)):
                vec.reset(**bad)
            assert vec.reset()[0][:, 0].tolist() == [40, 41]


def test_a_refused_reset_drops_no_batches():
    with fastvec.make(envs.Scripted, 2, batch_size=1, in_order=True, seed=3) as vec:
        vec.async_reset()
        with pytest.raises(TypeError, match="options: .* cannot be pickled"):
            vec.reset(options=lambda: 0)
        assert vec.recv().rows.tolist() == [0]
        vec.send([1])
        assert vec.recv().rows.tolist() == [1]


@EVERYWHERE
def test_after_close_nothing_else_is_said(num_workers):
    vec = fastvec.make(envs.Scripted, num_workers, num_envs=2)
    vec.reset()
    vec.close()
    for call in (lambda: vec.reset(seed=-1), lambda: vec.reset(env_mask=np.ones(2, bool)), lambda: vec.call(5), lambda: vec.apply(None)):
        with pytest.raises(fastvec.ClosedError, match="after close"):
            call()


@EVERYWHERE
@pytest.mark.parametrize("timeout", ["1", -1, float("nan"), True, [1]])
def test_bad_timeout_of_recv(num_workers, timeout):
    with fastvec.make(envs.Scripted, num_workers, num_envs=2) as vec:
        vec.async_reset()
        with pytest.raises(ValueError, match=r"recv\(timeout=.*\); give a number of seconds, 0 or more"):
            vec.recv(timeout)
        assert len(vec.recv(np.float32(60)).rows) == 2


@EVERYWHERE
@pytest.mark.parametrize("grace", ["1", -1, float("nan"), None, True])
def test_bad_grace_of_close(num_workers, grace):
    with fastvec.make(envs.Scripted, num_workers, num_envs=2) as vec:
        with pytest.raises(ValueError, match="grace=.*; give a number of seconds, 0 or more"):
            vec.close(grace)
        vec.reset()


@pytest.mark.parametrize("forever", [float("inf"), 1e8, 10**400])
def test_waiting_for_ever(forever):
    """More than poll(2) takes, and than a float holds."""
    with fastvec.make(envs.Scripted, 1, timeout=forever) as vec:
        vec.async_reset()
        assert len(vec.recv(forever).rows) == 1
        vec.close(forever)


class Stuck(envs.Scripted):
    def close(self):
        raise OSError("the door is stuck")


@EVERYWHERE
def test_close_succeeds_though_an_env_raises(num_workers, caplog):
    vec = fastvec.make(Stuck, num_workers, num_envs=2)
    vec.close()
    assert "close()" in caplog.text and (num_workers or "the door is stuck" in caplog.text)


def test_an_env_that_raises_in_step_and_in_close():
    """The first error is the one that is raised."""
    vec = fastvec.make(lambda: Stuck(envs.throw), 0)
    with pytest.raises(fastvec.WorkerError, match="raised KeyError"):
        run(vec)


@EVERYWHERE
@pytest.mark.parametrize("ask, says", [
    (lambda vec: vec.call(5), "name=5; give the name of an attribute"),
    (lambda vec: vec.call(len), "name=.*len.*; give the name of an attribute"),
    (lambda vec: vec.apply(repr, envs=1), "envs=1; give a list of env indices"),
    (lambda vec: vec.apply(repr, envs=[0.0]), r"envs=\[0.0\]; give a list of env indices"),
    (lambda vec: vec.apply(repr, envs=np.array([True, False])), "np.flatnonzero"),
])
def test_calls_of_nothing(num_workers, ask, says):
    with fastvec.make(envs.Scripted, num_workers, num_envs=2) as vec:
        vec.reset()
        with pytest.raises(TypeError, match=says):
            ask(vec)
        assert vec.call("double", 2) == [4, 4]


def test_ragged_actions():
    with fastvec.make(envs.Scripted, 0, num_envs=2) as vec:
        vec.reset()
        with pytest.raises(ValueError, match=r"actions: no array .*; give one of shape \(2,\)"):
            vec.send([[1], [1, 2]])
        vec.step([1, 2])


class Odd:
    """Its instances cannot be unpickled."""

    def __reduce__(self):
        return int, ("no number",)


def odd(env):
    return Odd()


def test_an_answer_that_cannot_be_unpickled():
    vec = fastvec.make(envs.Scripted, 2)
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match=r"what worker 0 sent in call\(\) cannot be unpickled: ValueError"):
        vec.apply(odd)
    with pytest.raises(fastvec.ClosedError):
        vec.step([0, 0])


def test_infos_that_cannot_be_unpickled():
    class Odder(envs.Scripted):
        def step(self, action):
            return *super().step(action)[:4], {"odd": Odd()}

    vec = fastvec.make(Odder, 1)
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match=r"what worker 0 sent in step\(\) cannot be unpickled"):
        vec.step([0])


def test_a_call_that_waits_for_steps_loses_nothing():
    with fastvec.make(lambda: Probe(work_us=400_000), 2) as vec:
        vec.reset()
        vec.send(np.ones(2, np.int64))
        vec._timeout = 0.05
        with pytest.raises(fastvec.RecvTimeout, match=r"call\(\): no answer"):
            vec.call("num_agents")
        vec._timeout = None
        assert vec.recv().rewards.tolist() == [1, 1]


def test_ctrl_c_amid_a_call_closes():
    """The answers that are still to come would be mistaken for others."""
    vec = fastvec.make(envs.Scripted, 2)
    vec.reset()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            vec.apply(wait_long)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    with pytest.raises(fastvec.ClosedError):
        vec.reset()


def wait_long(env):
    threading.Event().wait(3600)


@pytest.mark.parametrize("compiled", [False, True])
def test_closed_at_the_moment_when_a_batch_comes(compiled):
    """Another thread closes while recv waits: the last step is done, and must not open the VecEnv again."""
    creator = (lambda: Probe(work_us=200_000)) if compiled else Napping
    vec = fastvec.make(creator, 1)
    vec.reset()
    closer = threading.Thread(target=close_when_busy, args=(vec,))
    closer.start()
    with pytest.raises(fastvec.ClosedError):
        while True:
            vec.send(np.zeros(1, np.int64))
            vec.recv()
    closer.join()


class Napping(envs.Scripted):
    def step(self, action):
        threading.Event().wait(0.2)
        return super().step(action)


def close_when_busy(vec):
    while not vec._busy:
        time.sleep(0.001)
    vec.close()
