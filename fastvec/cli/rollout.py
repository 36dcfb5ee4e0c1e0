"""Steps a VecEnv of drive worlds with a policy, and counts."""
from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from fastvec.vec_env import Stats


@dataclass
class Tally:
    """What happened since the rollout began.

    Attributes:
        steps: batches.
        agent_steps: rows of agents that took part; masked rows are not counted.
        goals: agents that reached their goal.
        episodes: episodes that finished.
        agents, goals_of_episodes, collided, off_road: of the finished episodes: driven agents, and how many of them
            reached their goal, hit another agent, left the road; once each.
        seconds: elapsed.
        stats: where they went.
    """

    steps: int = 0
    agent_steps: int = 0
    goals: int = 0
    episodes: int = 0
    agents: int = 0
    goals_of_episodes: float = 0.0
    collided: float = 0.0
    off_road: float = 0.0
    seconds: float = 0.0
    stats: Stats | None = None

    def add(self, batch):
        """Counts a batch."""
        self.steps += 1
        self.agent_steps += int(batch.masks.sum())
        self.goals += int((batch.terminations & batch.masks).sum())
        for info in batch.infos.values():
            for episode in info.get("episodes", ()):
                self._add_episode(episode)

    def _add_episode(self, episode):
        agents = episode["num_agents"]
        self.episodes += 1
        self.agents += agents
        self.goals_of_episodes += agents * episode["goal_rate"]
        self.collided += agents * episode["collision_rate"]
        self.off_road += agents * episode["off_road_rate"]

    def shares(self) -> dict:
        """Parts of the time, which add up to 1: waiting for workers, handing over, in the policy."""
        parts = {"workers": self.stats.env, "handoff": self.stats.handoff, "policy": self.stats.policy}
        total = sum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}

    def rate(self, of) -> float | None:
        """One of the three counts of finished episodes, per agent; None before the first."""
        return of / self.agents if self.agents else None


def rollout(vec, policy, seconds=None, steps=None, stop=lambda: False, watch=lambda tally: None) -> Tally:
    """Steps until the time is up, the steps are made, or `stop()` is true; calls `watch` after each step.

    Args:
        vec: a VecEnv of `fastvec.drive.Drive` envs, all in one batch.
        policy: observations to actions.

    Returns:
        the Tally.
    """
    policy(np.zeros_like(vec.observations))  # the first call sets things up: not the policy's usual pace
    vec.reset()
    tally, before, began = Tally(), vec.stats(), time.perf_counter()
    while not stop():
        vec.actions[:] = policy(vec.observations)
        vec.send()
        tally.add(vec.recv())
        tally.seconds = time.perf_counter() - began
        tally.stats = since(before, vec.stats())
        watch(tally)
        if steps is not None and tally.steps >= steps or seconds is not None and tally.seconds >= seconds:
            break
    if tally.stats is None:
        tally.stats = since(before, before)
    return tally


def since(before: Stats, now: Stats) -> Stats:
    """What was added to the statistics."""
    workers = tuple(
        replace(w, steps=w.steps - b.steps, busy=w.busy - b.busy, waiting=w.waiting - b.waiting, parks=w.parks - b.parks)
        for w, b in zip(now.workers, before.workers)
    )
    return Stats(now.batches - before.batches, now.rows - before.rows, now.env - before.env, now.handoff - before.handoff,
                 now.policy - before.policy, workers)
