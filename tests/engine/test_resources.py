"""What the system refuses is told in the caller's process, with what to do, and nothing stays; what it allows is enough for much."""
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import envs
import numpy as np
import pytest
from scripts import IMPORTS, run

import fastvec
from fastvec import machine, resources, waiting
from fastvec_c.probe import Probe

METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
ROOT = pytest.mark.skipif(os.getuid() != 0, reason="needs root")
# In a program: how many processes (zombies of its own included) and descriptors it has.
LEFT = """
def left():
    gc.collect()
    return sum(map(counts, psutil.Process().children(recursive=True))), len(os.listdir("/proc/self/fd"))
def counts(process):
    try:
        return process.ppid() == os.getpid() or process.status() != "zombie"  # a fork server reaps its own
    except psutil.NoSuchProcess:
        return False
"""


# ---- memory ----------------------------------------------------------------------------------------------------------

MB = 1 << 20


def cgroup(tmp_path, lines, contents):
    """`memory_rooms` of a made-up hierarchy."""
    (tmp_path / "proc").write_text(lines)
    for path, text in contents.items():
        (tmp_path / "fs" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / path).write_text(text)
    return dict((name, room) for room, name in machine.memory_rooms(str(tmp_path / "proc"), str(tmp_path / "fs")))


@pytest.mark.parametrize("lines, contents, room", [
    ("0::/a/b\n", {}, float("inf")),
    ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/b/memory.current": "5", "a/b/memory.stat": ""}, float("inf")),
    ("0::/a/b\n", {"a/b/memory.max": f"{100 * MB}\n", "a/b/memory.current": f"{30 * MB}\n", "a/b/memory.stat": "anon 1\n"}, 70 * MB),
    ("0::/a/b\n", {"a/b/memory.max": f"{100 * MB}", "a/b/memory.current": f"{90 * MB}",  # cached files make room when it is needed
                   "a/b/memory.stat": f"anon 5\nactive_file {20 * MB}\ninactive_file {10 * MB}\n"}, 40 * MB),
    ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": f"{8 * MB}", "a/memory.current": "0", "a/memory.stat": ""}, 8 * MB),
    ("0::/above\n", {"memory.max": f"{8 * MB}", "memory.current": "0", "memory.stat": ""}, 8 * MB),
    ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": f"{9 * MB}", "memory/x/memory.usage_in_bytes": f"{2 * MB}",
                       "memory/x/memory.stat": f"total_inactive_file {MB}\n"}, 8 * MB),
    ("4:cpu:/x\n", {"memory/x/memory.limit_in_bytes": "9", "memory/x/memory.usage_in_bytes": "2", "memory/x/memory.stat": ""}, float("inf")),
    ("0::/a\n", {"a/memory.max": "rubbish"}, float("inf")),
])
def test_room_in_a_cgroup(tmp_path, lines, contents, room):
    assert cgroup(tmp_path, lines, contents)["the cgroup's memory limit (the container's, say)"] == room


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("rooms, says", [
    ([(10.0 * MB, ""), (float("inf"), "x")], r"the arena needs \d+ MiB \(2 rows in 64 slots\), 10 MiB are available; make fewer envs, or fewer slots \(a shorter horizon\)$"),
    ([(1e12, ""), (20.0 * MB, "the ulimit")], r"20 MiB are available under the ulimit; make fewer envs, or fewer slots \(a shorter horizon\), or raise that limit$"),
    ([(1e12, ""), (-5.0 * MB, "the ulimit")], ", 0 MiB are available under"),
])
def test_arena_larger_than_what_there_is(monkeypatch, num_workers, rooms, says):
    monkeypatch.setattr(resources, "memory_rooms", lambda: rooms)
    with pytest.raises(MemoryError, match=says):
        fastvec.make(lambda: Probe(observation_size=1 << 16), num_workers, num_envs=2, slots=64)


@pytest.mark.parametrize("limit, says", [
    ("resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (16 << 20), -1)", "under RLIMIT_AS (ulimit -v); make fewer envs"),
    ("resource.RLIMIT_FSIZE, (1 << 20, -1)", "1 MiB are available under RLIMIT_FSIZE (ulimit -f); make fewer envs"),
])
def test_limits_of_the_process(limit, says):
    out = run(IMPORTS + LEFT + f"""
from fastvec_c.probe import Probe
before = left()
resource.setrlimit({limit})
try:
    fastvec.make(lambda: Probe(observation_size=1 << 16), 2, slots=64)
except MemoryError as error:
    print(error)
assert left() == before
with fastvec.make(Probe, 2) as vec:  # one that fits
    vec.reset()
""")
    assert "the arena needs 32 MiB" in out and says in out


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_may_not_map_the_arena(method):
    """Its own limits may be tighter than the trainer's."""
    with pytest.raises(OSError, match="cannot start worker 0: cannot map .* bytes of shared memory.*memory") as raised:
        fastvec.make(envs.Cramped, 1, slots=64, start_method=method)
    assert raised.value.errno == errno.ENOMEM


def test_no_files_at_all():
    out = run(IMPORTS + LEFT + """
before = left()
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))
try:
    fastvec.make(envs.Scripted, 2)
except OSError as error:
    print(error)
assert left() == before
""")
    assert "cannot start worker 0: " in out and "files may not be so large (ulimit -f), memory files included" in out


def test_no_locked_memory():
    run(IMPORTS + """
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
with fastvec.make(envs.Scripted, 2, slots=3) as vec:
    vec.reset()
    vec.step([0, 0])
""")


# ---- descriptors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_too_few_descriptors(method):
    out = run(IMPORTS + LEFT + f"""
make = lambda n: fastvec.make(envs.Scripted, n, start_method={method!r})
make(1).close()  # a fork server stays
before = left()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))
for n in (100, 9, 8):
    try:
        make(n)
    except OSError as error:
        print(error)
assert left() == before
with make(4) as vec:
    vec.reset()
    vec.step([0] * 4)
assert left() == before
""")
    assert out.count("file descriptors, 6 for each worker beside those in use; this process may have 64: raise the limit (ulimit -n") >= 2


@METHODS
def test_so_many_descriptors_are_enough(method):
    """What the error asks for is what is needed."""
    out = run(IMPORTS + f"""
make = lambda n: fastvec.make(envs.Scripted, n, start_method={method!r}, on_failure="restart")
make(1).close()
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 4096))
try:
    make(4)
except OSError as error:
    needed = int(str(error).split("needs ")[1].split()[0])
resource.setrlimit(resource.RLIMIT_NOFILE, (needed, 4096))
with make(4) as vec:
    vec.reset()
    os.kill(vec._workers[1].process.pid, signal.SIGKILL)
    vec.step([0] * 4)
    used = max(map(int, os.listdir("/proc/self/fd")))
print(needed - used)
""")
    assert 0 <= int(out) <= 16


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_descriptors_run_out_on_the_way(method):
    """As where another thread takes them meanwhile: at whatever call it happens, all is given back."""
    out = run(IMPORTS + LEFT + f"""
fastvec.resources.check_descriptors = lambda num_workers: None
make = lambda n: fastvec.make(envs.Scripted, n, start_method={method!r})
make(1).close()
before = left()
told = 0
for room in {"range(22)" if method == "fork" else "(0, 3, 9, 14)"}:
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 1 + room, 4096))
    try:
        make(2).close()
    except OSError as error:
        told += "ulimit -n): each worker takes 6; raise that limit, or make fewer workers" in str(error)
        assert error.errno == 24, error
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    assert left() == before, (room, left(), before)
print(told)
""")
    assert int(out) >= 3


def test_no_descriptor_for_a_restart():
    out = run(IMPORTS + LEFT + """
before = left()
vec = fastvec.make(envs.Scripted, 3, on_failure="restart")
vec.reset()
os.kill(vec._workers[1].process.pid, signal.SIGKILL)
resource.setrlimit(resource.RLIMIT_NOFILE, (left()[1] - 4, 4096))
try:
    vec.step([0, 0, 0])
except OSError as error:
    print(error)
try:
    vec.step([0, 0, 0])
except fastvec.ClosedError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
assert left() == before
""")
    assert "cannot start worker 1: Too many open files" in out and "after close(): make a new VecEnv" in out


# ---- processes -------------------------------------------------------------------------------------------------------

UNPRIVILEGED = IMPORTS + LEFT + """
import multiprocessing.popen_fork
fastvec.make(envs.Scripted, 1, on_failure="restart").close()  # imports what is needed while we may read it
nobody = 20000 + os.getpid() % 40000  # nobody else's: the limit is on all processes of a user; root has none
os.setresgid(nobody, nobody, nobody)
os.setresuid(nobody, nobody, nobody)
before = left()
def allow(tasks):
    resource.setrlimit(resource.RLIMIT_NPROC, (len(os.listdir("/proc/self/task")) + tasks, 4096))
resource.setrlimit(resource.RLIMIT_NPROC, (4096, 4096))
"""


@ROOT
def test_processes_run_out():
    """At the fork or at one of the worker's threads."""
    out = run(UNPRIVILEGED + """
told = 0
for tasks in range(8):
    allow(tasks)
    try:
        fastvec.make(envs.Scripted, 3).close()
    except OSError as error:
        assert "no more processes are allowed (ulimit -u, or pids.max of the container): each worker is one of 3 threads" in str(error), error
        told += 1
    assert left() == before, (tasks, left(), before)
allow(9 + 3)
with fastvec.make(envs.Scripted, 3) as vec:
    vec.reset()
print(told)
""")
    assert out == "8\n"


@ROOT
def test_no_process_for_a_restart():
    out = run(UNPRIVILEGED + """
vec = fastvec.make(envs.Scripted, 2, on_failure="restart")
vec.reset()
allow(0)
os.kill(vec._workers[1].process.pid, signal.SIGKILL)
try:
    vec.step([0, 0])
except OSError as error:
    print(error)
assert left() == before
""")
    assert "cannot start worker 1: Resource temporarily unavailable; no more processes are allowed" in out


def test_hundreds_of_workers():
    out = run(IMPORTS + """
from fastvec_c.probe import Probe
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
with fastvec.make(Probe, 200, num_envs=400, batch_size=100) as vec:
    vec.reset()
    for _ in range(3):
        vec.send(np.ones(400, np.int64))
        for _ in range(40):
            batch = vec.recv()
            assert batch.rewards.sum() == 100 and len(set(batch.rows)) == 100
            vec.send(np.ones(100, np.int64))
        vec.reset()
    print(sum(w.steps for w in vec.stats().workers))
assert not psutil.Process().children()
""")
    assert int(out) == 3 * (200 + 40 * 50)


# ---- CPUs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quota, workers", [(0.5, 2), (1.0, 2), (1.5, 1)])
def test_a_quota_below_the_runnable_processes(monkeypatch, quota, workers):
    """Nobody spins: it would be taken off the quota.  (tests of how it is read: test_machine.py)"""
    monkeypatch.setattr(machine, "cgroup_quota", lambda: quota)
    assert machine.usable_cpus() <= quota
    with fastvec.make(Probe, workers) as vec:
        vec.reset()
        assert vec.policy == waiting.CROWDED and vec.policy.spin_us == 0
    assert len(fastvec.factory._one_for_each_env(Probe, "auto", None, None)) == 1


@pytest.fixture
def cpu_cgroup():
    """A cgroup whose quota is half a CPU."""
    v1 = Path("/sys/fs/cgroup/cpu")
    group = (v1 if v1.is_dir() else Path("/sys/fs/cgroup")) / f"fastvec-test-{os.getpid()}"
    try:
        group.mkdir()
        if v1.is_dir():
            (group / "cpu.cfs_period_us").write_text("100000")
            (group / "cpu.cfs_quota_us").write_text("50000")
        else:
            (group / "cpu.max").write_text("50000 100000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"cannot make a cgroup with a CPU quota: {error}")
    yield group
    group.rmdir()


def test_a_real_quota(cpu_cgroup):
    """Most of what is taken off the quota is the envs' work."""
    out = run(f"""
open({str(cpu_cgroup / "cgroup.procs")!r}, "w").write(str(os.getpid()))
{IMPORTS}
from fastvec_c.probe import Probe
from fastvec.machine import usable_cpus
print(usable_cpus())
def cpu_seconds():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
before = cpu_seconds()
with fastvec.make(lambda: Probe(work_us=1000), 2) as vec:
    print(vec.policy.spin_us)
    vec.reset()
    for _ in range(200):
        vec.step([0, 0])
print(cpu_seconds() - before)
""")
    cpus, spin_us, used = map(float, out.split())
    assert (cpus, spin_us) == (0.5, 0) and 0.4 <= used < 1.2  # seconds; the envs' are 0.4, starting the workers is in it


@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
@pytest.mark.parametrize("options", ["", "batch_size=2", "batch_size=2, zero_copy=True"])
def test_one_core(options):
    """Whoever waits lets the others have the CPU, and is not called for nothing: about one turn for each step."""
    out = run(IMPORTS + f"""
from fastvec_c.probe import Probe
with fastvec.make(Probe, 4, {options}) as vec:
    vec.async_reset()
    for _ in range(500):
        vec.send(np.zeros(len(vec.recv().rows), np.int64))
    turns = sum(sum(psutil.Process(w.process.pid).num_ctx_switches()) for w in vec._workers)
    print(turns / sum(w.steps for w in vec.stats().workers))
""", "taskset", "-c", str(min(os.sched_getaffinity(0))))
    assert float(out) < 5


# ---- places for files ------------------------------------------------------------------------------------------------

NAMESPACE = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True).returncode != 0,
    reason="cannot mount in a namespace of our own",
)


@NAMESPACE
@pytest.mark.parametrize("kind", ["ro", "size=4k"])
def test_no_room_in_tmp_and_shm(kind):
    """The arena has no need of /dev/shm; only a fork server needs a place for its socket, and says so."""
    if any(str(path).startswith(("/tmp/", "/var/tmp/")) for path in (sys.executable, fastvec.__file__, np.__file__)):
        pytest.skip("what is to be run lies in the place that is to be full")
    full = "" if kind == "ro" else "; head -c 4096 /dev/zero > $d/fill"
    out = run(IMPORTS + """
for method in ("fork", "spawn", "forkserver"):
    try:
        with fastvec.make(envs.Scripted, 2, start_method=method) as vec:
            vec.reset()
            vec.step([0, 0])
            print("ok")
    except OSError as error:
        print(error)
""", "unshare", "-m", "sh", "-c", f'for d in /dev/shm /var/tmp /tmp; do mount -t tmpfs -o {kind} none $d{full}; done; cd /proc; exec "$@"', "sh")
    assert out.splitlines()[:2] == ["ok", "ok"]
    assert "cannot start worker 0: No usable temporary directory" in out and "needs a temporary directory that can be written" in out


def test_long_name_of_the_temporary_directory(tmp_path):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    out = run(IMPORTS + """
try:
    fastvec.make(envs.Scripted, 2, start_method="forkserver")
except OSError as error:
    print(error)
""", "env", f"TMPDIR={long}")
    assert "AF_UNIX path too long; the fork server could not be reached: it needs a temporary directory" in out and "TMPDIR" in out


# ---- kernels that lack something -------------------------------------------------------------------------------------

STRESS = Path(__file__).parents[1] / "stress/mailbox_stress.c"


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_handoff_without_futex(tmp_path):
    """As on other systems than Linux; under ThreadSanitizer in tests/stress/run.sh."""
    source = Path(__file__).parents[2] / "fastvec_c"
    program = str(tmp_path / "stress")
    subprocess.run(["cc", "-std=gnu11", "-O2", "-DFV_NO_FUTEX", f"-I{source}", STRESS, "-o", program, "-pthread"], check=True)
    for policy in range(4):
        subprocess.run([program, "3", "500", str(policy), "1"], check=True, capture_output=True, timeout=60)


def test_without_pidfds(monkeypatch):
    """Before Linux 5.3: the workers' own end of a pipe tells of their death, and they look whether the trainer lives."""
    from fastvec_c import watchdog

    monkeypatch.setattr(watchdog, "open_pidfd", lambda pid: -1)
    with fastvec.make(envs.Scripted, 2, on_failure="restart") as vec:
        vec.reset()
        os.kill(vec._workers[1].process.pid, 9)
        for _ in range(3):
            vec.step([0, 0])
        assert vec.stats().workers[1].restarts == 1
    vec = fastvec.make(envs.Trapped(envs.segfault), 2)
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match="SIGSEGV"):
        for _ in range(3):
            vec.step([0, 0])
