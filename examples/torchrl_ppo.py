"""TorchRL's PPO on CartPole-v1, its envs in fastvec's workers.

    python examples/torchrl_ppo.py [frames]
"""
import sys

import gymnasium
import torch
from fastvec.torchrl import VecEnv
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import RewardSum, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


def network(outputs):
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


def train(frames, num_workers="auto", seed=1):
    """The mean return of the episodes that ended in the last 16,000 frames."""
    torch.manual_seed(seed)
    env = TransformedEnv(VecEnv(lambda: gymnasium.make("CartPole-v1"), num_workers, num_envs=8, seed=seed), RewardSum())
    actor = ProbabilisticActor(
        TensorDictModule(network(2), ["observation"], ["logits"]), ["logits"], distribution_class=Categorical, return_log_prob=True
    )
    critic = ValueOperator(network(1))
    advantage = GAE(gamma=0.98, lmbda=0.8, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.0, critic_coeff=0.5)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    collector = Collector(env, actor, frames_per_batch=1024, total_frames=frames)
    returns = []
    for batch in collector:
        returns.append(batch["next", "episode_reward"][batch["next", "done"]])
        for _ in range(10):
            with torch.no_grad():
                advantage(batch)
            for part in batch.reshape(-1)[torch.randperm(batch.numel())].split(256):
                losses = loss(part)
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    return torch.cat(returns[-16:]).mean().item()


if __name__ == "__main__":
    print(f"mean return: {train(int(sys.argv[1]) if len(sys.argv) > 1 else 80_000):.0f} of 500")
