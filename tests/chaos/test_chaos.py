"""A short run of chaos.py in every mode (`make chaos` is the long one)."""
import os
import sys

import numpy as np
import pytest
from fastvec_c.batch import Batch

sys.path.insert(0, os.path.dirname(__file__))
import chaos  # noqa: E402


@pytest.fixture(autouse=True)
def always(nothing_left_behind):
    pass


@pytest.mark.parametrize("agents", [1, 16])
@pytest.mark.parametrize("mode", chaos.MODES)
def test_survivors_rows_are_right_whatever_dies(mode, agents):
    referee, adversary, restarts = chaos.one_run(mode, 4, agents, kills=10, rows=300, seed=3, pause=0.05)
    assert referee.truncated >= agents and restarts >= 5  # a worker may be killed again before it begins


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("wait", ["spin", "park"])
def test_however_workers_are_started_and_wait(method, wait):
    referee, _, restarts = chaos.one_run("sync", 2, 4, kills=2, rows=200, seed=4, pause=0.3, start_method=method, wait=wait)
    assert restarts >= 1 and referee.truncated


def batch_of(referee, rows):
    """What the referee must accept as the first batch."""
    flags = np.zeros(len(rows), bool)
    observations = chaos.expected(rows.astype(np.uint32), referee.life[rows, None], referee.t[rows, None], referee.sums[rows])
    return Batch(observations, referee.t[rows].astype(np.float32), flags, flags.copy(), ~flags, {}, rows)


def test_the_referee_sees_a_wrong_row():
    """A test of the tests: one wrong number, one row shifted, one step repeated."""
    referee = chaos.Referee(3, 7)
    rows = np.arange(3)
    good = batch_of(referee, rows)
    referee.check(good, fresh=True)
    for damage in (lambda o: o.__setitem__((1, 40), 5), lambda o: o.__setitem__(slice(None), o[::-1].copy())):
        bad = batch_of(referee, rows)
        damage(bad.observations)
        with pytest.raises(AssertionError, match="observations of row"):
            referee.check(bad)
    referee.acted(rows, [1, 2, 3])
    with pytest.raises(AssertionError, match="observations of row 0, step 1"):
        referee.check(good)
