"""PufferLib's own trainer on fastvec's workers: PPO learns CartPole on the CPU, in ten seconds.

    python examples/puffer_train.py
    python examples/puffer_train.py --backend Serial        # the same with a backend of PufferLib's

Needs PufferLib with its trainer: docs/pufferlib.md says how to install it.
"""
import argparse
import tempfile

import gymnasium
import pufferlib.emulation
import pufferlib.models
import pufferlib.vector
import torch
from pufferlib import pufferl
from pufferlib.pufferlib import EpisodeStats

import fastvec.puffer

CONFIG = dict(  # the names, and mostly the values, of PufferLib's default.ini
    seed=42, torch_deterministic=True, cpu_offload=False, device="cpu", precision="float32", compile=False, use_rnn=False,
    optimizer="adam", learning_rate=0.005, anneal_lr=True, adam_beta1=0.9, adam_beta2=0.999, adam_eps=1e-8,
    gamma=0.98, gae_lambda=0.9, update_epochs=4, clip_coef=0.2, vf_coef=1.0, vf_clip_coef=0.2, max_grad_norm=1.5,
    ent_coef=0.001, vtrace_rho_clip=1.0, vtrace_c_clip=1.0, prio_alpha=0.0, prio_beta0=1.0,
    batch_size="auto", minibatch_size=1024, max_minibatch_size=1024, bptt_horizon=64, checkpoint_interval=10_000,
)


def creator(buf=None, seed=0):
    """One env in PufferLib's way: `buf` is passed on."""
    return pufferlib.emulation.GymnasiumPufferEnv(env=EpisodeStats(gymnasium.make("CartPole-v1")), buf=buf, seed=seed)


def advantages(values, rewards, terminals, ratio, out, gamma, gae_lambda, rho_clip, c_clip):
    """What PufferLib's compiled kernel computes, [segments, horizon] each: V-trace's correction of GAE."""
    rho, c = ratio.clamp(max=rho_clip), ratio.clamp(max=c_clip)
    last = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1] - 1)):
        discount = gamma * (1 - terminals[:, t + 1])
        error = rho[:, t] * (rewards[:, t + 1] + discount * values[:, t + 1] - values[:, t])
        last = error + discount * gae_lambda * c[:, t] * last
        out[:, t] = last
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--backend", default="Fastvec", help="a name in pufferlib.vector (default: Fastvec)")
    p.add_argument("--timesteps", type=int, default=150_000)
    args = p.parse_args()
    torch.manual_seed(CONFIG["seed"])

    if not getattr(pufferl, "_C_AVAILABLE", True):  # the wheel's kernel needs the CUDA torch that it was built for
        pufferl.compute_puff_advantage = advantages
    fastvec.puffer.install()  # from here on "Fastvec" is a backend of PufferLib's
    vecenv = pufferlib.vector.make(creator, backend=args.backend, num_envs=32, num_workers=2, batch_size=16)
    policy = pufferlib.models.Default(vecenv.driver_env, hidden_size=64)
    with tempfile.TemporaryDirectory() as folder:
        config = dict(CONFIG, total_timesteps=args.timesteps, data_dir=folder, env="CartPole-v1")
        trainer = pufferl.PuffeRL(config, vecenv, policy)
        means = []
        try:
            while trainer.global_step < args.timesteps:
                lengths = trainer.evaluate()["episode_length"]
                means += [sum(lengths) / len(lengths)] if lengths else []
                trainer.train()
        finally:
            trainer.close()  # closes the vecenv too, and ends the trainer's own thread
    print(f"{trainer.global_step} steps on {vecenv}: episodes grew from {means[0]:.0f} steps to {max(means):.0f}")


if __name__ == "__main__":
    main()
