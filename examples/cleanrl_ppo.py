"""PPO on CartPole-v1 in one file, CleanRL style.  `--vec` chooses what steps the envs, and is all that differs.

    python examples/cleanrl_ppo.py --vec fastvec
    python examples/cleanrl_ppo.py --vec sync
    python examples/cleanrl_ppo.py --vec both --plot curve.png
"""
import argparse
import time

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import fastvec.gym

VECTORIZERS = {"sync": gym.vector.SyncVectorEnv, "fastvec": fastvec.gym.VectorEnv}

STEPS, EPOCHS, MINIBATCHES = 128, 4, 4
GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, LEARNING_RATE = 0.99, 0.95, 0.2, 0.01, 0.5, 2.5e-4


def layer(inputs, outputs, gain=2 ** 0.5):
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    def __init__(self, observation_size, num_actions):
        super().__init__()
        self.actor = nn.Sequential(layer(observation_size, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, num_actions, 0.01))
        self.critic = nn.Sequential(layer(observation_size, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0))

    def forward(self, observations):
        return Categorical(logits=self.actor(observations)), self.critic(observations).squeeze(-1)


def train(vec, num_envs=4, total_steps=200_000, seed=1):
    """[(env steps so far, return of an episode that just ended)]"""
    torch.manual_seed(seed)
    envs = VECTORIZERS[vec]([lambda: gym.make("CartPole-v1")] * num_envs)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    agent = Agent(envs.single_observation_space.shape[0], int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(agent.parameters(), LEARNING_RATE, eps=1e-5)

    observations = torch.zeros(STEPS, num_envs, *envs.single_observation_space.shape)
    actions = torch.zeros(STEPS, num_envs, dtype=torch.int64)
    log_probs, rewards, values = (torch.zeros(STEPS, num_envs) for _ in range(3))
    starts = torch.zeros(STEPS + 1, num_envs)  # 1: this step only resets (autoreset in the next step), and is not learned from
    episodes = []
    observation, _ = envs.reset(seed=seed)
    start = np.zeros(num_envs)
    num_updates = total_steps // (STEPS * num_envs)
    for update in range(num_updates):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / num_updates)
        for t in range(STEPS):
            observations[t] = torch.as_tensor(observation)
            starts[t] = torch.as_tensor(start)
            with torch.no_grad():
                policy, values[t] = agent(observations[t])
                actions[t] = policy.sample()
                log_probs[t] = policy.log_prob(actions[t])
            observation, reward, terminations, truncations, infos = envs.step(actions[t].numpy())
            rewards[t] = torch.as_tensor(reward)
            start = terminations | truncations
            if "episode" in infos:
                at = (update * STEPS + t + 1) * num_envs
                episodes += [(at, float(r)) for r in infos["episode"]["r"][infos["_episode"]]]
        starts[STEPS] = torch.as_tensor(start)
        with torch.no_grad():
            next_value = agent(torch.as_tensor(observation))[1]
        advantages = estimate_advantages(rewards, values, starts, next_value)
        batch = [x.flatten(0, 1) for x in (observations, actions, log_probs, advantages, advantages + values)]
        learn(agent, optimizer, [x[starts[:STEPS].flatten() == 0] for x in batch])
    envs.close()
    return episodes


def estimate_advantages(rewards, values, starts, next_value):
    """Generalized advantage estimation; [STEPS, num_envs]."""
    advantages = torch.zeros_like(rewards)
    last = torch.zeros_like(next_value)
    for t in reversed(range(len(rewards))):
        following = next_value if t + 1 == len(rewards) else values[t + 1]
        goes_on = 1 - starts[t + 1]
        delta = rewards[t] + GAMMA * following * goes_on - values[t]
        advantages[t] = last = delta + GAMMA * LAMBDA * goes_on * last
    return advantages


def learn(agent, optimizer, batch):
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(batch[0])).chunk(MINIBATCHES):
            observations, actions, old_log_probs, advantages, returns = (x[rows] for x in batch)
            policy, values = agent(observations)
            ratio = (policy.log_prob(actions) - old_log_probs).exp()
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
            value_loss = 0.5 * (values - returns).square().mean()
            loss = policy_loss + VALUE * value_loss - ENTROPY * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def plot(curves, path, window=20):
    import matplotlib

    matplotlib.use("Agg")  # no display
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3), dpi=80)
    for width, (vec, episodes) in zip((4, 1), curves.items(), strict=False):  # the curves may be equal
        steps, returns = np.array(episodes).T
        smooth = np.convolve(returns, np.ones(window) / window, "valid")
        axes.plot(steps[window - 1:] / 1000, smooth, linewidth=width, label=vec)
    axes.set(xlabel="env steps, thousands", ylabel=f"return, mean of {window} episodes", title="PPO on CartPole-v1")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vec", choices=[*VECTORIZERS, "both"], default="fastvec")
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--total-steps", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", help="PNG of the learning curves (pip install matplotlib)")
    args = parser.parse_args()
    curves = {}
    for vec in VECTORIZERS if args.vec == "both" else [args.vec]:
        began = time.perf_counter()
        curves[vec] = train(vec, args.num_envs, args.total_steps, args.seed)
        returns = [r for _, r in curves[vec][-20:]]
        print(f"{vec}: {len(curves[vec])} episodes, the last {len(returns)} returned {np.mean(returns):.1f} on average, "
              f"{time.perf_counter() - began:.1f} s")
    if args.plot:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
