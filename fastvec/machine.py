"""How much of this machine we may use."""
from __future__ import annotations

import math
import os
import resource
import time
from pathlib import Path

import psutil

_CPU_CLOCK = 2  # CPUCLOCK_SCHED: what all threads of a process have used


def usable_cpus() -> float:
    """CPUs that this process may use: those of its affinity mask, or fewer where a cgroup's quota says so."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    return min(float(cpus), cgroup_quota())


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used so far, all its threads together; 0 for one that is gone.

    Source: clock_getcpuclockid(3), whose clock Linux makes of the process id (include/linux/posix-timers.h): exact to
    nanoseconds, where /proc counts in hundredths of a second.
    """
    try:
        return time.clock_gettime(~pid << 3 | _CPU_CLOCK)
    except (OSError, AttributeError):
        pass
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return times.user + times.system


def cgroup_quota(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float:
    """CPUs that the process's cgroups allow (v1 and v2, the tightest of the chain); infinity without a quota.

    Sources: Documentation/admin-guide/cgroup-v2.rst (cpu.max) and Documentation/scheduler/sched-bwc.rst
    (cpu.cfs_quota_us) of Linux.
    """
    return min(_along_cgroups("cpu", _quota_v1, _quota_v2, proc, root), default=math.inf)


def memory_rooms(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> list[tuple[float, str]]:
    """(bytes that this process and its children may still take, under which limit; "": all that the machine has) for each limit.

    Sources: Documentation/admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst (memory.limit_in_bytes) of Linux; of what a
    cgroup uses, cached files do not count, which the kernel drops when it needs room.  getrlimit(2): RLIMIT_AS limits every mapping,
    RLIMIT_FSIZE every file, memory files too.
    """
    rooms = [(float(psutil.virtual_memory().available), "")]
    cgroup = min(_along_cgroups("memory", _memory_v1, _memory_v2, proc, root), default=math.inf)
    rooms.append((cgroup, "the cgroup's memory limit (the container's, say)"))
    for which, used, name in ((resource.RLIMIT_AS, psutil.Process().memory_info().vms, "RLIMIT_AS (ulimit -v)"),
                              (resource.RLIMIT_FSIZE, 0, "RLIMIT_FSIZE (ulimit -f)")):
        limit, _ = resource.getrlimit(which)
        rooms.append((math.inf if limit == resource.RLIM_INFINITY else float(limit - used), name))
    return rooms


def _along_cgroups(controller: str, of_v1, of_v2, proc: str, root: str) -> list[float]:
    """What `of_v1` and `of_v2` say of the cgroups that this process is in, as far as they concern the controller, and of their parents."""
    try:
        lines = Path(proc).read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += map(of_v2, _chain(Path(root), path))
        elif controller in controllers.split(","):
            for name in {controllers, controller}:
                found += map(of_v1, _chain(Path(root, name), path))
    return found


def _chain(mount: Path, path: str) -> list[Path]:
    """A cgroup and its parents.  Inside a container `path` may lie above the mount: then only the mount itself can be read."""
    group = mount / path.lstrip("/")
    return [group, *(p for p in group.parents if p.is_relative_to(mount))]


def _quota_v2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def _quota_v1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return math.inf if quota <= 0 else quota / int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf


def _memory_v2(group: Path) -> float:
    try:
        limit = (group / "memory.max").read_text().strip()
        return math.inf if limit == "max" else int(limit) - int((group / "memory.current").read_text()) + _cached(group, "")
    except (OSError, ValueError):
        return math.inf


def _memory_v1(group: Path) -> float:
    try:
        limit = int((group / "memory.limit_in_bytes").read_text())  # enormous without one
        return limit - int((group / "memory.usage_in_bytes").read_text()) + _cached(group, "total_")
    except (OSError, ValueError):
        return math.inf


def _cached(group: Path, prefix: str) -> int:
    """Bytes of cached files."""
    wanted = (prefix + "active_file", prefix + "inactive_file")
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    return sum(int(count) for name, count in lines if name in wanted)
