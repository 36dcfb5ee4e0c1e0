"""PPO in one file: many agents that share one network learn to drive, or one agent learns any gymnasium env.

    python examples/train_drive.py --minutes 19 --checkpoint driver.pt                  # fastvec's own driving worlds
    python examples/train_drive.py --env gpudrive --scenes data/processed/training      # the real GPUDrive
    python examples/train_drive.py --env CartPole-v1 --steps 100000
    python examples/train_drive.py --resume --checkpoint driver.pt --minutes 60         # goes on where it was
    fastvec eval driver.pt shipped --video driver.gif

Needs torch, tensorboard and rich: pip install 'fastvec[train]'.  docs/training.md tells what the settings do.
"""
import argparse
import importlib.util
import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

import fastvec
import fastvec.drive
from fastvec.drive import checkpoint as checkpoints
from fastvec.drive.network import DriveNetwork

WORLDS = ("drive", "gpudrive")
# Radians.  GPUDrive's own are 13 from -pi to pi, 0.52 apart: straight on, or full lock and beyond.
STEERING = {"fine": (-0.6, -0.3, -0.15, -0.08, -0.04, -0.015, 0.0, 0.015, 0.04, 0.08, 0.15, 0.3, 0.6),
            "gpudrive": fastvec.drive.DriveConfig().steer_actions}


@dataclass(frozen=True)
class Settings:
    """What a run is told; each is a command line argument.  A checkpoint holds them, and is resumed with the same, but for `FREE` ones."""

    env: str = "drive"  # or gpudrive, or the id of a gymnasium env
    scenes: str = "shipped"  # of drive and gpudrive
    seed: int = 0
    minutes: float = 19.0  # of training, those before a resume included; rates fall with the time
    steps: int = 0  # agent-steps of training, in place of minutes: rates fall with them, and a run does not depend on the machine's speed
    workers: int = 2
    envs: int = 6  # worlds, or gymnasium envs, of each worker
    horizon: int = 0  # steps of a rollout; 0: an episode of driving, 91, elsewhere 128
    reset_every: int = 0  # rollouts after which all episodes begin anew, where the run can be resumed; 0: each of driving, elsewhere 20
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
    threads: int = 1  # of torch: batches are small

    def __post_init__(self):
        for name, default in zip(("horizon", "reset_every"), (91, 1) if self.env in WORLDS else (128, 20)):
            object.__setattr__(self, name, getattr(self, name) or default)
        for name, value in asdict(self).items():
            if not isinstance(value, str) and not name.endswith("_weight") and not value >= (least := int(name in AT_LEAST_ONE)):
                raise ValueError(f"{name} is {value}: expected at least {least}")


AT_LEAST_ONE = {"envs", "horizon", "reset_every", "epochs", "minibatch", "threads"}
FREE = {"minutes", "steps", "threads"}  # may differ when a run goes on


# ---- envs, networks, actions: what differs between drive and gymnasium ----------------------------------------------------


def make_config(settings):
    """The DriveConfig of the worlds; None: other envs."""
    if settings.env not in WORLDS:
        return None
    return fastvec.drive.DriveConfig(
        collision_behavior="remove", road_obs_algorithm="k_nearest_roadpoints", reward_type="weighted_combination",
        collision_weight=settings.collision_weight, off_road_weight=settings.off_road_weight, steer_actions=STEERING[settings.steering])


def make_vec(settings):
    fields = {"values": ((), "float32"), "log_probs": ((), "float32")}
    options = dict(num_workers=settings.workers, horizon=settings.horizon, trainer_fields=fields)
    worlds = settings.envs * max(1, settings.workers)
    if settings.env not in WORLDS:
        gym.spec(settings.env)  # raises here rather than in every worker
        return fastvec.make(lambda: gym.make(settings.env), num_envs=worlds, **options)
    creator = importlib.import_module(f"fastvec.{settings.env}").creator
    more_scenes = len(fastvec.drive.scenes.find(settings.scenes)) > worlds  # than can be hosted at once: each episode draws one
    return fastvec.make(creator(settings.scenes, settings.envs, make_config(settings), resample_every=int(more_scenes),
                                sample_with_replacement=more_scenes), **options)


def distribution(outputs, numbers):
    """Of actions, as the network's outputs say: logits, or where actions are `numbers` their means and logarithms of standard deviations."""
    if not numbers:
        return Categorical(logits=outputs, validate_args=False)
    mean, log_std = outputs.chunk(2, 1)
    return Independent(Normal(mean, log_std.clamp(-5, 2).exp(), validate_args=False), 1)


def outputs_needed(vec):
    """(outputs of a network, are actions numbers?), by the kind of the envs' action space."""
    space, spec = vec.single_action_space, vec.action_spec
    if isinstance(space, gym.spaces.Box):
        return 2 * int(np.prod(space.shape)), True
    if spec.shape == () and spec.dtype.kind in "iu" and spec.low == 0:
        return int(spec.high) + 1, False
    raise SystemExit(f"--env: its action space is {space}: expected Discrete that begins with 0, or Box")


class MlpNetwork(nn.Module):
    """For vectors of numbers: the interface of DriveNetwork.  Actor and critic share nothing but the memory."""

    def __init__(self, spec, num_actions, hidden=64, recurrent=False):
        super().__init__()
        if spec.dtype.names is not None:
            raise SystemExit(f"--env: its observations are {spec.dtype}: wrap the env in gymnasium.wrappers.FlattenObservation")
        size = int(np.prod(spec.shape))
        self.num_states = 4 * hidden if recurrent else 0
        self.actor, self.critic = (nn.Sequential(_linear(size, hidden), nn.Tanh(), _linear(hidden, hidden), nn.Tanh()) for _ in range(2))
        self.memory = nn.LSTMCell(2 * hidden, 2 * hidden) if recurrent else None
        self.action, self.value = _linear(hidden, num_actions, 0.01), _linear(hidden, 1, 1.0)

    def prepare(self, rows):
        return rows.flatten(1).float()

    def takes_part(self, rows):
        return torch.ones(len(rows), dtype=torch.bool)

    def embed(self, features):
        return torch.cat((self.actor(features), self.critic(features)), 1)

    def decide(self, embedded):
        actor, critic = embedded.chunk(2, 1)
        return self.action(actor), self.value(critic).squeeze(1)

    remember, forward = DriveNetwork.remember, DriveNetwork.forward


def _linear(inputs, outputs, gain=2 ** 0.5):
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


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


def collect(vec, network, numbers, memory, times):
    """A rollout, and what is known of each agent that may take part in a step: steps, rows, features, actions, begins.

    Returns:
        (Rollout, tensors, values [num_rows] of the last observations)
    """
    rollout, kept = vec.rollout(), []
    out = {name: torch.zeros(vec.num_rows) for name in ("values", "log_probs")}
    answers = torch.zeros_like(torch.from_numpy(vec.actions))
    bounds = [torch.from_numpy(bound.ravel()) for bound in (vec.single_action_space.low, vec.single_action_space.high)] if numbers else ()
    with torch.inference_mode():
        for batch in rollout.collect():
            with times("policy"):
                memory.see(torch.from_numpy(batch.masks), torch.from_numpy(batch.terminations | batch.truncations))
                rows = torch.from_numpy(batch.observations)
                who = network.takes_part(rows).nonzero().squeeze(1)
                features = network.prepare(rows[who])
                outputs, out["values"][who], memory.states[who] = network(features, memory.states[who])
                policy = distribution(outputs, numbers)
                actions = policy.sample()
                out["log_probs"][who] = policy.log_prob(actions)
                answers[who] = (actions.clamp(*bounds) if numbers else actions).view(-1, *answers.shape[1:]).to(answers.dtype)
            vec.send(answers.numpy(), {name: values.numpy() for name, values in out.items()})
            kept.append((torch.full_like(who, len(kept)), who, features, actions, memory.begins[who]))
        with times("policy"):
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


def gather(rollout, kept):
    """{name: tensor [n, ...]} of the n agent-steps that count, in the order of time: rows that took no part are dropped before anything is
    computed for them."""
    counts = rollout.torch.masks[kept[0], kept[1]]
    data = dict(zip(("steps", "rows", "features", "actions", "begins"), (part[counts] for part in kept)))
    where = data["steps"], data["rows"]
    data |= {name: part[where] for name, part in rollout.torch.fields.items()}  # values, log_probs
    return data | {"advantages": rollout.torch.advantages[where], "returns": rollout.torch.returns[where]}


def minibatches(data, network, settings):
    """Parts of the data, at random; for a recurrent network all steps of random rows."""
    if network.memory is None:
        parts = torch.randperm(len(data["steps"])).split(settings.minibatch)
    else:
        rows = data["rows"].unique()
        share = max(1, len(rows) * settings.minibatch // len(data["steps"]))
        parts = (torch.isin(data["rows"], some).nonzero().squeeze(1) for some in rows[torch.randperm(len(rows))].split(share))
    for part in parts:
        yield {name: values[part] for name, values in data.items()}


def outputs_of(network, data, states):
    """The network's outputs and values, again, step by step from `states` [num_rows, num_states] where it remembers."""
    embedded = network.embed(data["features"])
    if network.memory is not None:
        remembered = []
        for part in torch.arange(len(embedded)).split(data["steps"].unique_consecutive(return_counts=True)[1].tolist()):
            rows = data["rows"][part]
            now, new = network.remember(embedded[part], states[rows] * ~data["begins"][part, None])
            states = states.index_copy(0, rows, new)
            remembered.append(now)
        embedded = torch.cat(remembered)
    return network.decide(embedded)


def loss_of(network, numbers, data, states, settings, entropy_weight):
    """PPO's loss (Schulman et al. 2017, arXiv 1707.06347, eq. 9) over agent-steps that all count, and what to log of it."""
    outputs, values = outputs_of(network, data, states)
    policy = distribution(outputs, numbers)
    log_ratio = policy.log_prob(data["actions"]) - data["log_probs"]
    ratio, advantages = log_ratio.exp(), data["advantages"]
    policy_loss = -torch.min(ratio * advantages, ratio.clamp(1 - settings.clip, 1 + settings.clip) * advantages).mean()
    value_loss = 0.5 * (values - data["returns"]).square().mean()
    entropy = policy.entropy().mean()
    kl = (ratio - 1 - log_ratio).mean()  # http://joschu.net/blog/kl-approx.html
    loss = policy_loss + settings.value_weight * value_loss - entropy_weight * entropy
    return loss, {"policy_loss": policy_loss.item(), "value_loss": value_loss.item(), "entropy": entropy.item(), "kl": kl.item()}


def learn(network, numbers, optimizer, data, states, settings, entropy_weight):
    """One update: some epochs over the data.  Returns means over the last one of what `loss_of` logs and of the gradient's norm."""
    advantages = data["advantages"]
    data = data | {"advantages": (advantages - advantages.mean()) / (advantages.std() + 1e-8)}
    for _ in range(settings.epochs):
        logs = []
        for part in minibatches(data, network, settings):
            loss, log = loss_of(network, numbers, part, states, settings, entropy_weight)
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

PROGRESS = ("update", "agent_steps", "seconds", "curve")


class Trainer:
    """A run: `step` collects and learns once.

    Attributes:
        network, config: the network, and the DriveConfig of the worlds or None.
        update, agent_steps, seconds: how far it is.
        curve: [{name: number}], an entry for each update; "time/…" are the shares of its time, which add up to 1.
    """

    def __init__(self, settings, resumed=None):
        torch.manual_seed(settings.seed)
        self.settings, self.config = settings, make_config(settings)
        self.vec = make_vec(settings)
        try:
            outputs, self.numbers = outputs_needed(self.vec)
            if self.config is None:
                self.network = MlpNetwork(self.vec.observation_spec, outputs, recurrent=settings.lstm)
            else:
                self.network = DriveNetwork(outputs, recurrent=settings.lstm)
        except BaseException:
            self.vec.close()
            raise
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.learning_rate, eps=1e-5)
        self.update, self.agent_steps, self.seconds, self.curve = 0, 0, 0.0, []
        self.times = fastvec.StepTimes(self.vec)  # of each update
        self._returns = np.zeros(self.vec.num_rows)
        if resumed:
            self.network.load_state_dict(resumed["weights"])
            progress = resumed["progress"]
            self.optimizer.load_state_dict(progress["optimizer"])
            torch.set_rng_state(progress["random"])
            for name in PROGRESS:
                setattr(self, name, progress[name])

    def done(self):
        """The share of the run that is over; 1: all."""
        so_far, end = (self.agent_steps, self.settings.steps) if self.settings.steps else (self.seconds, 60 * self.settings.minutes)
        return so_far / end if so_far < end else 1.0

    def at_boundary(self):
        """Do all episodes begin anew now?  Where they do, nothing but what `save` writes is needed to go on."""
        return self.update % self.settings.reset_every == 0

    def step(self):
        """Collects a rollout and learns from it.  Returns the curve's new entry."""
        began, settings, times = time.monotonic(), self.settings, self.times
        times.restart()
        if self.at_boundary():
            self.vec.reset(seed=(settings.seed * 1_000_003 + self.update * 10_007) % (1 << 61))
            self.memory = Memory(self.vec.num_rows, self.network.num_states, self.vec.autoreset == "next_step")
            self._returns[:] = 0
        falling = 1 - (1 - settings.final_rates) * self.done()
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * falling
        states = self.memory.states * ~self.memory.begins[:, None]
        rollout, kept, last_values = collect(self.vec, self.network, self.numbers, self.memory, times)
        with times("copies"):
            rewards = shaped_rewards(rollout, self.network, settings)
        with times("learning"):
            # A driver that is late has failed: nothing comes after an episode's time.  Elsewhere what would have come is estimated.
            rollout.gae(last_values.numpy(), settings.gamma, settings.gae_lambda, rewards=rewards, final_values=None if self.config is None else 0.0)
        with times("copies"):
            data = gather(rollout, kept)
        explained = 1 - (data["returns"] - data["values"]).var() / (data["returns"].var() + 1e-8)
        with times("learning"):
            logs = learn(self.network, self.numbers, self.optimizer, data, states, settings, settings.entropy_weight * falling)
        self.update, self.agent_steps = self.update + 1, self.agent_steps + len(data["steps"])
        self.seconds += time.monotonic() - began
        self.curve.append({"update": self.update, "agent_steps": self.agent_steps, "seconds": round(self.seconds, 3),
                           **self._outcomes(rollout), **logs, "explained_variance": explained.item(),
                           **{f"time/{part}": share for part, share in times.shares().items()}})
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
        progress = dict(optimizer=self.optimizer.state_dict(), random=torch.get_rng_state(), **{name: getattr(self, name) for name in PROGRESS})
        checkpoints.save(path, settings=asdict(self.settings), drive=self.config, network=self.network, progress=progress)

    def close(self):
        self.vec.close()


def resume(path, settings):
    """The content of the checkpoint at `path`.  Raises CheckpointError where it is of a run with other settings."""
    content = checkpoints.load(path)
    config = make_config(settings)
    for saved, wanted in ((content["settings"], asdict(settings)), (content["drive"], asdict(config) if config else {})):
        for name, value in wanted.items():
            if name not in FREE and saved.get(name) != value:
                raise checkpoints.CheckpointError(f"{path} was trained with {name} {saved.get(name)!r}, not {value!r}: resume it with what it was "
                                                  "trained with, or begin anew without --resume")
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
    TIMES = ("envs", "handoff", "policy", "copies", "learning")

    def __init__(self, logs):
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
        shown = " ".join(f"{name} {self.last[name]:.3f}" for name in self.SHOWN if name in self.last)
        times = " ".join(f"{part} {entry[f'time/{part}']:.0%}" for part in self.TIMES)
        text = f"{trainer.agent_steps:,} agent-steps, {rate:,.0f}/s | {shown} | {times}"
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
            choices = STEERING if field.name == "steering" else None
            parser.add_argument(flag, type=type(field.default), default=field.default, choices=choices, help=" ")  # with the default
    parser.add_argument("--checkpoint", type=Path, help="where the network is saved, and read by --resume")
    parser.add_argument("--resume", action="store_true", help="go on where the checkpoint was")
    parser.add_argument("--logs", help="folder for TensorBoard")
    parser.add_argument("--curve", type=Path, help="JSON with an entry for each update")
    args = parser.parse_args(argv)
    if args.resume and not args.checkpoint:
        parser.error("--resume: give --checkpoint, the file to go on from")
    for flag, path in (("--checkpoint", args.checkpoint), ("--curve", args.curve)):  # before there is anything to lose
        if path and (path.is_dir() or not path.parent.is_dir()):
            parser.error(f"{flag} {path}: " + ("is a folder" if path.is_dir() else f"there is no folder {path.parent}"))
    for module in ["rich"] + ["tensorboard"] * bool(args.logs):
        if importlib.util.find_spec(module) is None:
            parser.error(f"this needs {module}: pip install 'fastvec[train]'")
    try:
        args.settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
        args.resumed = resume(args.checkpoint, args.settings) if args.resume else None
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv=None):
    args = parse(argv)
    try:
        with Show(args.logs) as show:
            trainer = run(args.settings, args.checkpoint, args.resumed, show)
    except (ValueError, OSError, ImportError, fastvec.FastvecError, gym.error.Error) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    except KeyboardInterrupt:
        saved = args.checkpoint and args.checkpoint.exists()
        raise SystemExit("interrupted" + (f": --resume goes on from {args.checkpoint}" if saved else "")) from None
    if args.curve:
        args.curve.write_text(json.dumps(trainer.curve))
    where = f": {args.checkpoint}" if args.checkpoint else ""
    print(f"{trainer.update:,} updates, {trainer.agent_steps:,} agent-steps, {trainer.seconds:,.0f} s{where}")


if __name__ == "__main__":
    main()
