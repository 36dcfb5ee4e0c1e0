"""fastvec as a backend of PufferLib's, against PufferLib's own Serial backend."""
import functools
import importlib.util
import os
import re
import runpy
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("pufferlib", reason="PufferLib is not installed (pip install --no-deps pufferlib-core)")

import puffer_envs as envs
import pufferlib
import pufferlib.vector
from pufferlib.pufferlib import APIUsageError

import fastvec
import fastvec.puffer
from fastvec.puffer import Multiprocessing

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

HERE = os.path.dirname(__file__)
OLDER = os.path.join(sys.prefix, "pufferlib-older")  # where the Makefile puts one without teacher actions
STEPS = 1000
ENVS = 6
KINDS = {
    "gymnasium": envs.cartpole,
    "gymnasium, dicts": envs.structured,
    "gymnasium, continuous": envs.pendulum,
    "gymnasium, plain": envs.plain_cartpole,
    "gymnasium, plain, continuous": envs.plain_pendulum,
    "gymnasium, odd": envs.odd,
    "pettingzoo": envs.pettingzoo,
    "native": envs.herd,
    "native, multi-discrete": envs.multi,
    "native, continuous": envs.box,
}
SYNC = {
    "one worker": dict(num_workers=1),
    "two workers": dict(num_workers=2),
    "a worker for each": dict(num_workers=6),
    "copies": dict(num_workers=2, zero_copy=False),
}
ASYNC = {
    "blocks in order": dict(num_workers=6, batch_size=2),
    "blocks": dict(num_workers=6, batch_size=2, sync_traj=False),
    "a worker's": dict(num_workers=2, batch_size=3, sync_traj=False),
    "gathered in order": dict(num_workers=6, batch_size=2, zero_copy=False),
    "gathered": dict(num_workers=6, batch_size=2, zero_copy=False, sync_traj=False),
    "gathered with a rest": dict(num_workers=3, batch_size=4, zero_copy=False, sync_traj=False),
    "gathered with a rest in order": dict(num_workers=3, batch_size=4, zero_copy=False),
}


def creator_of(kind):
    if kind == "pettingzoo":
        pytest.importorskip("pettingzoo", reason="PettingZoo is not installed")
    return KINDS[kind]


def make(creator, num_envs=ENVS, **options):
    """By way of `pufferlib.vector.make`, which passes on what it knows only."""
    known = {k: options.pop(k) for k in ("num_workers", "batch_size", "zero_copy", "env_args", "env_kwargs") if k in options}
    known.setdefault("num_workers", 2)
    backend = functools.partial(Multiprocessing, **options)
    return pufferlib.vector.make(creator, backend=backend, num_envs=num_envs, **known)


def actions_of(vecenv, t):
    """For all agents at their step t: a function of step and agent alone, in the dtype that the envs take."""
    rng = np.random.default_rng([t, 7])
    space = vecenv.single_action_space
    if hasattr(space, "nvec"):
        return rng.integers(0, space.nvec, (vecenv.num_agents, len(space.nvec)), dtype=np.int32)
    if hasattr(space, "n"):
        return rng.integers(0, space.n, vecenv.num_agents, dtype=np.int32)
    return rng.uniform(space.low, space.high, (vecenv.num_agents, *space.shape)).astype(space.dtype)


def arrays(batch):
    """Of what recv returned: the arrays that the envs write, teacher actions among them."""
    return [*batch[:-3], batch[-1]]


@functools.cache
def serial(kind):
    """[step: (arrays, infos)] of PufferLib's Serial backend; and the length of what it returns."""
    vecenv = pufferlib.vector.make(KINDS[kind], backend=pufferlib.vector.Serial, num_envs=ENVS)
    vecenv.async_reset(seed=3)
    trace = []
    for t in range(STEPS):
        batch = vecenv.recv()
        trace.append(([a.copy() for a in arrays(batch)], list(batch[-3])))
        vecenv.send(actions_of(vecenv, t))
    vecenv.close()
    return trace, len(batch)


def said(infos):
    """Those that say something."""
    return [i for i in infos if any(v != {} for v in i.values())]


# ---- the same as Serial ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", SYNC)
def test_sync_is_serial(kind, mode):
    vecenv = make(creator_of(kind), **SYNC[mode])
    want, length = serial(kind)
    vecenv.async_reset(seed=3)
    for t, (expected, infos) in enumerate(want):
        batch = vecenv.recv()
        assert len(batch) == length
        for got, array in zip(arrays(batch), expected, strict=True):
            assert got.dtype == array.dtype and got.shape == array.shape and got.tobytes() == array.tobytes(), t
        assert batch[-2].tolist() == list(range(vecenv.num_agents)) and vecenv.batch_mask is batch[-1]
        assert type(batch[-3]) is list and batch[-3] == said(infos)
        vecenv.send(actions_of(vecenv, t))
    vecenv.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ASYNC)
def test_async_is_serial(kind, mode):
    """Every agent sees what it would see in step with the others; each gets its t-th action from its own count."""
    vecenv = make(creator_of(kind), **ASYNC[mode])
    want, length = serial(kind)
    actions = np.stack([actions_of(vecenv, t) for t in range(STEPS)])
    steps = np.zeros(vecenv.num_agents, int)
    vecenv.async_reset(seed=3)
    while steps.max() < STEPS:
        batch = vecenv.recv()
        ids = batch[-2]
        assert len(batch) == length and len(ids) == vecenv.agents_per_batch
        for t in set(steps[ids]):
            here = steps[ids] == t
            for got, array in zip(arrays(batch), want[t][0], strict=True):
                assert got.dtype == array.dtype and got[here].tobytes() == array[ids[here]].tobytes(), t
        vecenv.send(actions[steps[ids], ids])
        steps[ids] += 1
    assert (steps > 0).all()
    vecenv.close()


def test_infos_of_async_batches():
    vecenv = make(envs.herd, num_workers=3, batch_size=2)
    want = serial("native")[0]
    infos = []
    vecenv.async_reset(seed=3)
    for t in range(200):
        for _ in range(3):
            batch = vecenv.recv()
            infos += batch[-3]
            vecenv.send(actions_of(vecenv, t)[batch[-2]])
    assert infos == [info for _, step in want[:200] for info in step] != []
    vecenv.close()


@pytest.mark.parametrize("mode, order", [
    ("blocks in order", [[0, 1], [2, 3], [4, 5], [0, 1]]),
    ("gathered in order", [[0, 1], [2, 3], [4, 5], [0, 1]]),
    ("gathered with a rest in order", [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]),
])
def test_order(mode, order):
    """What sync_traj promises, and PufferLib's trainer needs: everybody in turn."""
    vecenv = make(functools.partial(envs.Herd, 1), **ASYNC[mode])
    vecenv.async_reset(seed=0)
    for expected in order:
        ids = vecenv.recv()[-2]
        assert ids.tolist() == expected
        vecenv.send(np.zeros(len(ids), int))
    vecenv.close()


# ---- whose memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gymnasium", "gymnasium, dicts", "pettingzoo", "native"])
@pytest.mark.parametrize("mode", ["one worker", "two workers", "blocks in order", "a worker's"])
def test_zero_copy(kind, mode):
    """What an env writes, the trainer sees, with nothing in between."""
    vecenv = make(creator_of(kind), **(SYNC | ASYNC)[mode])
    vecenv.async_reset()
    batch = vecenv.recv()
    vecenv._vec.call("paint", 77)
    assert (batch[0] == 77).all()
    for t in range(12):
        vecenv.send(actions_of(vecenv, t)[batch[-2]])
        again = vecenv.recv()
        if again[-2][0] == batch[-2][0]:
            for ours, before in zip(arrays(again), arrays(batch), strict=True):
                assert ours.ctypes.data == before.ctypes.data
    vecenv.close()
    assert np.isfinite(again[0]).all()  # still readable


def test_envs_without_buffers_of_theirs_to_fill():
    """One that hands out new arrays: they are copied."""
    vecenv = make(envs.Replacer)
    vecenv.reset()
    for t in range(1, 4):
        observations, rewards, *_ = vecenv.step(np.arange(ENVS) % 2)
        assert (observations == t).all() and rewards.tolist() == [0, 1, 0, 1, 0, 1]
    vecenv.close()


def test_masks_stay_as_the_env_left_them():
    vecenv = make(envs.Silent)
    for _ in range(2):
        vecenv.async_reset()
        assert not vecenv.recv()[-1].any()
        vecenv.send(np.zeros(ENVS, int))
        assert not vecenv.recv()[-1].any()
    vecenv.close()


# ---- the interface ---------------------------------------------------------------------------------------------------


def test_attributes_are_pufferlibs():
    options = dict(num_envs=ENVS, num_workers=3, batch_size=4, zero_copy=False)
    theirs = pufferlib.vector.Multiprocessing(
        [envs.multi] * ENVS, [[]] * ENVS, [{}] * ENVS, **options, overwork=True
    )
    ours = Multiprocessing([envs.multi] * ENVS, [[]] * ENVS, [{}] * ENVS, **options, overwork=True)
    try:
        for name in ("num_envs", "num_environments", "num_workers", "envs_per_worker", "workers_per_batch", "num_agents",
                     "agents_per_batch", "single_observation_space", "single_action_space", "observation_space",
                     "action_space", "emulated", "zero_copy", "sync_traj"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.transport_single_action_space == getattr(theirs, "transport_single_action_space", ours.single_action_space)
        assert np.array_equal(ours.agent_ids, theirs.agent_ids)
        assert type(ours.driver_env) is type(theirs.driver_env)
    finally:
        ours.close()
        theirs.close()
        for process in theirs.processes:
            process.join()


def test_reset_and_step():
    vecenv = make(envs.herd)
    want = serial("native")[0]
    observations, infos = vecenv.reset(seed=3)
    assert observations.tobytes() == want[0][0][0].tobytes() and infos == []
    for t in range(5):
        observations, rewards, terminals, truncations, infos = vecenv.step(actions_of(vecenv, t))
        for got, expected in zip((observations, rewards, terminals, truncations), want[t + 1][0]):
            assert got.tobytes() == expected.tobytes()
    vecenv.close()


def test_reset_amid_a_step_drops_it():
    vecenv = make(envs.herd, num_workers=3, batch_size=2)
    want = serial("native")[0][0][0]
    for _ in range(3):
        vecenv.async_reset(seed=3)
        batch = vecenv.recv()
        assert batch[0].tobytes() == want[0][batch[-2]].tobytes()
        vecenv.send(np.zeros(6, int))
    vecenv.close()


def test_reset_without_a_seed_goes_on():
    vecenv = make(envs.herd)
    first = vecenv.reset(seed=3)[0].copy()
    assert not np.array_equal(vecenv.reset(seed=None)[0], first)
    assert np.array_equal(vecenv.reset(seed=3)[0], first)
    vecenv.close()


@pytest.mark.parametrize("actions", [
    np.arange(18) % 5, (np.arange(18) % 5).astype(np.int32), (np.arange(18) % 5).astype(np.uint8), list(np.arange(18) % 5),
    np.repeat(np.arange(18) % 5, 2)[::2],
])
def test_actions_of_any_integer_type(actions):
    vecenv = make(envs.herd)
    vecenv.reset(seed=3)
    vecenv.step(np.arange(18) % 5)
    want = vecenv.step(np.arange(18) % 5)[0].copy()
    vecenv.reset(seed=3)
    vecenv.step(np.arange(18) % 5)
    assert np.array_equal(vecenv.step(actions)[0], want)
    vecenv.close()


def test_notify():
    vecenv = make(envs.herd, num_workers=3, batch_size=2)
    vecenv.async_reset()
    vecenv.recv()
    vecenv.notify()
    vecenv.send(np.zeros(6, int))
    vecenv.notify()
    for count in (0, 0, 2):  # those on their way had observed before; the first block's step knows of one or of both
        batch = vecenv.recv()
        if count == 0:
            assert (batch[0][:, 1, 1] == 0).all()
            vecenv.send(np.zeros(6, int))
    assert (batch[0][:, 1, 1] >= 1).all()
    vecenv.close()


def test_notify_of_envs_that_do_not_listen():
    vecenv = make(envs.Silent)
    with pytest.raises(APIUsageError, match="notify.*Silent has no such method"):
        vecenv.notify()
    vecenv.close()


def test_empty_infos_do_not_travel(monkeypatch):
    """PettingZoo's infos are a dict of empty dicts; nothing of them reaches the pipe."""
    pytest.importorskip("pettingzoo", reason="PettingZoo is not installed")
    heard = []
    for creator in (envs.pettingzoo, envs.cartpole, envs.herd):
        vecenv = make(creator)
        hear = vecenv._vec._hear
        vecenv._vec._hear = lambda worker: heard.append(creator) or hear(worker)
        vecenv.async_reset(seed=3)
        for t in range(20):
            vecenv.recv()
            vecenv.send(actions_of(vecenv, t))
        vecenv.close()
        del vecenv._vec._hear
    assert set(heard) == {envs.herd}  # which has something to say


def test_installed_under_a_name(monkeypatch):
    monkeypatch.setattr(pufferlib.vector, "Fastvec", None, raising=False)
    monkeypatch.delattr(pufferlib.vector, "Fastvec")
    fastvec.puffer.install()
    fastvec.puffer.install()
    vecenv = pufferlib.vector.make(envs.herd, backend="Fastvec", num_envs=4, num_workers=2, seed=42)
    assert type(vecenv) is Multiprocessing
    vecenv.close()
    with pytest.raises(ValueError, match="pufferlib.vector has something else"):
        fastvec.puffer.install("Serial")


def test_command_line(monkeypatch):
    """PufferLib's own, with the backend installed."""
    pufferl = pytest.importorskip("pufferlib.pufferl", reason="PufferLib's trainer is not installed")
    monkeypatch.setattr(pufferlib.vector, "Fastvec", None, raising=False)
    monkeypatch.delattr(pufferlib.vector, "Fastvec")
    ran = []
    monkeypatch.setattr(pufferl, "main", lambda: ran.append(pufferlib.vector.Fastvec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that fastvec.puffer is imported already
        runpy.run_module("fastvec.puffer", run_name="__main__")
    assert ran == [Multiprocessing]


def test_automatic_counts():
    vecenv = pufferlib.vector.make(envs.herd, backend=Multiprocessing, num_envs=4, num_workers="auto", batch_size="auto")
    assert (vecenv.num_workers, vecenv.workers_per_batch) == (4, 2)
    vecenv.close()
    vecenv = pufferlib.vector.make(envs.herd, backend=Multiprocessing, num_envs=3)
    assert (vecenv.num_workers, vecenv.workers_per_batch) == (3, 3)
    vecenv.close()


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_other_start_methods(start_method):
    vecenv = make(envs.herd, start_method=start_method)
    want = serial("native")[0]
    assert vecenv.reset(seed=3)[0].tobytes() == want[0][0][0].tobytes()
    assert vecenv.step(actions_of(vecenv, 0))[0].tobytes() == want[1][0][0].tobytes()
    vecenv.close()


def test_each_env_is_built_once_with_its_seed(tmp_path):
    def creator(buf=None, seed=None):
        (tmp_path / f"{seed}-{os.getpid()}-{buf is not None}").touch(exist_ok=False)
        return envs.Herd(buf=buf, seed=seed)

    vecenv = make(creator)
    built = sorted(p.name.split("-") for p in tmp_path.iterdir())
    assert [(seed, buf) for seed, _, buf in built] == [*((str(i), "True") for i in range(ENVS)), ("None", "False")]
    assert [pid == str(os.getpid()) for _, pid, _ in built] == [False] * ENVS + [True]
    assert vecenv.reset()[0][::3, 1, 0].tolist() == [0, 1, 2, 3, 4, 5]
    vecenv.close()


# ---- different numbers of agents -------------------------------------------------------------------------------------


def alone(creator, seed, steps, action):
    """The arrays of one env stepped by itself, at each step."""
    vecenv = pufferlib.vector.Serial([creator], [[]], [{}], 1, seed=seed)
    vecenv.async_reset(seed=3 + seed)
    trace = []
    for _ in range(steps):
        trace.append([a.copy() for a in arrays(vecenv.recv())])
        vecenv.send(np.full(vecenv.num_agents, action, np.int32))
    vecenv.close()
    return trace


@pytest.mark.parametrize("mode", ["two workers", "blocks in order", "gathered"])
@pytest.mark.parametrize("how", ["by creator", "by seed"])
def test_different_numbers_of_agents(mode, how):
    sizes = [1, 2, 3, 1, 2, 3] if how == "by seed" else [2, 4, 1, 3, 4, 2]
    creators = [functools.partial(envs.Herd, n) for n in sizes]
    lists = {} if how == "by seed" else dict(env_args=[[]] * ENVS, env_kwargs=[{}] * ENVS)
    vecenv = make(envs.sized_by_seed if how == "by seed" else creators, **lists, **(SYNC | ASYNC)[mode])
    rows = max(sizes)
    assert vecenv.num_agents == ENVS * rows
    want = [alone(creator, seed, 60, 2) for seed, creator in enumerate(creators)]
    steps = np.zeros(ENVS, int)
    vecenv.async_reset(seed=3)
    while steps.max() < 60:
        batch = vecenv.recv()
        ids = batch[-2]
        for env in range(ENVS):
            mine = np.flatnonzero(ids // rows == env)
            if not len(mine):
                continue
            used, rest = mine[:sizes[env]], mine[sizes[env]:]
            for got, expected in zip(arrays(batch), want[env][steps[env]], strict=True):
                assert got[used].tobytes() == expected.tobytes()
                assert not got[rest].any()  # masks among them
            steps[env] += 1
        vecenv.send(np.full(len(ids), 2))
    assert (steps > 0).all()
    vecenv.close()


def test_different_numbers_of_agents_show_in_the_constructor():
    """An env that cannot even be built with rows for fewer agents."""
    def creator(buf=None, seed=0):
        env = envs.sized_by_seed(buf, seed)
        env.masks[:] = np.arange(env.num_agents) != 1
        return env

    vecenv = make(creator)
    vecenv.async_reset()
    assert vecenv.recv()[-1].reshape(ENVS, 3).astype(int).tolist() == 2 * [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    vecenv.close()


def test_an_env_that_is_never_the_same():
    count = iter(range(1, 99))

    def creator(buf=None, seed=0):
        return envs.Herd(num_agents=next(count), buf=buf)

    with pytest.raises(fastvec.WorkerError, match="env 0 .*raised NotAsDeclared .it has . agents, .* was expected"):
        make(creator, num_envs=1, num_workers=1)


# ---- PufferLib's envs elsewhere in fastvec ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("slots", [1, 3])
def test_fastvec_make(kind, num_workers, slots):
    creator = creator_of(kind)
    want = serial(kind)[0]
    with fastvec.make(lambda env_index: creator(seed=env_index), num_workers, num_envs=ENVS, slots=slots, seed=3) as vec:
        vec.reset()
        for t in range(100):
            got = [vec.observations, vec.rewards, vec.terminations, vec.truncations]
            if "teacher_actions" in vec.fields:
                got.append(vec.fields["teacher_actions"][vec._slot])
            for array, expected in zip([*got, vec.masks], want[t][0], strict=True):
                assert array.tobytes() == expected.tobytes(), t
            vec.step(actions_of(vec_like(vec), t))


def test_rollouts_leave_reset_steps_out():
    """Emulated envs reset in a step of their own, whose observation before is the last one of the episode: its value is known."""
    creator = functools.partial(envs.plain_creator, Nine)
    with fastvec.make(creator, 0, num_envs=1, seed=0, horizon=25, trainer_fields={"values": ((), "float32")}) as vec:
        vec.reset()
        rollout = vec.rollout(lambda batch: (np.zeros(1, np.int32), {"values": batch.observations[:, 0]}))
        assert rollout.truncations[:, 0].nonzero()[0].tolist() == [8, 18]
        assert (~rollout.masks[:, 0]).nonzero()[0].tolist() == [9, 19]
        advantages, _ = rollout.gae(rollout.last_observations[:, 0], gamma=0.5, gae_lambda=0)
        assert advantages[8, 0] == 1 + 0.5 * 9 - 8 and advantages[9, 0] == 0 and advantages[10, 0] == 1 + 0.5 - 0
    with fastvec.make(envs.herd, 0, num_envs=1, horizon=3) as vec:
        assert not vec._resets_late


class Nine(envs.gymnasium.Env):
    """Observes the step; truncated after nine."""

    observation_space = envs.spaces.Box(0, 9, (1,), np.float32)
    action_space = envs.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, False, self.t == 9, {}


def vec_like(vec):
    """What actions_of asks for."""
    vec.num_agents = vec.num_rows
    return vec


def test_fastvec_make_knows_bad_results():
    class Bad(envs.Silent):
        def step(self, actions):
            return self.observations, self.rewards

    with fastvec.make(Bad, 1) as vec:
        vec.reset()
        with pytest.raises(fastvec.WorkerError, match=r"step\(\) of Bad returned a tuple of 2; expected .observations, rewards"):
            vec.step([0])
    with fastvec.make(envs.Silent, 1) as vec:
        with pytest.raises(fastvec.WorkerError, match="options={'a': 1}: reset.. of Silent takes none"):
            vec.reset(options={"a": 1})


# ---- failures --------------------------------------------------------------------------------------------------------


def run(vecenv):
    """For ever: what other workers have finished is delivered before a worker's failure is."""
    vecenv.async_reset()
    while True:
        vecenv.recv()
        vecenv.send(np.zeros(vecenv.agents_per_batch, np.int32))


def test_driver_cannot_be_built():
    def creator(buf=None, seed=0):
        raise OSError("no such level")

    with pytest.raises(OSError, match="no such level"):
        make(creator)


def test_constructor_raises_in_a_worker():
    with pytest.raises(fastvec.WorkerError, match=r"env 2 \(worker 0\) raised KeyError .*when it was built") as e:
        make(functools.partial(envs.trapped, envs.throw, "build"))
    assert isinstance(e.value.__cause__, KeyError)


def test_constructor_hangs():
    with pytest.raises(fastvec.RecvTimeout, match="worker 0 still prepares its rows after 0.5 s"):
        make(functools.partial(envs.trapped, envs.sleep_long, "build"), timeout=0.5)


def test_creator_returns_something_else_in_a_worker():
    with pytest.raises(fastvec.WorkerError, match="env 0 .*the creator returned an object of type Structured; expected an env of"):
        make(lambda buf=None, seed=0: envs.structured() if buf is None else envs.Structured())


@pytest.mark.parametrize("at, phase", [("reset", "reset"), (3, "step")])
@pytest.mark.parametrize("mode", ["two workers", "blocks in order", "gathered"])
def test_env_raises(at, phase, mode):
    vecenv = make(functools.partial(envs.trapped, envs.throw, at), **(SYNC | ASYNC)[mode])
    with pytest.raises(fastvec.WorkerError, match=rf"env 2 .*raised KeyError .*in {phase}\(\)") as e:
        run(vecenv)
    assert isinstance(e.value.__cause__, KeyError) and "raise KeyError" in str(e.value)
    with pytest.raises(APIUsageError, match="after close"):
        vecenv.async_reset()
    vecenv.close()
    vecenv.close()


@pytest.mark.parametrize("at", ["build", "reset", 3])
@pytest.mark.parametrize("mode", ["two workers", "blocks in order", "gathered"])
def test_worker_is_killed(at, mode):
    with pytest.raises(fastvec.WorkerError, match="worker . .*SIGKILL"):
        vecenv = make(functools.partial(envs.trapped, envs.kill_me, at), **(SYNC | ASYNC)[mode])
        run(vecenv)


@pytest.mark.parametrize("moment", ["idle", "waited for"])
def test_worker_is_killed_from_outside(moment):
    vecenv = make(envs.herd)
    vecenv.async_reset()
    vecenv.recv()
    if moment == "waited for":
        vecenv.send(np.zeros(18, int))
    os.kill(vecenv._vec._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(fastvec.WorkerError, match="worker 1 .*SIGKILL"):
        while True:
            if moment == "idle":
                vecenv.send(np.zeros(18, int))
            vecenv.recv()
            moment = "idle"
    vecenv.close()


def test_close():
    vecenv = make(envs.Silent)  # whose own close raises NotImplementedError
    vecenv.reset()
    vecenv.close()
    vecenv.close()
    for call in (vecenv.recv, vecenv.reset, lambda: vecenv.step(np.zeros(6, int)), lambda: vecenv.send(np.zeros(6, int))):
        with pytest.raises(APIUsageError, match="close"):
            call()


def test_close_of_the_driver_raises():
    vecenv = make(envs.herd)
    vecenv.driver_env.at, vecenv.driver_env.trap = "close", envs.throw
    with pytest.raises(KeyError):
        vecenv.close()
    vecenv.close()


def test_calls_out_of_order():
    vecenv = make(envs.herd)
    actions = np.zeros(18, int)
    with pytest.raises(APIUsageError, match="Call reset before stepping"):
        vecenv.recv()
    with pytest.raises(APIUsageError, match=r"Call \(async\) reset \+ recv before sending"):
        vecenv.send(actions)
    vecenv.async_reset()
    with pytest.raises(APIUsageError, match=r"Call \(async\) reset \+ recv before sending"):
        vecenv.send(actions)
    vecenv.recv()
    with pytest.raises(APIUsageError, match="Call reset before stepping"):
        vecenv.recv()
    vecenv.send(actions)
    vecenv.recv()
    vecenv.close()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind, actions", [
    ("native", np.zeros(17, int)),
    ("native", np.zeros((18, 1), int)),
    ("native", np.zeros(18)),
    ("native", np.full(18, 5)),
    ("native", np.full(18, -1)),
    ("native, multi-discrete", np.zeros(18, int)),
    ("native, multi-discrete", np.full((18, 2), 3)),
    ("native, continuous", np.zeros(18, np.float32)),
    ("native, continuous", np.zeros((18, 2), np.complex64)),
])
def test_bad_actions(kind, actions, first):
    """Refused in this process, at every send; the batch can still be answered."""
    vecenv = make(KINDS[kind])
    vecenv.async_reset(seed=3)
    vecenv.recv()
    if not first:
        vecenv.send(actions_of(vecenv, 0))
        vecenv.recv()
    with pytest.raises(APIUsageError, match="Actions do not match action space"):
        vecenv.send(actions)
    vecenv.send(actions_of(vecenv, 1))
    vecenv.recv()
    vecenv.close()


def test_continuous_actions_out_of_range_at_first():
    vecenv = make(envs.box)
    vecenv.reset()
    with pytest.raises(APIUsageError, match="Actions do not match action space"):
        vecenv.send(np.full((18, 2), 3, np.float32))
    vecenv.close()


@pytest.mark.parametrize("arguments, says", [
    (dict(num_envs=0), "num_envs must be an integer of at least 1, not 0"),
    (dict(num_envs=1.5), "num_envs must be an integer"),
    (dict(num_workers=4), r"num_envs \(6\) must be divisible by num_workers \(4\)"),
    (dict(num_workers=0), "num_workers must be an integer of at least 1, not 0"),
    (dict(num_workers=-1), "num_workers must be"),
    (dict(num_workers=True), "num_workers must be"),
    (dict(num_workers="many"), "num_workers must be an integer of at least 1, not 'many'"),
    (dict(num_workers=2, batch_size=2), r"batch_size \(2\) must be divisible by .num_envs / num_workers. .3."),
    (dict(num_workers=6, batch_size=4), r"zero_copy: num_envs \(6\) must be divisible by batch_size \(4\)"),
    (dict(num_workers=6, batch_size=12), r"batch_size \(12\) must not be larger than num_envs \(6\)"),
    (dict(num_workers=6, batch_size=0), "batch_size must be"),
    (dict(env_creators=[envs.herd] * 5), r"env_creators must be a list of length num_envs \(6\)"),
    (dict(env_args=[[]] * 5), "env_args must be a list of length"),
    (dict(env_kwargs=[{}] * 7), "env_kwargs must be a list of length"),
    (dict(env_creators=[envs.herd] * 5 + ["herd"]), "env_creators must be a list of callables; at place 5 is 'herd'"),
    (dict(env_creators=[envs.fading] * 6), "called with buf=, seed=.*pass buf on"),
    (dict(env_creators=[envs.herd] * 6, env_kwargs=[{"size": 3}] * 6), "unexpected keyword argument 'size'"),
    (dict(env_creators=[lambda buf=None, seed=0: envs.Structured()] * 6), "env_creator must return one of PufferLib's envs "),
    (dict(env_creators=[lambda buf=None, seed=0: None] * 6), "env_creator must return one of PufferLib's envs .PufferEnv, .*, not None"),
    (dict(env_creators=[envs.herd, *[envs.multi] * 5]), "env 1 .* and env 0 .* differ in their action space"),
    (dict(env_creators=[envs.herd, *[envs.cartpole] * 5]), "differ in their observation space"),
    (dict(wait="nap"), "wait='nap'"),
    (dict(timeout="soon"), "timeout='soon'"),
    (dict(start_method="thread"), "start_method='thread'"),
    (dict(affinity="all"), "affinity='all'"),
    (dict(seed="x"), "seed must be an integer or None, not 'x'"),
])
def test_bad_arguments(arguments, says):
    given = dict(env_creators=[envs.herd] * 6, env_args=[[]] * 6, env_kwargs=[{}] * 6, num_envs=6, num_workers=2)
    with pytest.raises(APIUsageError, match=says):
        Multiprocessing(**given | arguments)


@pytest.mark.parametrize("seed", ["x", -1, [1, 2]])
def test_bad_seed(seed):
    vecenv = make(envs.herd)
    with pytest.raises(APIUsageError, match="seed="):
        vecenv.async_reset(seed)
    vecenv.close()


# ---- in processes of their own ---------------------------------------------------------------------------------------


def python(*arguments, path=(), cwd=None):
    path = os.pathsep.join([*path, *(p for p in sys.path if p), HERE])
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=600, cwd=cwd, env={**os.environ, "PYTHONPATH": path}
    )


def test_pufferlib_without_teacher_actions(tmp_path):
    """All of this again, with a PufferLib whose recv returns seven things."""
    if not os.path.isdir(OLDER):
        pytest.skip(f"no older PufferLib in {OLDER} (pip install --no-deps --target {OLDER} pufferlib-core==3.0.5)")
    if not hasattr(envs.Herd(), "teacher_actions"):
        pytest.skip("this PufferLib has no teacher actions itself")
    tests = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), __file__, "-k",
                   "serial and (native or dicts or plain) or zero_copy or different", path=[OLDER])
    assert tests.returncode == 0, tests.stdout + tests.stderr
    length = python("-c", "import test_pufferlib; print(test_pufferlib.serial('native')[1])", path=[OLDER], cwd=tmp_path)
    assert length.stdout == "7\n", length.stderr


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pufferlib.pufferl", "rich_argparse", "pyro")),
    reason="PufferLib's trainer is not installed (it needs rich-argparse and pyro-ppl)",
)
def test_pufferlibs_trainer_learns(tmp_path):
    example = os.path.join(HERE, "..", "..", "examples", "puffer_train.py")
    result = python(example, "--timesteps", "60000", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    before, after = map(int, re.search(r"episodes grew from (\d+) steps to (\d+)", result.stdout).groups())
    assert after > 2 * before
    assert "fastvec.puffer.Multiprocessing: 32 envs of GymnasiumPufferEnv in 2 workers" in result.stdout


def test_missing_pufferlib(tmp_path):
    (tmp_path / "pufferlib.py").write_text("raise ImportError('none here')")
    result = python("-c", "import fastvec.puffer", path=[str(tmp_path)])
    assert "pip install 'fastvec[puffer]'" in result.stderr and "none here" in result.stderr
