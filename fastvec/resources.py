"""What the system may refuse, found out beforehand where that is possible, and what to do about it."""
from __future__ import annotations

import errno
import os
import resource

from fastvec.machine import memory_rooms

# Of the trainer's, for each worker: its pipe, the crash log, its stderr, its pidfd, and two of multiprocessing's.
DESCRIPTORS = 6
_SPARE = 12  # what starting the last worker, a fork server and the arena take beside, for a moment or for good
_THREADS = 3  # of a worker: its own, the watchdog, the copier of stderr

_ADVICE = {
    errno.EMFILE: f"this process may not open more files (ulimit -n): each worker takes {DESCRIPTORS}",
    errno.ENFILE: "the system may not open more files (/proc/sys/fs/file-max)",
    errno.EAGAIN: f"no more processes are allowed (ulimit -u, or pids.max of the container): each worker is one of {_THREADS} threads",
    errno.ENOMEM: "memory is short, or may not be taken (ulimit -v, vm.overcommit_memory); start_method='forkserver' copies less of this process",
    errno.EFBIG: "files may not be so large (ulimit -f), memory files included",
}


def check_memory(nbytes: int, rows: int, slots: int):
    """To be called before an arena of `nbytes` is made.

    Raises:
        MemoryError: it would not fit; says which limit is in the way.
    """
    room, limit = min(memory_rooms())
    if nbytes > room:
        raise MemoryError(
            f"the arena needs {_mib(nbytes)} ({rows} rows in {slots} slots), {_mib(room)} are available{limit and f' under {limit}'}; "
            f"make fewer envs, or fewer slots (a shorter horizon){limit and ', or raise that limit'}"
        )


def _mib(nbytes) -> str:
    return f"{max(0, nbytes) / 2**20:.0f} MiB"


def check_descriptors(num_workers: int):
    """To be called before workers are started: multiprocessing does not take it well when it runs out of descriptors.

    Raises:
        OSError: they would need more than there are.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        taken = sum(int(fd) < limit for fd in os.listdir("/proc/self/fd"))
    except OSError:
        return
    needed = taken + DESCRIPTORS * num_workers + _SPARE
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise OSError(
            errno.EMFILE,
            f"num_workers={num_workers} needs {needed} file descriptors, {DESCRIPTORS} for each worker beside those in use; this process may "
            f"have {limit}: raise the limit (ulimit -n {needed}), or make fewer workers with more envs each"
        )


def cannot_start(error: Exception, worker: int, start_method: str = "") -> OSError:
    """The error that says why a worker could not be started, and what to do.  `start_method`: if it failed in being started by it."""
    number = getattr(error, "errno", None)
    advice = _ADVICE.get(number)
    if advice is not None:
        advice += "; raise that limit, or make fewer workers with more envs each"
    elif start_method == "forkserver":
        advice = ("the fork server could not be reached: it needs a temporary directory that can be written and whose name is short "
                  "(TMPDIR), and ends when it runs out of processes, files or memory")
    text = f"cannot start worker {worker}: {getattr(error, 'strerror', None) or error or type(error).__name__}"
    text = f"{text}; {advice}" if advice else text
    return OSError(number, text) if number else OSError(text)
