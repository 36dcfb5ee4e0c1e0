"""The demonstration policy: what its prior wants, and that seeds decide the rest."""
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastvec.drive.policy needs torch: pip install 'fastvec[demo]'")

from fastvec.drive.policy import GOAL, LENGTH, SPEED, DemoPolicy, GoalPrior


def likeliest(speed, goal_x, goal_y):
    """(acceleration, bend) that the prior likes best for a car of 4.5 m."""
    rows = torch.zeros(1, 2984)
    rows[0, [0, 1, 3, 4]] = torch.tensor([speed / SPEED, 4.5 / LENGTH, goal_x / GOAL, goal_y / GOAL])
    prior = GoalPrior()
    acceleration, steer = divmod(int(prior(rows).argmax()), 13)
    return float(prior.accelerations[acceleration]), float(prior.bend[steer])


@pytest.mark.parametrize("speed, goal, acceleration, bend", [
    (5, (80, 0), 1, 0), (28, (10, 0), -1, 0), (5, (20, 20), 1, 1), (5, (20, -20), 1, -1), (5, (-30, 1), 1, 1),
])
def test_prior_seeks_the_goal(speed, goal, acceleration, bend):
    found = likeliest(speed, *goal)
    assert np.sign(found[0]) == acceleration
    assert (abs(found[1]) < 1e-5) if bend == 0 else np.sign(found[1]) == bend


def test_seed_decides_the_actions():
    rows = np.random.default_rng(0).normal(size=(50, 2984)).astype(np.float32)
    first, second, other = (DemoPolicy(seed)(rows) for seed in (1, 1, 2))
    assert first.dtype == np.int64 and first.shape == (50,) and 0 <= first.min() and first.max() < 91
    assert (first == second).all() and (first != other).any()
