"""How much of this machine we may use."""
from __future__ import annotations

import math
import os
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
    try:
        lines = Path(proc).read_text().splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quota = min(quota, _tightest(Path(root), path, _quota_v2))
        elif "cpu" in controllers.split(","):
            quota = min(quota, *(_tightest(Path(root, name), path, _quota_v1) for name in (controllers, "cpu")))
    return quota


def _tightest(mount: Path, path: str, quota_of) -> float:
    """The least quota of a cgroup and its parents.  Inside a container `path` may lie above the mount: then only the
    mount itself can be read."""
    group = mount / path.lstrip("/")
    chain = [group, *(p for p in group.parents if p.is_relative_to(mount))]
    return min(quota_of(p) for p in chain)


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
