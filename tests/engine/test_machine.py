"""What we may use of a machine, and what follows for waiting and for the number of workers."""
import math

import envs
import pytest

import fastvec
from fastvec import autotune, machine, waiting


def files(root, contents):
    for path, text in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


@pytest.mark.parametrize("proc, contents, quota", [
    ("0::/a/b\n", {}, math.inf),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, math.inf),
    ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
    ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n", "cpu.max": "300000 100000\n"}, 2),
    ("0::/outside\n", {"cpu.max": "100000 100000\n"}, 1),  # in a container the path lies above the mount
    ("3:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "25000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 0.25),
    ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, math.inf),
    ("3:memory:/x\n", {"memory/x/cpu.cfs_quota_us": "1000"}, math.inf),
    ("0::/a\n", {"a/cpu.max": "rubbish"}, math.inf),
])
def test_cgroup_quota(tmp_path, proc, contents, quota):
    (tmp_path / "proc").write_text(proc)
    files(tmp_path / "fs", contents)
    assert machine.cgroup_quota(str(tmp_path / "proc"), str(tmp_path / "fs")) == quota


def test_no_cgroups(tmp_path):
    assert machine.cgroup_quota(str(tmp_path / "none"), str(tmp_path)) == math.inf


@pytest.mark.parametrize("cpus, workers, policy", [
    (2, 1, waiting.ROOM), (2, 2, waiting.FULL), (2, 3, waiting.CROWDED), (16, 15, waiting.ROOM), (16, 16, waiting.FULL),
    (1.5, 1, waiting.CROWDED),
])
def test_wait_follows_the_machine(monkeypatch, cpus, workers, policy):
    monkeypatch.setattr(waiting, "usable_cpus", lambda: cpus)
    assert waiting.choose("auto", workers) == policy


def test_own_policy():
    policy = fastvec.WaitPolicy(spin_us=3, yields=7, yield_us=11)
    with fastvec.make(envs.Scripted, 1, wait=policy) as vec:
        vec.reset()
        assert vec.policy == policy == waiting.choose(policy, 1)
    with pytest.raises(ValueError, match="yields=-1"):
        fastvec.WaitPolicy(yields=-1)


class FakeProbe:
    """A VecEnv whose steps take a known time."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize("per_env, num_envs, cpus, workers", [
    (1e-7, 8, 2, 0),  # nothing to gain
    (1e-3, 8, 2, 2), (1e-3, 8, 16, 8), (1e-3, 7, 4, 1),  # 7 envs over 2, 3 or 4 workers do not go
    (1e-3, 1, 16, 0), (1e-6, 8, 2, 0), (1e-6, 128, 2, 2), (1e-3, 8, 1, 0),
])
def test_auto_workers(monkeypatch, per_env, num_envs, cpus, workers):
    monkeypatch.setattr(autotune, "seconds_per_step", lambda vec: vec.seconds)
    chosen = autotune.choose_workers(lambda: FakeProbe(per_env), num_envs, cpus)
    assert chosen == (workers if workers != 1 else chosen)
    assert num_envs % max(1, chosen) == 0


def test_auto_end_to_end():
    with fastvec.make(envs.Scripted, num_envs=4, seed=3) as vec:
        assert vec.num_envs == 4 and vec.reset()[0][:, 0].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("spec", [
    fastvec.Spec((2, 3), "float32", -1.0, 2.0), fastvec.Spec((), "int64", -3, 4), fastvec.Spec((2,), "int64", [0, 5], [1, 9]),
    fastvec.Spec((3,), "float64"), fastvec.Spec((2,), "float32", float("-inf"), 1.0), fastvec.Spec((4,), "int8", 0, 1),
])
def test_random_actions_fit(spec):
    import numpy as np

    actions = autotune.random_actions(spec, 50, np.random.default_rng(0))
    assert actions.shape == (50, *spec.shape) and actions.dtype == spec.dtype and np.isfinite(actions).all()
    if spec.low is not None:
        assert (actions >= np.asarray(spec.low)).all() and (actions <= np.asarray(spec.high)).all()


@pytest.mark.parametrize("affinity, expected", [("cores", None), ([0, 0], [{0}, {0}]), ([[0], 0], [{0}, {0}])])
def test_affinity(affinity, expected):
    import os

    usable = sorted(os.sched_getaffinity(0))
    if 0 not in usable:
        pytest.skip("CPU 0 is not ours to use")
    with fastvec.make(envs.Scripted, 2, affinity=affinity) as vec:
        got = [os.sched_getaffinity(w.process.pid) for w in vec._workers]
    assert got == (expected or [{usable[i % len(usable)]} for i in range(2)])
