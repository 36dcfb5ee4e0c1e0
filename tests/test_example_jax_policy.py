import sys
from pathlib import Path

import pytest

pytest.importorskip("jax", reason="needs JAX: pip install 'fastvec[jax]'")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import jax_policy


def test_it_finds_something(nothing_left_behind):
    assert jax_policy.search(6, num_workers=2) > 100
