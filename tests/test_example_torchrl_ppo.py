import sys
from pathlib import Path

import pytest

pytest.importorskip("torchrl", reason="needs TorchRL: pip install 'fastvec[torchrl]'")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import torchrl_ppo


def test_it_learns(nothing_left_behind):
    assert torchrl_ppo.train(24_000, num_workers=2) > 60  # chance has 22
