"""What others see of a run: the words and rings in its arena, found through /proc, live, stuck, dead and closed."""
import mmap
import os
import shutil
import signal
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import envs
import gymnasium
import numpy as np
import psutil
import pytest

import fastvec
from fastvec.inspection import InspectionError, attach, duration, order_of, state, verdict
from fastvec_c.arena import memory_file
from fastvec_c.control import NotIntroduced, View
from fastvec_c.probe import Probe

US = os.getpid()


class Gated(gymnasium.Env):
    """Env 1 reads a byte from a pipe in its third step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, env_index, gate):
        self.gate, self.t = gate if env_index == 1 else None, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.gate is not None and self.t == 3:
            os.read(self.gate, 1)
        return np.zeros(1, np.float32), 0.0, False, False, {}


@contextmanager
def stuck(**kwargs):
    """(VecEnv whose env 1 is stuck in its third step while a thread waits for it, its Inspection)"""
    gate, opens = os.pipe()
    vec = fastvec.make(lambda env_index: Gated(env_index, gate), num_envs=4, **kwargs)
    thread = threading.Thread(target=lambda: [vec.step([0] * 4) for _ in range(3)])
    try:
        vec.reset()
        thread.start()
        seen, = attach(US)
        until(lambda: seen.snapshot().trainer.waiting_since and [u.owes for u in seen.snapshot().units].count(True) == 1
              and seen.snapshot().trainer.batches == 3)
        yield vec, seen
    finally:
        os.write(opens, b"x")
        thread.join()
        vec.close()
        os.close(gate)
        os.close(opens)


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---- a run that is stuck ---------------------------------------------------------------------------------------------


def test_a_stuck_worker():
    with stuck(num_workers=2) as (vec, seen):
        snapshot = seen.snapshot()
        assert seen.workers() == [w.process.pid for w in vec._workers]
        assert (seen.about.trainer, seen.about.num_workers, seen.about.envs_per_unit, seen.about.kind) == (US, 2, 2, "Gated")
        assert [u.at_work for u in snapshot.units] == [True, False]
        assert snapshot.units[0].order == (4, "step") and snapshot.units[0].current == 1
        assert "in step() at env 1 for " in state(snapshot, 0) and "waits for orders" in state(snapshot, 1)
        assert verdict(snapshot).startswith("The trainer has waited for ") and "for worker 0 (in step() at env 1 for " in verdict(snapshot)
        env, handoff, policy = snapshot.times()
        assert env >= snapshot.when - snapshot.trainer.last_send > 0  # what it waits for right now is counted
        last = [what for _, who, what in seen.events() if who == "worker 0"]
        assert [w for w in last if w != "went to sleep"][-1] == "began order 4, step, slot 0"
        until(lambda: seen.snapshot().trainer.parks > snapshot.trainer.parks + 2)
        trainer = [what for _, who, what in seen.events() if who == "trainer"]  # a long wait, in naps, is one sleep
        assert trainer[-2:] == ["gave worker 1 order 4, step, slot 0", "went to sleep"]


def test_from_a_worker_and_from_another_process():
    with stuck(num_workers=2) as (vec, seen):
        for pid in seen.workers():
            found, = attach(pid)
            assert found.about == seen.about
        child = os.fork()
        if child == 0:
            try:
                found, = attach(US)
                os._exit(0 if "env 1" in verdict(found.snapshot()) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_stopped_worker():
    with stuck(num_workers=2) as (vec, seen):
        os.kill(seen.workers()[0], signal.SIGSTOP)
        until(lambda: "stopped by a signal" in state(seen.snapshot(), 0))
        os.kill(seen.workers()[0], signal.SIGCONT)


def test_a_worker_of_a_fork_server():
    with fastvec.make(Probe, 1, start_method="forkserver") as vec:
        found, = attach(vec._workers[0].process.pid)
        assert found.about.trainer == US


# ---- words and events ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [{}, {"batch_size": 1}, {"batch_size": 1, "in_order": True}, {"slots": 3}, {"debug": True}],
                         ids=lambda mode: " ".join(mode) or "all")
@pytest.mark.parametrize("creator", [Probe, envs.Scripted])
def test_events_tell_what_happened(creator, mode):
    """Each order of a worker is begun and finished once, in turn, and was given before."""
    with fastvec.make(creator, 2, num_envs=2, seed=0, **mode) as vec:
        vec.async_reset()
        for _ in range(12 * 2 // vec.batch_size):
            batch = vec.recv()
            vec.send(np.zeros(len(batch.rows), np.int64))
        vec._await_all(None, "recv")
        seen, = attach(US)
        trainer, *workers = ([event for event in seen._view.events(ring)] for ring in range(3))
        units = seen.snapshot().units
    for i, (events, unit) in enumerate(zip(workers, units)):
        assert [e[0] for e in events] == sorted(e[0] for e in events)
        assert {e[2] for e in events} == {i}
        orders = [(kind, cmd, slot) for _, kind, _, cmd, slot in events if kind != "parked"]
        sent = [(cmd, slot, when) for when, kind, worker, cmd, slot in trainer if kind == "sent" and worker == i]
        assert orders[::2] == [("taken up", cmd, slot) for cmd, slot, _ in sent]
        assert orders[1::2] == [("finished", cmd, slot) for cmd, slot, _ in sent]
        assert [order_of(cmd)[1] for cmd, _, _ in sent][:2] == ["reset", "step"][:len(sent)]
        assert [order_of(cmd)[0] for cmd, _, _ in sent] == list(range(1, len(sent) + 1))
        assert all(when <= e[0] for (_, _, when), e in zip(sent, [e for e in events if e[1] == "taken up"]))
        assert unit.cmd == unit.taken_up == unit.finished == sent[-1][0] and unit.steps == len(sent) - 1
    assert sum(kind == "received" for _, kind, *_ in trainer) >= 12


def test_a_full_ring_keeps_the_last():
    with fastvec.make(Probe, 0) as vec:
        vec.reset()
        for _ in range(700):
            vec.step([0])
        seen, = attach(US)
        begun = [order_of(cmd)[0] for _, kind, _, cmd, _ in seen._view.events(1) if kind == "taken up"]
        assert begun[-1] == 701 and begun == list(range(begun[0], 702)) and 250 <= len(begun) <= 256
        assert len(seen._view.events(0)) == 511  # one place may be in the making


def test_looking_while_it_runs():
    """Thousands of looks at a run that never stands still: whatever they see is possible."""
    with fastvec.make(Probe, 2, num_envs=4, seed=0) as vec:
        vec.reset()
        seen, = attach(US)
        running = True

        def run():
            while running:
                vec.step(np.zeros(4, np.int64))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            last = 0
            for _ in range(200):
                snapshot = seen.snapshot()
                assert last <= snapshot.trainer.batches
                last = snapshot.trainer.batches
                for unit in snapshot.units:
                    assert 0 <= unit.order[0] - order_of(unit.taken_up)[0] <= 1 and order_of(unit.finished)[0] <= order_of(unit.cmd)[0]
                assert verdict(snapshot) and state(snapshot, 0) and min(snapshot.times()) >= -1e-3
                for ring in range(3):
                    events = seen._view.events(ring)
                    assert all(kind != "?" and worker in (0, 1) for _, kind, worker, _, _ in events)
                    assert [e[0] for e in events] == sorted(e[0] for e in events)
        finally:
            running = False
            thread.join()


def test_it_is_only_read():
    with fastvec.make(Probe, 1):
        seen, = attach(US)
        with open("/proc/self/maps") as maps:
            rights = sorted(line.split()[1] for line in maps if "fastvec-arena" in line)
        assert rights == ["r--s", "rw-s"] and seen.about.num_workers == 1


def test_whom_the_trainer_waits_for():
    """The one that has been at it longest is named, the others counted."""
    with fastvec.make(Probe, 4) as vec:
        vec.reset()
        idle = attach(US)[0].snapshot()
    now, order = idle.when, (5 << 3) | 1  # order 5, step

    def waits(*units):
        done = dict(cmd=order, taken_up=order, finished=order, asleep=False, announced=False, status="running")
        changed = [replace(unit, **{**done, **u}) for unit, u in zip(idle.units, units)]
        return verdict(replace(idle, units=changed, trainer=replace(idle.trainer, closed=False, status="running", waiting_since=now - 3)))

    busy, posted = dict(finished=0, current=0, began=now - 2), dict(taken_up=0, finished=0, posted=now - 4)
    assert waits(busy, {}, {}, {}) == "The trainer has waited for 3.0 s for worker 0 (in step() at env 0 for 2.0 s)."
    assert waits(busy, {}, {**busy, "began": now - 2.5}, {}).endswith("for worker 2 (in step() at env 2 for 2.5 s), and worker 0.")
    assert waits(busy, busy, busy, posted).endswith("for worker 3 (has not begun order 5, step, given 4.0 s ago), and 3 others.")
    assert waits(busy, {}, {}, {**busy, "status": None, "began": now - 9}).endswith("for worker 3 (dead; its last order was 5, step), and worker 0.")
    assert waits({**busy, "announced": True}, {}, {}, {}).endswith("for an announcement that has just come.")
    assert "builds its envs, to take up order 5, step" in waits({**posted, "restarts": 1, "current": -1}, {}, {}, {})
    assert "; its process is stopped by a signal" in waits({**busy, "status": "stopped"}, {}, {}, {})


def test_envs_of_this_process():
    seen = []

    class Looks(envs.Scripted):
        def step(self, action):
            if self.calls == 2:
                snapshot = attach(US)[0].snapshot()
                seen.extend([verdict(snapshot), state(snapshot, 0)])
            return super().step(action)

    with fastvec.make([envs.Scripted, Looks], 0) as vec:
        assert "not called reset()" in verdict(attach(US)[0].snapshot())
        vec.reset()
        for _ in range(4):
            vec.step([0, 0])
        assert seen[0].startswith("The trainer steps its envs itself: in step() at env 1 for ") and "in step() at env 1" in seen[1]
        assert verdict(attach(US)[0].snapshot()).startswith("The workers wait for the trainer, which has had its batch for ")
        snapshot = attach(US)[0].snapshot()
        assert (snapshot.trainer.batches, snapshot.trainer.rows, snapshot.units[0].steps, snapshot.units[0].owes) == (4, 8, 4, False)


# ---- deaths ----------------------------------------------------------------------------------------------------------


def test_a_dead_worker():
    with fastvec.make(envs.Scripted, 2) as vec:
        vec.reset()
        seen, = attach(US)
        vec.send([0, 0])
        vec._await_all(None, "recv")
        os.kill(seen.workers()[1], signal.SIGKILL)
        until(lambda: seen.snapshot().units[1].status is None)
        assert state(seen.snapshot(), 1) == "dead; its last order was 2, step"


def test_a_worker_that_was_replaced():
    with fastvec.make(envs.Scripted, 2, on_failure="restart") as vec:
        vec.reset()
        seen, = attach(US)
        first = seen.workers()
        for _ in range(2):
            os.kill(vec._workers[1].process.pid, signal.SIGKILL)
            while not vec.step([0, 0])[4]:
                pass
        snapshot = seen.snapshot()
        assert [u.restarts for u in snapshot.units] == [0, 2] == [w.restarts for w in vec.stats().workers]
        assert seen.workers()[0] == first[0] and seen.workers() == [w.process.pid for w in vec._workers]
        told = [what for _, who, what in seen.events() if who == "trainer"]
        assert told.count("found worker 1 dead") == told.count("put a new process in the place of worker 1") == 2
        assert attach(seen.workers()[1])[0].about == seen.about


def test_a_worker_that_was_dropped():
    with fastvec.make(envs.Scripted, 2, on_failure="drop") as vec:
        vec.reset()
        seen, = attach(US)
        os.kill(seen.workers()[0], signal.SIGKILL)
        while not vec.step([0, 0])[4]:
            pass
        assert "goes on without worker 0" in [what for _, _, what in seen.events()]


def test_a_time_limit_that_passed():
    with stuck(num_workers=2) as (vec, seen):
        pass
    with fastvec.make(envs.Trapped(envs.sleep_long), 2) as vec:
        vec.reset()
        seen, = attach(US)
        with pytest.raises(fastvec.RecvTimeout):
            for _ in range(3):
                vec.send([0, 0])
                vec.recv(timeout=0.2)
        assert "waited longer than its time limit" in [what for _, _, what in seen.events()]
        assert not seen.snapshot().trainer.waiting_since and seen.snapshot().units[1].owes
        vec.close(grace=0)


# ---- nothing to be seen ----------------------------------------------------------------------------------------------


def test_no_vecenv():
    with pytest.raises(InspectionError, match=f"process {US} has no VecEnv"):
        attach(US)


def test_no_process():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(InspectionError, match=f"there is no process {pid}"):
        attach(pid)


def test_closed():
    vec = fastvec.make(envs.Scripted, 1)
    vec.reset()
    seen, = attach(US)
    rows = vec.observations  # keeps the memory
    vec.close()
    assert seen.snapshot().over and verdict(seen.snapshot()) == "The VecEnv has been closed."
    with pytest.raises(InspectionError, match="has been closed"):
        attach(US)
    assert rows.shape == (1, 4)


def test_several():
    with fastvec.make(envs.Scripted, 1), fastvec.make(Probe, 2) as second, fastvec.make(Probe, 0):
        assert [(seen.about.kind, seen.about.num_workers) for seen in attach(US)] == [("Scripted", 1), ("Probe", 2), ("Probe", 0)]
        theirs, = attach(second._workers[1].process.pid)  # which has inherited the first one's memory
        assert theirs.about.num_workers == 2


def test_a_process_that_only_inherited_the_memory():
    with fastvec.make(envs.Scripted, 1):
        ends, hold = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(hold)
            os.read(ends, 1)
            os._exit(0)
        try:
            with pytest.raises(InspectionError, match=f"process {child} has only inherited .*its trainer, {US}"):
                attach(child)
        finally:
            os.close(hold)
            os.close(ends)
            os.waitpid(child, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_somebody_elses_process():
    with fastvec.make(envs.Scripted, 1):
        says, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                attach(US)
            except InspectionError as error:
                os.write(tell, str(error).encode())
            finally:
                os._exit(0)
        os.close(tell)
        assert f"process {US} of user root is not ours to look at" in os.read(says, 1000).decode()
        os.close(says)
        os.waitpid(child, 0)


def test_a_container():
    """In another PID namespace process ids mean something else."""
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "sleep", "60"]
    if not shutil.which("unshare") or subprocess.run([*unshare[:-1], "0"], capture_output=True).returncode:
        pytest.skip("no new PID namespace to be had: needs root and unshare")
    with subprocess.Popen(unshare) as process:
        until(lambda: psutil.Process(process.pid).children())
        with pytest.raises(InspectionError, match="runs in a container .another PID namespace.: run fastvec inside it"):
            attach(psutil.Process(process.pid).children()[0].pid)
        process.kill()


def fake(*words):
    """A memory file that looks like an arena from the outside, with 32-bit words at its start; (descriptor, mapping)."""
    fd = memory_file(b"fastvec-arena", 1 << 16)
    memory = mmap.mmap(fd, 1 << 16)
    memory[:4 * len(words)] = struct.pack(f"{len(words)}I", *words)
    return fd, memory


def test_an_arena_that_is_not_ready():
    fd, memory = fake()
    try:
        with pytest.raises(InspectionError, match="still being made"):
            attach(US)
    finally:
        memory.close()
        os.close(fd)


def test_an_arena_of_another_layout():
    magic = int.from_bytes(b"fastvec\0", "little")
    fd, memory = fake(magic & 0xFFFFFFFF, magic >> 32, 99)
    try:
        with pytest.raises(InspectionError, match="another layout"):
            attach(US)
    finally:
        memory.close()
        os.close(fd)


def test_a_file_that_is_too_small():
    fd = memory_file(b"fastvec-arena", 16)
    try:
        with pytest.raises(NotIntroduced):
            View(fd, 16)
    finally:
        os.close(fd)


# ---- stats -----------------------------------------------------------------------------------------------------------


def test_stats_of_workers():
    with fastvec.make(Probe, 2, num_envs=2) as vec:
        fresh = vec.stats()
        assert fresh.waits_for is None and all(np.isnan([w.step_time, w.take_latency, w.pickup_latency]).all() for w in fresh.workers)
        vec.reset()
        for _ in range(64):
            vec.step([0, 0])
        for w in vec.stats().workers:
            assert w.step_time == w.busy / w.steps > 0 and 0 <= w.wait_share <= 1
            assert 0 <= w.take_latency < 10 and 0 < w.pickup_latency < 10 and w.restarts == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_slow_envs_and_slow_policies_get_their_time(num_workers):
    """From the first step on: steps that long are looked at each time, not for a sample only."""
    with fastvec.make(lambda: Probe(work_us=20_000), num_workers, num_envs=1) as vec:
        vec.reset()
        for _ in range(3):
            vec.step([0])
            time.sleep(0.02)
        vec.step([0])
        stats = vec.stats()
        assert stats.env >= 4 * 0.02 and stats.policy >= 3 * 0.02
        assert stats.waits_for == max(("envs", stats.env), ("handoff", stats.handoff), ("policy", stats.policy), key=lambda part: part[1])[0]


def test_waits_for_is_the_largest():
    for stats, says in [((3, 2, 1), "envs"), ((1, 3, 2), "handoff"), ((1, 2, 3), "policy"), ((0, 0, 0), None)]:
        assert fastvec.Stats(1, 1, *stats, ()).waits_for == says


def test_durations():
    assert [duration(s) for s in (75, 1.26, 0.0123, 4e-6, 5e-8, -1)] == ["75.0 s", "1.3 s", "12.3 ms", "4.0 µs", "50 ns", "0 ns"]
