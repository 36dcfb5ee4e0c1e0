"""Rollouts from several Ray actors, each with fastvec workers of its own.

    python examples/ray_actors.py [actors]
"""
import sys

import fastvec
import gymnasium
import numpy as np
import ray


def creator():
    return gymnasium.make("CartPole-v1")


@ray.remote(num_cpus=1)
class Sampler:
    """Samples with a linear policy; its workers end with it."""

    def __init__(self, seed, num_workers=2, num_envs=8):
        self.vec = fastvec.make(creator, num_workers, num_envs=num_envs, seed=seed)
        self.observations, _ = self.vec.reset()

    def rollout(self, weights, horizon):
        """(observations [horizon, envs, 4], rewards [horizon, envs], dones): copies, which Ray carries away"""
        told = []
        for _ in range(horizon):
            before = self.observations.copy()
            self.observations, rewards, terminations, truncations, _ = self.vec.step((before @ weights > 0).astype(int))
            told.append((before, rewards.copy(), terminations | truncations))
        return tuple(map(np.stack, zip(*told)))


def sample(actors, horizon=100):
    """The mean reward per step and the number of episodes, over all actors."""
    samplers = [Sampler.remote(seed) for seed in range(actors)]
    rollouts = ray.get([s.rollout.remote(np.array([0.1, 0.5, 1.0, 1.0]), horizon) for s in samplers])
    rewards, dones = (np.concatenate([r[k] for r in rollouts], 1) for k in (1, 2))
    return rewards.mean(), int(dones.sum())


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    reward, episodes = sample(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    print(f"reward per step {reward:.2f}, {episodes} episodes ended")
