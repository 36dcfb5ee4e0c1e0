"""The same numbers, however the envs are hosted."""
import itertools
import time

import envs
import numpy as np
import pytest

import fastvec

STEPS = 60
CREATORS = {"compiled": envs.probe, "gymnasium": envs.Scripted, "rows": envs.Herd, "cartpole": envs.cartpole}


def actions_for(vec, t, rows):
    """A function of step and row alone."""
    rng = np.random.default_rng([t, 7])
    spec = vec.action_spec
    if spec.dtype.kind == "f":
        return rng.uniform(-1, 1, (vec.num_rows, *spec.shape)).astype(spec.dtype)[rows]
    return rng.integers(0, int(spec.high) + 1, vec.num_rows)[rows]


def sync_trace(creator, **options):
    with fastvec.make(creator, num_envs=6, seed=11, **options) as vec:
        observations, infos = vec.reset()
        trace = [(observations.copy(), infos)]
        for t in range(STEPS):
            batch = vec.step(actions_for(vec, t, slice(None)))
            trace.append((*(a.copy() for a in batch[:4]), vec.masks.copy(), dict(batch[4])))
            trace[-1] += tuple(view[vec._slot].copy() for name, view in vec.fields.items() if name == "tag")
    return trace


def assert_same(a, b):
    for t, (x, y) in enumerate(zip(a, b, strict=True)):
        for u, v in zip(x, y, strict=True):
            if isinstance(u, np.ndarray):
                assert u.dtype == v.dtype and u.tobytes() == v.tobytes(), f"step {t}"
            else:
                assert dict(u) == dict(v), f"step {t}"


@pytest.fixture(scope="module")
def serial():
    return {name: sync_trace(creator, num_workers=0) for name, creator in CREATORS.items()}


@pytest.mark.parametrize("kind", CREATORS)
@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("wait", ["spin", "park", "yield"])
def test_workers_and_waits(serial, kind, num_workers, wait):
    assert_same(serial[kind], sync_trace(CREATORS[kind], num_workers=num_workers, wait=wait))


@pytest.mark.parametrize("kind", CREATORS)
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_start_methods(serial, kind, start_method):
    assert_same(serial[kind], sync_trace(CREATORS[kind], num_workers=2, start_method=start_method))


@pytest.mark.parametrize("kind", CREATORS)
@pytest.mark.parametrize("slots", [2, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_slots(serial, kind, slots, num_workers):
    assert_same(serial[kind], sync_trace(CREATORS[kind], num_workers=num_workers, slots=slots))


@pytest.mark.parametrize("kind", CREATORS)
@pytest.mark.parametrize("zero_copy", [False, True])
@pytest.mark.parametrize("wait", ["spin", "park"])
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("in_order", [False, True])
def test_async(serial, kind, zero_copy, wait, slots, in_order):
    """Every env sees what it would see in step with the others; each gets its t-th action from its own count."""
    want = serial[kind]
    with fastvec.make(
        CREATORS[kind], 3, num_envs=6, batch_size=2, zero_copy=zero_copy, in_order=in_order, wait=wait, slots=slots, seed=11
    ) as vec:
        per_env = vec.agents_per_env
        count = np.full(vec.num_envs, -1)
        vec.async_reset()
        while (count < STEPS).any():
            batch = vec.recv()
            assert len(batch.rows) == 2 * per_env
            which = np.unique(batch.rows // per_env)
            count[which] += 1
            for e in which:
                here, there = batch.rows // per_env == e, slice(e * per_env, (e + 1) * per_env)
                if count[e] > STEPS:
                    continue
                step = want[count[e]]
                fields = batch[:5] if count[e] else batch[:1]
                for name, got, expected in zip(batch._fields, fields, step):
                    assert got[here].tobytes() == expected[there].tobytes(), (name, e, count[e])
                assert batch.infos.get(e) == (step[5] if count[e] else step[1]).get(e)
            vec.send(np.stack([actions_for(vec, count[r // per_env], slice(None))[r] for r in batch.rows]))


class Slow(envs.Scripted):
    """The first env takes its time."""

    def __init__(self, env_index=0):
        super().__init__()
        self.nap = 0.02 * (env_index == 0)

    def step(self, action):
        time.sleep(self.nap)
        return super().step(action)


@pytest.mark.parametrize("zero_copy, num_envs, batch_size, order", [
    (True, 4, 2, [[0, 1], [2, 3], [0, 1], [2, 3]]),
    (False, 4, 2, [[0, 1], [2, 3], [0, 1], [2, 3]]),
    (False, 3, 2, [[0, 1], [2, 0], [1, 2], [0, 1]]),
    (False, 3, 1, [[0], [1], [2], [0]]),
])
def test_batches_in_order(zero_copy, num_envs, batch_size, order):
    """Whoever is slow is waited for; a call or a reset in between changes nothing."""
    with fastvec.make(Slow, num_envs, batch_size=batch_size, zero_copy=zero_copy, in_order=True, seed=0) as vec:
        for _ in range(2):
            vec.async_reset(seed=0)
            for i, expected in enumerate(order):
                batch = vec.recv()
                assert batch.rows.tolist() == batch.observations[:, 0].tolist() == expected
                if i == 2:
                    assert vec.call("double", 4) == [8] * num_envs
                vec.send([1] * batch_size)


def test_a_gathered_batch_may_leave_a_rest():
    """Three workers, batches of two: everybody comes along."""
    with fastvec.make(envs.Scripted, 3, batch_size=2, seed=0) as vec:
        vec.async_reset()
        seen = np.zeros(3, int)
        while (seen <= 10).any():  # how soon is the scheduler's business
            assert seen.max() < 100_000
            batch = vec.recv()
            assert len(set(batch.rows)) == 2 and (batch.observations[:, 0] == batch.rows).all()
            seen[batch.rows] += 1
            vec.send([0, 0])


def test_seed_is_that_of_each_env():
    with fastvec.make(envs.Scripted, 2, num_envs=4, seed=100) as vec:
        assert vec.reset()[0][:, 0].tolist() == [100, 101, 102, 103]
        assert vec.reset(seed=[7, None, 3, None])[0][:, :2].tolist() == [[7, 0], [101, 1], [3, 0], [103, 1]]
        assert vec.reset()[0][:, 1].tolist() == [1, 2, 1, 2]  # without a seed the random streams go on


def test_makes_seed_is_for_the_first_reset_only():
    with fastvec.make(envs.Scripted, 2, seed=100) as vec:
        assert vec.reset(seed=7)[0][:, 0].tolist() == [7, 8]
        assert vec.reset()[0][:, :2].tolist() == [[7, 1], [8, 1]]


def test_no_seed_draws_one():
    with fastvec.make(envs.Scripted, 0, num_envs=2) as a, fastvec.make(envs.Scripted, 0, num_envs=2) as b:
        assert not np.array_equal(a.reset()[0], b.reset()[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_fewer_agents_than_others(num_workers):
    """Rows that an env does not need stay masked."""
    creators = [lambda n=n: envs.Herd(n) for n in (4, 1, 3, 2)]
    with fastvec.make(creators, num_workers, seed=0) as vec:
        assert vec.agents_per_env == 4 and vec.num_rows == 16
        vec.reset()
        used = np.array([r % 4 < n for n, r in zip(np.repeat([4, 1, 3, 2], 4), range(16))])
        assert vec.masks.tolist() == used.tolist()
        for t in range(1, 8):
            observations, rewards, *_ = vec.step(np.ones((16, 2), np.float32))
            assert not vec.masks[~used].any() and not observations[~used].any() and not rewards[~used].any()
            assert vec.masks[used].tolist() == [t % (i + 2) != 0 for n in (4, 1, 3, 2) for i in range(n)]


def test_infos_larger_than_a_pipe():
    class Talker(envs.Scripted):
        def step(self, action):
            return *super().step(action)[:4], {"blob": bytes(300_000)}

    with fastvec.make(Talker, 2, num_envs=4) as vec:
        vec.reset()
        for _ in range(5):
            infos = vec.step([0] * 4)[-1]
            assert sorted(infos) == [0, 1, 2, 3] and len(infos[3]["blob"]) == 300_000


def test_partial_reset_keeps_the_others():
    with fastvec.make(envs.Scripted, 2, num_envs=4, seed=0, autoreset="disabled") as vec:
        vec.reset()
        before = vec.step([1, 2, 3, 4])[0].copy()
        observations, _ = vec.reset(env_mask=np.array([False, True, False, True]))
        assert observations[[0, 2]].tolist() == before[[0, 2]].tolist()
        assert observations[[1, 3], 1:].tolist() == [[1, 0, 0], [1, 0, 0]]
        assert vec.rewards.tolist() == [1, 0, 3, 0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_options_and_calls(num_workers):
    with fastvec.make(envs.Scripted, num_workers, num_envs=4, seed=0) as vec:
        _, infos = vec.reset(options={"map": 3})
        assert infos == {i: {"options": {"map": 3}} for i in range(4)}
        assert vec.call("double", 4) == [8, 8, 8, 8]
        assert vec.call("seed") == [0, 1, 2, 3]
        vec.step([1] * 4)
        assert vec.call("t") == [1] * 4


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_options_of_each_env(num_workers):
    with fastvec.make(envs.Scripted, num_workers, num_envs=4, seed=0) as vec:
        _, infos = vec.reset(options=[{"map": 3}, None, {}, {"map": [4]}])
        assert infos == {0: {"options": {"map": 3}}, 3: {"options": {"map": [4]}}}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_apply(num_workers):
    with fastvec.make(envs.Scripted, num_workers, num_envs=4, seed=5) as vec:
        vec.reset()
        assert vec.apply(getattr, "seed") == [5, 6, 7, 8]
        assert vec.apply(getattr, "seed", envs=[3, 1, 3]) == [8, 6, 8]
        assert vec.apply(setattr, "sum", 20, envs=range(2)) == [None, None]
        assert vec.apply(getattr, "sum", envs=[]) == []
        observations, *_ = vec.step([1] * 4)
        assert observations[:, 3].tolist() == [21, 21, 1, 1]


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_autoreset_is_told(mode):
    with fastvec.make(envs.Scripted, 1, autoreset=mode) as vec:
        assert vec.autoreset == mode
    for creator in (envs.Herd, envs.probe):
        with fastvec.make(creator, 0, autoreset=mode) as vec:
            assert vec.autoreset is None


def test_call_between_async_batches():
    with fastvec.make(envs.Scripted, 3, num_envs=3, batch_size=1, seed=0) as vec:
        vec.async_reset()
        for _ in range(40):
            batch = vec.recv()
            assert sorted(vec.call("seed")) == [0, 1, 2]
            assert batch.observations[:, 0].tolist() == batch.rows.tolist()  # the call has not mixed up the batches
            vec.send(np.zeros(1, np.int64))


def test_actions_written_in_place():
    with fastvec.make(envs.Scripted, 2, num_envs=4, seed=0, slots=3) as vec:
        vec.reset()
        for t in range(1, 4):
            vec.actions[:] = [0, 1, 2, 3]
            vec.send()
            assert vec.recv().rewards.tolist() == [0, t, 2 * t, 3 * t]


def test_slots_keep_a_rollout():
    """With T + 1 slots, the arena holds what the last T steps saw, did and got."""
    with fastvec.make(envs.Scripted, 2, num_envs=2, seed=0, slots=5) as vec:
        vec.reset()
        for t in range(4):
            vec.step([t, 2 * t])
        assert vec.fields["actions"][:4].tolist() == [[0, 0], [1, 2], [2, 4], [3, 6]]
        assert vec.fields["observations"][:, :, 2].tolist() == [[t, t] for t in range(5)]
        assert vec.fields["rewards"][1:].tolist() == [[0, 0], [1, 2], [3, 6], [6, 12]]


def test_views_are_the_arena():
    """No copy on the way: what recv returns is the field, and survives close."""
    with fastvec.make(envs.Scripted, 2, num_envs=4, seed=0) as vec:
        observations, _ = vec.reset()
        assert np.shares_memory(observations, vec.fields["observations"])
        assert all(np.shares_memory(a, b) for a, b in itertools.pairwise([vec.observations, vec.step([0] * 4)[0]]))
        kept = vec.observations
        want = kept.copy()
    assert kept.tolist() == want.tolist()


def test_gathered_batches_stay_for_as_many_sends_as_slots():
    with fastvec.make(envs.Scripted, 4, num_envs=4, batch_size=1, seed=0, slots=2) as vec:
        vec.async_reset()
        first = vec.recv()
        seen = first.observations.copy()
        vec.send(np.zeros(1, np.int64))
        vec.recv()
        assert first.observations.tolist() == seen.tolist()


def test_stats_add_up():
    with fastvec.make(envs.probe, 2, num_envs=4, seed=0) as vec:
        vec.reset()
        for _ in range(64):
            vec.step(np.zeros(12, np.int64))
        stats = vec.stats()
        assert (stats.batches, stats.rows) == (64, 64 * 12)
        assert [w.steps for w in stats.workers] == [64, 64]
        assert min(stats.env, stats.handoff, stats.policy) >= 0 and stats.env > 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_call_between_send_and_recv(num_workers):
    with fastvec.make(envs.Scripted, num_workers, num_envs=2, seed=0) as vec:
        vec.reset()
        for t in range(1, 12):
            vec.send([t % 7, 0])
            vec.call("seed")
            batch = vec.recv()
            assert bool(batch.infos) == batch.terminations.any()  # infos on the pipe are not mistaken for the answer
        assert vec.call("calls")[0] >= 8


def test_options_larger_than_a_pipe():
    with fastvec.make(envs.Scripted, 2, num_envs=2) as vec:
        _, infos = vec.reset(options={"map": bytes(500_000)})
        assert len(infos[1]["options"]["map"]) == 500_000
