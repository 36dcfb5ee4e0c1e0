"""What all tests share."""
import gc
import os
import time

import psutil
import pytest


def memory_files():
    """The memory files of ours that this process maps or holds open."""
    with open("/proc/self/maps") as maps:
        mapped = sum("fastvec-" in line for line in maps)
    links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}"))
    return mapped, sum("fastvec-" in link for link in links)


def children():
    """Our child processes, zombies included, but for multiprocessing's own helpers."""
    return {p.pid for p in psutil.Process().children(recursive=True) if not _is_helper(p)}


def _is_helper(process):
    try:
        command = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
    return "resource_tracker" in command or "forkserver" in command


def pytest_collection_finish(session):
    """The libraries that test modules import (torch and others, millions of objects) are not looked through again by every
    collection of `nothing_left_behind`, which took most of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def nothing_left_behind():
    """After every test: no process, no memory file, no descriptor more than before."""
    gc.collect()
    before, files, fds = children(), memory_files(), len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    deadline = time.monotonic() + 10
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children() - before == set()
    while memory_files() > files and time.monotonic() < deadline:
        gc.collect()  # cycles that hold finalizers take more than one round
    assert memory_files() <= files
    assert len(os.listdir("/proc/self/fd")) <= fds + 4  # a fork server and a resource tracker stay
