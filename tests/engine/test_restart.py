"""A worker dies and the run goes on: the others' rows are untouched, its own come back once, truncated."""
import itertools
import logging
import os
import signal
import time
from functools import partial

import envs
import numpy as np
import psutil
import pytest

import fastvec
from fastvec_c.probe import Probe

MODES = {
    "sync": {},
    "slots": {"slots": 3},
    "gathered": {"batch_size": 2},
    "in_order": {"batch_size": 2, "in_order": True},
    "zero_copy": {"batch_size": 2, "zero_copy": True},
}


def kill(vec, worker):
    os.kill(vec._workers[worker].process.pid, signal.SIGKILL)
    assert vec._workers[worker].ended(10)


def play(vec):
    """Resets and steps for ever; copies of the batches."""
    vec.async_reset()
    while True:
        batch = vec.recv()
        yield batch._replace(**{name: np.array(getattr(batch, name)) for name in batch._fields if name != "infos"})
        vec.send(np.ones(len(batch.rows), np.int64))


def run(vec, batches):
    """The first batches after that of the reset."""
    return list(itertools.islice(play(vec), 1, batches + 1))


@pytest.mark.parametrize("mode", MODES)
def test_rows_come_back_truncated_once(mode):
    """Env 1 of 4 kills its worker in its third step, with each of its lives."""
    with fastvec.make(envs.Trapped(envs.kill_me), 4, seed=5, on_failure="restart", max_restarts=100, **MODES[mode]) as vec:
        returned = survivors = 0
        for batch in play(vec):
            if returned > 2 and survivors > 20:
                break
            for k, row in enumerate(batch.rows):
                info = batch.infos.get(row, {})
                if info.get("restarted"):
                    returned += 1
                    assert row == 1 and "SIGKILL" in info["error"] and "step()" in info["error"]
                    assert batch.truncations[k] and batch.masks[k] and not batch.terminations[k] and batch.rewards[k] == 0
                    assert batch.observations[k][1:].tolist() == [0, 0, 0]  # a first observation
                elif row == 1:
                    assert not batch.truncations[k] and batch.observations[k][2] in (0, 1, 2)
                else:
                    survivors += 1
                    seed, episode, t, total = batch.observations[k]
                    assert seed == 5 + row and t == total and not batch.truncations[k]
        restarts = [w.restarts for w in vec.stats().workers]
        assert restarts[1] in (returned, returned + 1) and restarts[0] == restarts[2] == restarts[3] == 0


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("wait", ["spin", "yield", "park"])
def test_survivors_see_nothing_of_it(method, wait):
    """The rows of the other workers are those of a run in which nobody died."""
    def rows(**options):
        with fastvec.make([envs.Scripted] * 4, 2, seed=1, start_method=method, wait=wait, **options) as vec:
            seen = [vec.reset()[0][:2].copy()]
            for t in range(20):
                if options and t == 7:
                    kill(vec, 1)
                observations, rewards, terminations, truncations, _ = vec.step([1, 2, 3, 4])
                seen += [observations[:2].copy(), rewards[:2].copy(), terminations[:2].copy(), truncations[:2].copy()]
            return seen

    for a, b in zip(rows(), rows(on_failure="restart"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_seeds_are_fresh_and_reproducible():
    def first_observations(seed):
        with fastvec.make(envs.Trapped(envs.kill_me), 2, seed=seed, on_failure="restart") as vec:
            return [float(batch.observations[1, 0]) for batch in run(vec, 9) if batch.infos.get(1, {}).get("restarted")]

    seeds = first_observations(3)
    assert len(seeds) == 3 and len({4.0, *seeds}) == 4
    assert first_observations(3) == seeds
    assert first_observations(4) != seeds


@pytest.mark.parametrize("trap, says", [
    (envs.throw, "env 1.*raised KeyError.*in step"),
    (envs.exit_now, "worker 1 .*exit code 7 while in step.., at env 1"),
    (envs.segfault, "SIGSEGV.*\n.*last words"),
])
def test_every_death_has_its_cause_in_infos(trap, says, caplog):
    with caplog.at_level(logging.WARNING, "fastvec"), fastvec.make(envs.Trapped(trap), 2, on_failure="restart") as vec:
        causes = [batch.infos[1]["error"] for batch in run(vec, 4) if batch.infos.get(1, {}).get("restarted")]
    assert len(causes) == 1
    with pytest.raises(AssertionError, match=f"(?s){says}"):
        raise AssertionError(causes[0])
    assert "worker 1 is started again (1. time)" in caplog.text


def throw_large():
    raise ValueError("x" * 1_000_000)


def test_a_report_larger_than_the_pipe():
    with fastvec.make(envs.Trapped(throw_large), 2, on_failure="restart") as vec:
        causes = [batch.infos[1]["error"] for batch in run(vec, 4) if batch.infos.get(1, {}).get("restarted")]
    assert "raised ValueError (xxx" in causes[0]


class HangsOnClose(envs.Scripted):
    def close(self):
        time.sleep(3600)


def test_an_env_that_raises_and_hangs_in_close_is_ended(monkeypatch):
    from fastvec import process
    monkeypatch.setattr(process, "GRACE", 1.0)  # inherited by the forked workers
    with fastvec.make([envs.Scripted, partial(HangsOnClose, envs.throw)], 2, on_failure="restart") as vec:
        assert sum("restarted" in batch.infos.get(1, {}) for batch in run(vec, 4)) == 1
        vec.close(grace=0.1)


def test_compiled_envs():
    with fastvec.make(lambda env_index: Probe(fail_at=4 * env_index), 2, num_envs=2, on_failure="restart") as vec:
        causes = [batch.infos[1] for batch in run(vec, 12) if 1 in batch.infos]
        assert len(causes) == 3 and all("told to fail here" in info["error"] for info in causes)
        kill(vec, 0)
        infos = vec.step(np.ones(vec.num_rows, np.int64))[4]
        assert "SIGKILL" in infos[0]["error"] and vec.truncations[0]


def test_all_agents_of_all_envs_of_the_worker():
    with fastvec.make(envs.Herd, 2, num_envs=4, seed=0, on_failure="restart", slots=2) as vec:
        vec.reset()
        actions = np.zeros((vec.num_rows, 2), np.float32)
        vec.step(actions)
        kill(vec, 1)
        _, _, _, truncations, infos = vec.step(actions)
        assert set(infos) == {2, 3} and truncations.tolist() == [False] * 8 + [True] * 8
        assert (vec.fields["tag"][vec._slot][8:] == -1).all()  # reset
        assert not vec.step(actions)[3].any()


# ---- where it happens ------------------------------------------------------------------------------------------------


def test_while_idle_and_twice_in_a_row():
    with fastvec.make(envs.Scripted, 2, on_failure="restart") as vec:
        vec.reset()
        for expected in (1, 2):
            kill(vec, 0)
            assert "while in step" in vec.step([0, 0])[4][0]["error"]
            assert vec.stats().workers[0].restarts == expected
        assert vec.step([0, 0])[4] == {}


def test_before_the_first_reset_and_in_reset():
    with fastvec.make(envs.Scripted, 2, seed=1, on_failure="restart") as vec:
        kill(vec, 1)
        observations, infos = vec.reset()
        assert infos[1]["restarted"] and not vec.truncations.any() and observations[:, 2].tolist() == [0, 0]
        vec.step([0, 0])
        kill(vec, 0)
        observations, infos = vec.reset(seed=7)
        assert set(infos) == {0} and observations[1].tolist() == [8, 0, 0, 0]


def test_reset_with_options_and_a_mask():
    with fastvec.make(envs.Scripted, 2, num_envs=4, on_failure="restart") as vec:
        vec.reset()
        vec.step([1] * 4)
        kill(vec, 1)
        observations, infos = vec.reset(options={"level": 2}, env_mask=np.array([True, False, True, False]))
        assert infos[0]["options"] == {"level": 2} and infos[2]["restarted"] and infos[3]["restarted"]
        assert observations[:, 2].tolist() == [0, 1, 0, 0]  # env 1 goes on; the new worker's envs both begin


def dies_when_built_again(path, env_index):
    with open(path, "a") as f:
        f.write("x")
    if os.path.getsize(path) in (2, 3):
        envs.kill_me()
    return envs.Scripted()


def test_death_while_it_is_built_anew(tmp_path):
    with fastvec.make([envs.Scripted, partial(dies_when_built_again, str(tmp_path / "log"), 1)], 2, on_failure="restart") as vec:
        vec.reset()
        kill(vec, 1)
        error = vec.step([0, 0])[4][1]["error"]
        assert "building its envs" in error and vec.stats().workers[1].restarts == 3


def changes_its_mind(path, env_index):
    if os.path.exists(path):
        return envs.cartpole()
    open(path, "w").close()
    return envs.Scripted()


def test_another_env_when_built_anew(tmp_path):
    vec = fastvec.make([envs.Scripted, partial(changes_its_mind, str(tmp_path / "log"), 1)], 2, on_failure="restart", max_restarts=2)
    vec.reset()
    kill(vec, 1)
    with pytest.raises(fastvec.WorkerError, match="differ in their (observation|action) space"):
        vec.step([0, 0])


def test_too_many():
    vec = fastvec.make(envs.Trapped(envs.kill_me), 2, on_failure="restart", max_restarts=2, restart_window=1e6)
    with pytest.raises(fastvec.WorkerError, match="SIGKILL.*workers were 2 times within the last 1e.06 s.*max_restarts") as e:
        run(vec, 20)
    assert e.value.worker == 1
    with pytest.raises(fastvec.ClosedError):
        vec.reset()


def test_the_window_moves_on():
    with fastvec.make(envs.Trapped(envs.kill_me), 2, on_failure="restart", max_restarts=1, restart_window=1e-9) as vec:
        run(vec, 12)
        assert vec.stats().workers[1].restarts == 4


def test_in_a_call_nobody_else_can_answer():
    vec = fastvec.make(envs.Scripted, 2, on_failure="restart")
    vec.reset()
    kill(vec, 1)
    with pytest.raises(fastvec.WorkerError, match=r"SIGKILL.*in call\(\)"):
        vec.call("double", 3)


def test_calls_after_a_restart():
    with fastvec.make(envs.Scripted, 2, on_failure="restart") as vec:
        vec.reset()
        kill(vec, 1)
        vec.step([0, 0])
        assert vec.call("double", 3) == [6, 6]


def test_a_call_between_a_death_and_its_rows():
    """The call finds the newcomer; the rows come back truncated all the same."""
    with fastvec.make(envs.Trapped(envs.kill_me, 2), 2, on_failure="restart") as vec:
        vec.reset()
        vec.step([1, 1])
        vec.send([1, 1])
        assert vec.call("double", 3) == [6, 6] and vec.stats().workers[1].restarts == 1
        batch = vec.recv()
        assert batch.truncations.tolist() == [False, True] and batch.infos[1]["restarted"]


def test_hung_workers_are_killed_after_the_timeout():
    with fastvec.make(envs.Trapped(envs.sleep_long), 2, on_failure="restart", timeout=2) as vec:
        told = [batch.infos[1]["error"] for batch in run(vec, 3) if 1 in batch.infos]
        assert len(told) == 1 and "no answer within 2 s from worker 1; worker 1 was killed in step(), at env 1" in told[0]


def test_nobody_takes_the_place_of_one_that_cannot_be_killed(monkeypatch):
    """As where the kernel keeps it in a read that cannot be interrupted."""
    vec = fastvec.make(envs.Trapped(envs.sleep_long), 2, on_failure="restart", timeout=1)
    vec.reset()
    monkeypatch.setattr(type(vec._workers[1]), "ended", lambda self, timeout: False)
    monkeypatch.setattr(type(vec._workers[1]), "release", lambda self: None)
    workers = list(vec._workers)
    with pytest.raises(fastvec.WorkerError, match="worker 1 was killed in step"):
        for _ in range(5):
            vec.step([0, 0])
    monkeypatch.undo()
    for worker in workers:
        assert worker.ended(10)
        worker.release()


def test_a_timeout_of_one_recv_raises():
    with fastvec.make(envs.Trapped(envs.sleep_long, 1), 2, on_failure="restart") as vec:
        vec.reset()
        vec.send([0, 0])
        with pytest.raises(fastvec.RecvTimeout):
            vec.recv(timeout=0.2)
        kill(vec, 1)
        assert vec.recv().infos[1]["restarted"]


def test_close_while_another_is_being_started(tmp_path):
    with fastvec.make([envs.Scripted, partial(slow_the_second_time, str(tmp_path / "log"), 1)], 2, on_failure="restart") as vec:
        vec.reset()
        kill(vec, 1)
        vec.send([0, 0])
        with pytest.raises(fastvec.RecvTimeout):
            vec.recv(timeout=0.5)
        assert vec.stats().workers[1].restarts == 1
        vec.close(grace=0.2)


def slow_the_second_time(path, env_index):
    if os.path.exists(path):
        envs.sleep_long()
    open(path, "w").close()
    return envs.Scripted()


def test_the_others_go_on_meanwhile(tmp_path):
    """Asynchronous batches come from the living while the dead one's place is being filled."""
    creators = [envs.Scripted, partial(slow_the_second_time, str(tmp_path / "log"), 1)]
    with fastvec.make(creators, 2, batch_size=1, on_failure="restart") as vec:
        vec.async_reset()
        vec.recv(), vec.send([0])
        vec.recv(), vec.send([0])
        kill(vec, 1)
        seen = []
        while vec.stats().workers[1].restarts == 0 or len(seen) < 50:
            seen.append(vec.recv().rows[0])
            vec.send([0])
        assert seen.count(0) > 40
        vec.close(grace=0.2)


def test_nothing_grows():
    me = psutil.Process()
    with fastvec.make(envs.Scripted, 2, on_failure="restart", max_restarts=100) as vec:
        vec.reset()
        counts = []
        for _ in range(12):
            kill(vec, 1)
            vec.step([0, 0])
            counts.append((me.num_fds(), len(me.memory_maps(grouped=False)), len(me.children())))
        assert counts[-1][0] == counts[1][0] and counts[-1][2] == counts[1][2]
        assert counts[-1][1] <= counts[1][1] + 4  # the allocator may map some more


# ---- drop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_dropped_rows_stay_masked(mode):
    with fastvec.make(envs.Trapped(envs.kill_me), 4, seed=5, on_failure="drop", **MODES[mode]) as vec:
        told, after = 0, 0
        for batch in play(vec):
            if after > 3:
                break
            for k, row in enumerate(batch.rows):
                if batch.infos.get(row, {}).get("dropped"):
                    told += 1
                    assert row == 1 and batch.truncations[k] and batch.masks[k] and not batch.observations[k].any()
                elif row == 1 and told:
                    after += 1
                    assert not (batch.masks[k] or batch.truncations[k] or batch.terminations[k] or batch.rewards[k])
                    assert not batch.observations[k].any()
                else:
                    assert batch.masks[k] and batch.observations[k][0] == 5 + row
        assert told == 1
        vec.reset()
        assert vec.masks.tolist() == [True, False, True, True]
        assert vec.call("double", 1) == [2, None, 2, 2]
        assert vec.apply(envs.Scripted.double, 1, envs=[3, 1]) == [2, None]


@pytest.mark.parametrize("slots", [1, 3])
def test_dropped_in_reset(slots):
    """There is no episode to truncate: the rows are zero and masked at once."""
    with fastvec.make(envs.Herd, 2, on_failure="drop", slots=slots) as vec:
        vec.reset()
        vec.step(np.ones((8, 2), np.float32))
        kill(vec, 1)
        observations, infos = vec.reset()
        assert infos[1]["dropped"] and vec.masks.tolist() == [True] * 4 + [False] * 4
        assert not observations[4:].any() and not vec.truncations.any() and not vec.fields["tag"][0, 4:].any()


@pytest.mark.parametrize("slots", [1, 3])
def test_all_fields_of_dropped_rows_are_zero(slots):
    with fastvec.make(envs.Herd, 2, on_failure="drop", slots=slots) as vec:
        vec.reset()
        for _ in range(4):
            vec.step(np.ones((8, 2), np.float32))
        masks = vec.masks[4:].tolist()
        kill(vec, 1)
        assert vec.step(np.ones((8, 2), np.float32))[3][4:].tolist() == masks == vec.masks[4:].tolist()
        assert not vec.fields["tag"][vec._slot, 4:].any() and not vec.observations[4:].any()


def test_the_last_one_dropped():
    vec = fastvec.make(envs.Scripted, 2, on_failure="drop")
    vec.reset()
    kill(vec, 0)
    vec.step([0, 0])
    kill(vec, 1)
    with pytest.raises(fastvec.WorkerError, match="SIGKILL.*It was the last worker"):
        vec.step([0, 0])


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, says", [
    ({"on_failure": "retry"}, "on_failure='retry'; give one of"),
    ({"on_failure": "restart", "max_restarts": 0}, "max_restarts=0; give an int of at least 1"),
    ({"on_failure": "restart", "restart_window": -1}, "restart_window=-1; give a number of seconds above 0"),
    ({"on_failure": "drop", "num_workers": 0}, "on_failure='drop' needs workers"),
])
def test_bad_arguments(options, says):
    with pytest.raises(ValueError, match=says):
        fastvec.make(envs.Scripted, **{"num_workers": 1, **options})
