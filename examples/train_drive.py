"""PPO in one file: many agents that share one network learn to drive, or one agent learns any gymnasium env.

    python examples/train_drive.py --minutes 19 --checkpoint driver.pt                  # fastvec's own driving worlds
    python examples/train_drive.py --env gpudrive --scenes data/processed/training      # the real GPUDrive
    python examples/train_drive.py --env CartPole-v1 --steps 100000
    python examples/train_drive.py --resume --checkpoint driver.pt --minutes 60         # goes on where it was
    fastvec eval driver.pt shipped --video driver.gif

Needs torch, tensorboard and rich: pip install 'fastvec[train]'.  docs/training.md tells what the settings do.
"""
import argparse
import json
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import fastvec
import fastvec.drive
from fastvec.drive import checkpoint as checkpoints
from fastvec.drive.network import DriveNetwork

WORLDS = ("drive", "gpudrive")
# Radians.  GPUDrive's own, 13 steps from -pi to pi, has three that turn a car gently: 0 and +-0.52, which is full lock.
STEERING = {"fine": (-0.6, -0.3, -0.15, -0.08, -0.04, -0.015, 0.0, 0.015, 0.04, 0.08, 0.15, 0.3, 0.6), "gpudrive": fastvec.drive.DriveConfig().steer_actions}


@dataclass(frozen=True)
class Settings:
    """What a run is told; each is a command line argument.  A checkpoint holds them, and is resumed with the same ones, `FREE` ones aside."""

    env: str = "drive"  # or gpudrive, or the id of a gymnasium env
    scenes: str = "shipped"  # of drive and gpudrive
    seed: int = 0
    minutes: float = 19.0  # of training, those before a resume included; rates fall with the time
    steps: int = 0  # agent-steps of training, in place of minutes: rates fall with them, and a run does not depend on the machine's speed
    workers: int = 2
    envs: int = 6  # worlds, or gymnasium envs, of each worker
    horizon: int = 91  # steps of a rollout; drive's episodes have 91
    reset_every: int = 1  # rollouts after which all episodes begin anew: the run can be resumed there
    learning_rate: float = 3e-4
    final_rates: float = 0.1  # what the learning rate and the entropy's weight fall to, as a share
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy_weight: float = 0.005
    gradient_norm: float = 0.5
    epochs: int = 3
    minibatch: int = 512  # agent-steps
    target_kl: float = 0.03  # an update ends after the epoch that went so far from the policy that collected
    progress_metres: float = 50.0  # each metre nearer to the goal is worth 1 / progress_metres; 0: nothing
    collision_weight: float = -0.75
    off_road_weight: float = -0.75
    steering: str = "fine"
    lstm: bool = False
    threads: int = 2

FREE = {"minutes", "steps", "workers", "threads"}  # may differ when a run goes on


# ---- envs, networks, actions: what differs between drive and gymnasium ----------------------------------------------------


def make_vec(settings):
    """(the VecEnv, the worlds' DriveConfig or None)"""
    options = dict(num_workers=settings.workers, horizon=settings.horizon, trainer_fields={"values": ((), "float32"), "log_probs": ((), "float32")})
    if settings.env not in WORLDS:
        return fastvec.make(lambda: gym.make(settings.env), num_envs=settings.envs * max(1, settings.workers), **options), None
    if settings.env == "drive":
        from fastvec.drive import creator
    else:
        from fastvec.gpudrive import creator
    config = fastvec.drive.DriveConfig(
        collision_behavior="remove", road_obs_algorithm="k_nearest_roadpoints", reward_type="weighted_combination",
        collision_weight=settings.collision_weight, off_road_weight=settings.off_road_weight, steer_actions=STEERING[settings.steering])
    worlds = settings.envs * max(1, settings.workers)
    more_scenes = len(fastvec.drive.scenes.find(settings.scenes)) > worlds  # than can be hosted at once: each episode draws one
    return fastvec.make(creator(settings.scenes, settings.envs, config, resample_every=int(more_scenes), sample_with_replacement=more_scenes), **options), config


class Categorical:
    """One of n actions; the network's outputs are logits."""

    def __init__(self, n):
        self.outputs = n

    def sample(self, logits, generator):
        # The largest of logits plus Gumbel noise is a sample of their softmax.
        return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(1)

    def log_prob(self, logits, actions):
        return logits.log_softmax(1).gather(1, actions[:, None]).squeeze(1)

    def entropy(self, logits):
        logs = logits.log_softmax(1)
        return -(logs.exp() * logs).sum(1)


class Gaussian:
    """Numbers; the network's outputs are their means and the logarithms of their standard deviations."""

    def __init__(self, n):
        self.outputs = 2 * n

    def _normal(self, outputs):
        mean, log_std = outputs.chunk(2, 1)
        return torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())

    def sample(self, outputs, generator):
        normal = self._normal(outputs)
        return normal.mean + normal.stddev * torch.randn(normal.mean.shape, generator=generator)

    def log_prob(self, outputs, actions):
        return self._normal(outputs).log_prob(actions).sum(1)

    def entropy(self, outputs):
        return self._normal(outputs).entropy().sum(1)


def make_actions(vec):
    """How actions are drawn, by the kind of the envs' action space."""
    space, spec = vec.single_action_space, vec.action_spec
    if isinstance(space, gym.spaces.Box):
        return Gaussian(int(np.prod(space.shape)))
    if spec.shape == () and spec.dtype.kind in "iu" and spec.low == 0:
        return Categorical(int(spec.high) + 1)
    raise SystemExit(f"--env: its action space is {space}: expected Discrete that begins with 0, or Box")


class MlpNetwork(nn.Module):
    """For vectors of numbers: the interface of DriveNetwork."""

    def __init__(self, spec, num_actions, hidden=64, recurrent=False):
        super().__init__()
        if spec.dtype.names is not None:
            raise SystemExit(f"--env: its observations are {spec.dtype}: wrap the env in gymnasium.wrappers.FlattenObservation")
        self.num_features, self.num_states = int(np.prod(spec.shape)), 2 * hidden if recurrent else 0
        self.layers = nn.Sequential(nn.Linear(self.num_features, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.memory = nn.LSTMCell(hidden, hidden) if recurrent else None
        self.action, self.value = nn.Linear(hidden, num_actions), nn.Linear(hidden, 1)
        for layer, gain in ((self.layers[0], 2 ** 0.5), (self.layers[2], 2 ** 0.5), (self.action, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def prepare(self, rows):
        return rows.flatten(1).float()

    def takes_part(self, rows):
        return torch.ones(len(rows), dtype=torch.bool)

    def embed(self, features):
        return self.layers(features)

    remember, decide, forward = DriveNetwork.remember, DriveNetwork.decide, DriveNetwork.forward


# ---- collecting ------------------------------------------------------------------------------------------------------


class Memory:
    """What a recurrent network knows of each row; with others, nothing."""

    def __init__(self, num_rows, num_states, waits):
        self.states = torch.zeros(num_rows, num_states)
        self.begins = torch.ones(num_rows, dtype=torch.bool)  # rows that have not acted in their episode yet
        self.ended = torch.zeros(num_rows, dtype=torch.bool)  # with the last step
        self.waits = waits  # after an episode's end comes a step that only resets the env

    def see(self, masks, ends):
        """The flags that came with observations: whose episode is yet to begin?"""
        acted = masks & ~self.ended if self.waits else masks
        self.begins, self.ended = self.begins & ~acted | ends, ends
        self.states[self.begins] = 0


def collect(vec, network, actions, memory, generator, settings):
    """A rollout, and of the agents that may take part in each of its steps: (step, row, features, action, begins).

    Returns:
        (Rollout, tensors, values [num_rows] of the last observations)
    """
    rollout, kept = vec.rollout(), []
    out = {name: torch.zeros(vec.num_rows) for name in ("values", "log_probs")}
    answers = torch.zeros(vec.num_rows, *vec.actions.shape[1:], dtype=torch.from_numpy(vec.actions).dtype)
    bounds = vec.single_action_space if isinstance(actions, Gaussian) else None
    with torch.inference_mode():
        for batch in rollout.collect():
            memory.see(torch.from_numpy(batch.masks), torch.from_numpy(batch.terminations | batch.truncations))
            rows = torch.from_numpy(batch.observations)
            who = network.takes_part(rows).nonzero().squeeze(1)
            features = network.prepare(rows[who])
            outputs, out["values"][who], memory.states[who] = network(features, memory.states[who])
            chosen = actions.sample(outputs, generator)
            out["log_probs"][who] = actions.log_prob(outputs, chosen)
            sent = chosen if bounds is None else torch.from_numpy(np.clip(chosen.numpy(), bounds.low.ravel(), bounds.high.ravel()))
            answers[who] = sent.view(-1, *answers.shape[1:]).to(answers.dtype)
            vec.send(answers.numpy(), {name: values.numpy() for name, values in out.items()})
            kept.append((torch.full_like(who, len(kept)), who, features, chosen, memory.begins[who]))
        ends = torch.from_numpy(rollout.terminations[-1] | rollout.truncations[-1])
        _, last_values, _ = network(network.prepare(torch.from_numpy(rollout.last_observations)), memory.states * ~ends[:, None])
    return rollout, [torch.cat(parts) for parts in zip(*kept)], last_values


def shaped_rewards(rollout, network, settings):
    """Rewards with what progress towards the goal is worth: the difference of potentials -metres / progress_metres, of a step (Ng, Harada,
    Russell 1999), undiscounted, and none in the step that ends an episode: its observation may be of another one, or of the goal reached."""
    rewards = rollout.rewards.copy()
    if settings.env in WORLDS and settings.progress_metres:
        before, after = (network.goal_distance(rows).numpy() for rows in (rollout.torch.observations, rollout.torch.next_observations))
        inside = rollout.masks & ~rollout.terminations & ~rollout.truncations
        rewards[inside] += (before - after)[inside] / settings.progress_metres
    return rewards


# ---- learning --------------------------------------------------------------------------------------------------------


@dataclass
class Data:
    """Agent-steps to learn from, in the order of time; all tensors [n, ...]."""

    step: torch.Tensor
    row: torch.Tensor
    features: torch.Tensor
    actions: torch.Tensor
    begins: torch.Tensor
    log_probs: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor

    def __getitem__(self, which):
        return Data(*(getattr(self, field.name)[which] for field in fields(self)))


def gather(rollout, kept):
    """Data of the steps that count: rows that took no part are dropped before anything is computed for them."""
    step, row, *rest = kept
    counts = rollout.torch.masks[step, row]
    step, row, *rest = (part[counts] for part in (step, row, *rest))
    own = rollout.torch.fields
    return Data(step, row, *rest, *(part[step, row] for part in (own["log_probs"], own["values"], rollout.torch.advantages, rollout.torch.returns)))


def minibatches(data, network, settings, generator):
    """Indices, in random order; of a recurrent network all steps of random rows."""
    if network.memory is None:
        return [part for part in torch.randperm(len(data.step), generator=generator).split(settings.minibatch)]
    rows = data.row.unique()
    share = max(1, len(rows) * settings.minibatch // len(data.row))
    return [torch.isin(data.row, part).nonzero().squeeze(1) for part in rows[torch.randperm(len(rows), generator=generator)].split(share)]


def outputs_of(network, data, states):
    """The network's outputs and values, again, step by step from `states` [num_rows, num_states] where it remembers."""
    embedded = network.embed(data.features)
    if network.memory is not None:
        remembered = []
        for part in torch.arange(len(embedded)).split(data.step.unique_consecutive(return_counts=True)[1].tolist()):
            row = data.row[part]
            now, new = network.remember(embedded[part], states[row] * ~data.begins[part, None])
            states = states.index_copy(0, row, new)
            remembered.append(now)
        embedded = torch.cat(remembered)
    return network.decide(embedded)


def loss_of(network, actions, data, states, settings, entropy_weight):
    """PPO's loss (Schulman et al. 2017, arXiv 1707.06347, eq. 9) over agent-steps that all count, and what to log of it."""
    outputs, values = outputs_of(network, data, states)
    log_ratio = actions.log_prob(outputs, data.actions) - data.log_probs
    ratio, clipped = log_ratio.exp(), log_ratio.exp().clamp(1 - settings.clip, 1 + settings.clip)
    policy_loss = -torch.min(ratio * data.advantages, clipped * data.advantages).mean()
    value_loss = 0.5 * (values - data.returns).square().mean()
    entropy = actions.entropy(outputs).mean()
    loss = policy_loss + settings.value_weight * value_loss - entropy_weight * entropy
    kl = (ratio - 1 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html
    return loss, {"policy_loss": policy_loss.item(), "value_loss": value_loss.item(), "entropy": entropy.item(), "kl": kl.item()}


def learn(network, actions, optimizer, data, states, settings, entropy_weight, generator):
    """One update: some epochs over the data.  Returns means of what `loss_of` logs, and of the gradient's norm, over the last epoch."""
    data.advantages = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
    for _ in range(settings.epochs):
        logs = []
        for which in minibatches(data, network, settings, generator):
            loss, log = loss_of(network, actions, data[which], states, settings, entropy_weight)
            optimizer.zero_grad()
            loss.backward()
            log["gradient_norm"] = nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_norm).item()
            optimizer.step()
            logs.append(log)
        means = {name: float(np.mean([log[name] for log in logs])) for name in logs[0]}
        if means["kl"] > settings.target_kl:
            break
    return means


# ---- the run ---------------------------------------------------------------------------------------------------------


class Trainer:
    """A run: `step` collects and learns once.

    Attributes:
        network, config: the network, and the DriveConfig of the worlds or None.
        update, agent_steps, seconds: how far it is.
        curve: [{name: number}], an entry for each update.
    """

    def __init__(self, settings, resumed=None):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.vec, self.config = make_vec(settings)
        self.actions = make_actions(self.vec)
        if self.config is None:
            self.network = MlpNetwork(self.vec.observation_spec, self.actions.outputs, recurrent=settings.lstm)
        else:
            self.network = DriveNetwork(self.actions.outputs, recurrent=settings.lstm)
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.learning_rate, eps=1e-5)
        self.random = torch.Generator().manual_seed(settings.seed)
        self.update, self.agent_steps, self.seconds, self.curve = 0, 0, 0.0, []
        self._returns = np.zeros(self.vec.num_rows)
        if resumed:
            self.network.load_state_dict(resumed["weights"])
            progress = resumed["progress"]
            self.optimizer.load_state_dict(progress["optimizer"])
            self.random.set_state(progress["random"])
            self.update, self.agent_steps, self.seconds, self.curve = (progress[name] for name in ("update", "agent_steps", "seconds", "curve"))

    def done(self):
        """The share of the run that is over; 1: all."""
        if self.settings.steps:
            return min(1.0, self.agent_steps / self.settings.steps)
        return min(1.0, self.seconds / (60 * self.settings.minutes))

    def at_boundary(self):
        """Do all episodes begin anew now?  Where they do, nothing but what `save` writes is needed to go on."""
        return self.update % self.settings.reset_every == 0

    def step(self):
        """Collects a rollout and learns from it.  Returns the curve's new entry."""
        began, settings = time.monotonic(), self.settings
        if self.at_boundary():
            self.vec.reset(seed=(settings.seed * 1_000_003 + self.update * 10_007) % (1 << 61))
            self.memory = Memory(self.vec.num_rows, self.network.num_states, self.vec.autoreset == "next_step")
            self._returns[:] = 0
        falling = 1 - (1 - settings.final_rates) * self.done()
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * falling
        states = self.memory.states * ~self.memory.begins[:, None]
        rollout, kept, last_values = collect(self.vec, self.network, self.actions, self.memory, self.random, settings)
        # A driver that is late has failed: nothing comes after an episode's time.  Elsewhere what would have come is estimated.
        rollout.gae(last_values.numpy(), settings.gamma, settings.gae_lambda, rewards=shaped_rewards(rollout, self.network, settings),
                    final_values=None if self.config is None else 0.0)
        data = gather(rollout, kept)
        explained = 1 - (data.returns - data.values).var() / (data.returns.var() + 1e-8)
        logs = learn(self.network, self.actions, self.optimizer, data, states, settings, settings.entropy_weight * falling, self.random)
        self.update, self.agent_steps, self.seconds = self.update + 1, self.agent_steps + len(data.step), self.seconds + time.monotonic() - began
        self.curve.append({"update": self.update, "agent_steps": self.agent_steps, "seconds": round(self.seconds, 3),
                           **self._outcomes(rollout), **logs, "explained_variance": explained.item()})
        return self.curve[-1]

    def _outcomes(self, rollout):
        """How the episodes fared that ended in a rollout; empty where none did."""
        returns, masks, ends = [], rollout.masks, rollout.terminations | rollout.truncations
        for t in range(rollout.horizon):
            self._returns += rollout.rewards[t] * masks[t]
            ended = ends[t] & masks[t]
            returns += self._returns[ended].tolist()
            self._returns[ended] = 0
        found = {"return": float(np.mean(returns)), "episodes": len(returns)} if returns else {}
        episodes = [episode for infos in rollout.infos for info in infos.values() for episode in info.get("episodes", ())]
        for rate in ("goal_rate", "collision_rate", "off_road_rate") if episodes else ():
            found[rate] = float(np.average([episode[rate] for episode in episodes], weights=[episode["num_agents"] for episode in episodes]))
        return found

    def save(self, path):
        progress = dict(optimizer=self.optimizer.state_dict(), random=self.random.get_state(), update=self.update, agent_steps=self.agent_steps,
                        seconds=self.seconds, curve=self.curve)
        checkpoints.save(path, settings=asdict(self.settings), drive=self.config, network=self.network, progress=progress)

    def close(self):
        self.vec.close()


def resume(path, settings):
    """The content of the checkpoint at `path`.  Raises CheckpointError where it is of a run with other settings."""
    content = checkpoints.load(path)
    saved = content["settings"]
    for name, value in asdict(settings).items():
        if name not in FREE and saved.get(name) != value:
            flag = "--" + name.replace("_", "-")
            raise checkpoints.CheckpointError(f"{path} was trained with {flag} {saved.get(name)!r}, not {value!r}: resume it with {flag} {saved.get(name)}, "
                                              "or begin anew without --resume")
    return content


def run(settings, checkpoint=None, resumed=None, show=lambda trainer, entry: None, save_seconds=30.0):
    """Trains until the time or the steps are over.  Returns the Trainer, closed."""
    torch.set_num_threads(settings.threads)
    torch.set_flush_denormal(True)
    trainer, saved = Trainer(settings, resumed), time.monotonic()
    try:
        while trainer.done() < 1 or not trainer.at_boundary():
            show(trainer, trainer.step())
            if checkpoint and trainer.at_boundary() and (trainer.done() == 1 or time.monotonic() - saved > save_seconds):
                trainer.save(checkpoint)
                saved = time.monotonic()
    finally:
        trainer.close()
    return trainer


# ---- the command line ------------------------------------------------------------------------------------------------


class Show:
    """A bar on a terminal, a line now and then elsewhere; and everything in TensorBoard's files."""

    SHOWN = ("return", "goal_rate", "collision_rate", "off_road_rate", "entropy", "kl")

    def __init__(self, settings, logs):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.writer = None
        if logs:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(logs)
        self.console = Console()
        self.progress = Progress(BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"), console=self.console,
                                 disable=not self.console.is_terminal)
        self.task, self.last, self.printed = self.progress.add_task("", total=1.0), {}, time.monotonic()

    def __call__(self, trainer, entry):
        self.last |= entry
        rate = trainer.agent_steps / trainer.seconds
        text = f"{entry['agent_steps']:,} agent-steps, {rate:,.0f}/s | " + " ".join(f"{name} {self.last[name]:.3f}" for name in self.SHOWN if name in self.last)
        self.progress.update(self.task, completed=trainer.done(), description=text)
        if not self.console.is_terminal and time.monotonic() - self.printed > 10:
            self.printed = time.monotonic()
            self.console.print(f"{trainer.done():4.0%} {text}", soft_wrap=True, highlight=False)
        if self.writer:
            for name, value in entry.items():
                self.writer.add_scalar(name, value, trainer.agent_steps)

    def __enter__(self):
        self.progress.start()
        return self

    def __exit__(self, *_):
        self.progress.stop()
        if self.writer:
            self.writer.close()


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for field in fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default, choices=STEERING if field.name == "steering" else None, help=" ")
    parser.add_argument("--checkpoint", type=Path, help="where the network is saved, and read by --resume")
    parser.add_argument("--resume", action="store_true", help="go on where the checkpoint was")
    parser.add_argument("--logs", help="folder for TensorBoard")
    parser.add_argument("--curve", type=Path, help="JSON with an entry for each update")
    args = parser.parse_args(argv)
    if args.resume and not args.checkpoint:
        parser.error("--resume: give --checkpoint, the file to go on from")
    return args


def main(argv=None):
    args = parse(argv)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    try:
        resumed = resume(args.checkpoint, settings) if args.resume else None
    except checkpoints.CheckpointError as error:
        raise SystemExit(f"--resume: {error}") from None
    with Show(settings, args.logs) as show:
        trainer = run(settings, args.checkpoint, resumed, show)
    if args.curve:
        args.curve.write_text(json.dumps(trainer.curve))
    print(f"{trainer.update:,} updates, {trainer.agent_steps:,} agent-steps, {trainer.seconds:,.0f} s" + (f": {args.checkpoint}" if args.checkpoint else ""))


if __name__ == "__main__":
    main()
