import sys
from pathlib import Path

import pytest

pytest.importorskip("pettingzoo", reason="needs PettingZoo: pip install 'fastvec[pettingzoo]'")
pytest.importorskip("pygame", reason="needs pettingzoo[butterfly]")
pytest.importorskip("pymunk", reason="needs pettingzoo[butterfly]")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import pettingzoo_archers


def test_every_agent_ends_an_episode(nothing_left_behind):
    here, in_workers = (pettingzoo_archers.play(400, num_workers) for num_workers in (0, 2))
    assert here == in_workers and set(here) == {"archer_0", "archer_1", "knight_0", "knight_1"}
