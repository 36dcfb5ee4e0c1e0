import sys
from pathlib import Path

import psutil
import pytest

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'fastvec[ray]'")

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import ray_actors


def workers():
    return [p for p in psutil.process_iter(["cmdline", "name"]) if "Sampler" in " ".join(p.info["cmdline"] or ())]


def test_actors_sample_and_leave_nothing():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": ":".join(sys.path)}})
    try:
        reward, episodes = ray_actors.sample(2, 50)
        assert reward == 1 and episodes >= 0
        assert len(workers()) >= 2
    finally:
        ray.shutdown()
    gone, alive = psutil.wait_procs(workers(), timeout=20)
    assert not alive
