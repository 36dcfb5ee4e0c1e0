import sys
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="needs Stable-Baselines3: pip install 'fastvec[sb3]'")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import sb3_ppo


def test_it_learns_the_same_in_workers(nothing_left_behind):
    here, in_workers = (sb3_ppo.train(15_000, num_workers) for num_workers in (0, 2))
    assert here == in_workers > 100
