import sys
from pathlib import Path

import pytest

pytest.importorskip("gymnasium", minversion="1.0", reason="needs gymnasium: pip install 'fastvec[gym]'")
pytest.importorskip("torch", reason="needs torch")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import cleanrl_ppo


def test_both_vectorizers_learn_the_same():
    sync, ours = (cleanrl_ppo.train(vec, num_envs=2, total_steps=2048, seed=3) for vec in ("sync", "fastvec"))
    assert len(sync) > 20 and ours == sync
