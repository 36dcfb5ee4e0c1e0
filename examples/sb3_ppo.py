"""Stable-Baselines3's PPO on CartPole-v1, its envs in fastvec's workers.

    python examples/sb3_ppo.py [steps]
"""
import sys

import fastvec.sb3
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize


def train(steps, num_workers="auto", seed=1):
    """The mean return of 20 episodes of what PPO has learned."""
    envs = VecNormalize(fastvec.sb3.make_vec_env("CartPole-v1", n_envs=8, seed=seed, num_workers=num_workers), norm_reward=False)
    try:
        model = PPO("MlpPolicy", envs, n_steps=32, batch_size=256, n_epochs=20, gae_lambda=0.8, gamma=0.98, ent_coef=0.0,
                    learning_rate=1e-3, seed=seed, device="cpu")
        model.learn(steps)
        envs.training = False
        return evaluate_policy(model, envs, 20)[0]
    finally:
        envs.close()


if __name__ == "__main__":
    print(f"mean return: {train(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000):.0f} of 500")
