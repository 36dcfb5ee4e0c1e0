"""fastvec.make's arguments, good and bad in all combinations: what is wrong is refused by name, before any process is started and
any env is made; what is right gets so far that one would be.

FASTVEC_FUZZ=N runs more examples than the usual ones.
"""
import os

import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import fastvec
from fastvec import factory, process

EXAMPLES = int(os.environ.get("FASTVEC_FUZZ", 0))
USABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
NAN, INF = float("nan"), float("inf")


class Started(Exception):
    """A process would be started, or an env made, now."""


def start(*_):
    raise Started


class Strange:
    """Compares with nothing, is neither true nor false."""

    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    __hash__ = None

    def __bool__(self):
        raise RuntimeError("neither true nor false")


EVERYWHERE = [Strange(), np.array([1, 2]), np.zeros(0), object(), {}, [[]], b"x", 1j]
NO_COUNT = [*EVERYWHERE, -1, 0, 1.5, "2", True, NAN, [1]]
NO_TIME = [*EVERYWHERE, 0, -1, NAN, "1", True, [1.0], -INF]
NO_CHOICE = [*EVERYWHERE, None, "", "never", 1, True]
NO_FLAG = [*EVERYWHERE, None, 0, 1, "no", 1.0]

# argument: (good values, bad values)
VALUES = {
    "creator": ([start, [start] * 2, (start,) * 4, [start] * 6], [None, 5, "CartPole-v1", [], [None], [start, 3], object(), {}, np.zeros(2)]),
    "num_workers": ([0, 1, 2, 3, 4, np.int64(2), "auto"], [*EVERYWHERE, -1, 1.5, "many", "2", None, True, 1025, 10**30, NAN]),
    "num_envs": ([None, 1, 2, 3, 4, 6, 12, np.int8(4)], [*NO_COUNT, 10**30]),
    "envs_per_worker": ([None, 1, 2, 3, np.uint16(2)], [*NO_COUNT, 10**30]),
    "batch_size": ([None, 1, 2, 3, 4, 6, np.int64(2)], NO_COUNT),
    "zero_copy": ([False, True, np.bool_(True)], NO_FLAG),
    "in_order": ([False, True, np.bool_(False)], NO_FLAG),
    "seed": ([None, 0, 7, np.int64(3), np.uint64(9), 2**62 - 1], [*EVERYWHERE, -1, 1.5, "a", True, 2**62, [1, 2], NAN]),
    "slots": ([None, 1, 2, 5, np.int64(3)], NO_COUNT),
    "horizon": ([None, None, 1, 5, np.int8(127)], NO_COUNT),
    "double_buffer": ([False, False, True], NO_FLAG),
    "trainer_fields": ([None, {}, {"values": ((), "float32")}, {"values": fastvec.Spec((2,))}],
                       [Strange(), 5, "values", [1], {1: ((), "f4")}, {"": ((), "f4")}, {"v": 3}, {"v": ((0,), "f4")}, {"v": ((), "O")}]),
    "autoreset": (["next_step", "same_step", "disabled"], NO_CHOICE),
    "wait": (["auto", "spin", "yield", "park", fastvec.WaitPolicy(yields=3)], NO_CHOICE),
    "start_method": ([None, "fork"], [x for x in NO_CHOICE if x is not None]),
    "affinity": ([None, "cores", *([c] * n for n in (1, 2, 3) for c in USABLE[:1]), [tuple(USABLE[:2])] * 2],
                 [Strange(), np.zeros(5), "far", "", 5, True, b"xy", object(), [[]], ["a"], [10**9, 0], [[0], [10**9]], [Strange()], [None, None], [0.5]]),
    "timeout": ([None, 1, 0.5, INF, 10**400, np.float32(2), np.int64(5)], NO_TIME),
    "on_failure": (["raise", "restart", "drop"], NO_CHOICE),
    "max_restarts": ([1, 10, np.int64(3)], [*NO_COUNT, None]),
    "restart_window": ([1, 0.5, INF, np.float64(3)], [*NO_TIME, None]),
    "debug": ([False, True, np.bool_(False)], NO_FLAG),
}


CONTRADICT = {"num_workers", "num_envs", "envs_per_worker", "batch_size", "affinity", "on_failure", "double_buffer", "slots"}


@st.composite
def arguments(draw):
    """(arguments, names of the bad ones): some left out, mostly good."""
    given, bad = {}, set()
    for name, (good, wrong) in VALUES.items():
        kind = draw(st.integers(0, 30))
        if name == "creator" or kind < 12:
            given[name] = draw(st.sampled_from(good))
        elif kind == 30:
            given[name] = draw(st.sampled_from(wrong))
            bad.add(name)
    if draw(st.booleans()) and not bad:  # one for certain
        name = draw(st.sampled_from(list(VALUES)))
        given[name] = draw(st.sampled_from(VALUES[name][1]))
        bad.add(name)
    return given, bad


def contradictions(a):
    """Names of which one must be in the error for arguments that are good one by one; empty if they go together; None if that
    depends on the machine."""
    envs, per_worker, batch = (None if a.get(k) is None else int(a[k]) for k in ("num_envs", "envs_per_worker", "batch_size"))
    workers = a.get("num_workers", "auto")
    listed = len(a["creator"]) if isinstance(a["creator"], (list, tuple)) else None
    affinity, mended = a.get("affinity"), a.get("on_failure", "raise") != "raise"
    if a.get("horizon") is None and a.get("double_buffer") or a.get("horizon") is not None and a.get("slots") is not None:
        return {"double_buffer", "slots"}
    if listed and envs not in (None, listed):
        return {"num_envs"}
    if isinstance(workers, str):
        n = listed or envs
        if n is None and (batch or per_worker):  # it depends on the machine
            return None
        if per_worker is None:
            wrong = set()
            if affinity is not None and not isinstance(affinity, str):
                wrong.add("affinity")
            if batch and (batch > n or a.get("zero_copy", False) and n % batch):
                wrong.add("batch_size")
            return wrong
        workers = -(-n // per_worker)
    else:
        n = listed or envs or (workers or 1) * (per_worker or 1)
    units, wrong = workers or 1, set()
    if n % units:
        wrong.add("num_workers")
    if per_worker is not None and per_worker * units != n:
        wrong |= {"envs_per_worker", "num_workers"}
    if batch and n % units == 0 and (batch % (n // units) or batch > n or a.get("zero_copy", False) and n % batch):
        wrong.add("batch_size")
    if affinity is not None and not isinstance(affinity, str) and len(affinity) != workers:
        wrong.add("affinity")
    if workers == 0 and mended:
        wrong.add("on_failure")
    return wrong


@pytest.fixture
def nothing_starts(monkeypatch):
    monkeypatch.setattr(process.Worker, "__init__", start)
    monkeypatch.setattr(factory, "_host_here", start)


@settings(max_examples=EXAMPLES or 1000, derandomize=not EXAMPLES, deadline=None, database=None, phases=[Phase.generate] + [Phase.shrink] * bool(EXAMPLES),
          suppress_health_check=list(HealthCheck))
@given(drawn=arguments())
def test_what_is_wrong_is_refused_by_name(nothing_starts, drawn):
    given, bad = drawn
    culprits = bad | CONTRADICT if bad else contradictions(given)
    if culprits is None:
        return
    if not culprits:
        with pytest.raises(Started):
            fastvec.make(**given)
        return
    with pytest.raises((ValueError, TypeError)) as error:
        fastvec.make(**given)
    assert any(name in str(error.value) for name in culprits), f"{error.value!s:.300} names none of {culprits}"


@pytest.mark.parametrize("name", VALUES)
def test_each_bad_value(nothing_starts, name):
    """By itself, with and without workers, and where make chooses how many."""
    good = {"creator": start}
    for value in VALUES[name][1]:
        for num_workers in (0, 2, "auto"):
            with pytest.raises((ValueError, TypeError), match=name):
                fastvec.make(**{**good, "num_workers": num_workers, name: value})


def test_a_wrong_name():
    with pytest.raises(TypeError, match="num_worker"):
        fastvec.make(start, num_worker=2)
