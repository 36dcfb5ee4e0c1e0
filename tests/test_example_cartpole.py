"""The worked example of the ABI: copied, built against the installed header, vectorized."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import fastvec

EXAMPLE = Path(__file__).parent.parent / "examples" / "compiled_cartpole"


@pytest.fixture(scope="module")
def CartPole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cartpole")
    for file in ("cartpole.pyx", "setup.py"):
        shutil.copy(EXAMPLE / file, folder)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    build = subprocess.run([sys.executable, "setup.py", "build_ext", "--inplace"], cwd=folder, env=env, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    sys.path.insert(0, str(folder))
    from cartpole import CartPole

    yield CartPole
    sys.path.remove(str(folder))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_balances_like_gymnasiums(CartPole, num_workers):
    """The same states and ends, set off from the same start."""
    reference = [gymnasium.make("CartPole-v1").unwrapped for _ in range(6)]
    with fastvec.make(lambda: CartPole(poles=3), num_workers, num_envs=2, seed=4) as vec:
        observations, _ = vec.reset()
        ends = 0
        for env, start in zip(reference, observations):
            env.reset()
            env.state = start.astype(np.float64)
        rng = np.random.default_rng(0)
        for _ in range(300):
            actions = rng.integers(0, 2, 6)
            observations, rewards, terminations, truncations, _ = vec.step(actions)
            for i, env in enumerate(reference):
                expected, _, terminated, *_ = env.step(int(actions[i]))
                assert terminations[i] == terminated and rewards[i] == 1 and not truncations[i]
                if terminated:
                    ends += 1
                    assert (abs(observations[i]) <= 0.05).all()
                    env.reset()
                    env.state = observations[i].astype(np.float64)
                else:
                    np.testing.assert_allclose(observations[i], expected, rtol=1e-4, atol=1e-5)
    assert ends > 20


def test_truncates_and_repeats(CartPole):
    def run():
        """Balances with a hand-set controller; (steps at which the pole was truncated, a sum of all it saw)."""
        with fastvec.make(CartPole, 1, seed=1) as vec:
            observations, _ = vec.reset()
            at, total = [], 0.0
            for t in range(1200):
                x, x_dot, theta, theta_dot = observations[0]
                observations, _, terminations, truncations, _ = vec.step([int(theta + 0.3 * theta_dot + 0.05 * x + 0.1 * x_dot > 0)])
                assert not terminations[0]
                total += float(observations.sum())
                at += [t] if truncations[0] else []
        return at, total

    first = run()
    assert first[0] == [499, 999] and first == run()
