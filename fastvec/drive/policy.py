"""A small untrained policy for the drive world, for demonstrations: it costs what a policy costs, and it gets around."""
from __future__ import annotations

import math

import torch
from torch import nn

EGO, PARTNERS, PARTNER, ROADS, ROAD = 6, 63, 6, 200, 13  # the parts of a row; see fastvec.drive.Drive
ACCELERATIONS, STEERINGS = 7, 13  # the discrete actions of the classic model, the steering running fastest
MAX_ACCELERATION = 4.0  # m/s^2
# Scales of the ego part: speed / 100 m/s, 0.7 * length / 30 m, goal / 1000 m.
SPEED, LENGTH, GOAL = 100.0, 30 / 0.7, 1000.0


class LateFusion(nn.Module):
    """Embeds ego, partners and roads apart, max-pools over partners and roads, and fuses them into action logits.

    Its weights are random.  Input float32 [n, 2984], output float32 [n, 91].  For inference only: see `Pooled`.
    """

    def __init__(self, width=16, hidden=64):
        super().__init__()
        self.ego = nn.Linear(EGO, width)
        self.partner = Pooled(PARTNER, width)
        self.road = Pooled(ROAD, width)
        self.head = nn.Sequential(nn.Linear(3 * width, hidden), nn.ReLU(), nn.Linear(hidden, ACCELERATIONS * STEERINGS))

    def forward(self, rows):
        ego, partners, roads = rows.split((EGO, PARTNERS * PARTNER, ROADS * ROAD), 1)
        partners = self.partner(partners.unflatten(1, (PARTNERS, PARTNER)))
        roads = self.road(roads.unflatten(1, (ROADS, ROAD)))
        return self.head(torch.cat((self.ego(ego), partners, roads), 1).relu())


class Pooled(nn.Linear):
    """Embeds things and keeps the largest of each feature: [n, things, in_features] to [n, out_features].

    Features come first in between, so that the maximum runs along memory: many times faster on a CPU than over the
    middle axis.  That array is kept for the next batch: a new one of megabytes each step would be new pages each time.
    """

    def forward(self, things):
        n, count, _ = things.shape
        if getattr(self, "_embedded", None) is None or self._embedded.shape != (n, self.out_features, count):
            self._embedded = things.new_empty(n, self.out_features, count)
        weight = self.weight.expand(n, -1, -1)
        return torch.bmm(weight, things.transpose(1, 2), out=self._embedded).amax(-1) + self.bias


class GoalPrior(nn.Module):
    """Action logits set by hand: drive at the goal along an arc, fast when far, as if there were no roads or others.

    Input float32 [n, 2984] (only the ego part is read), output float32 [n, 91].  For the classic (bicycle) model.
    """

    def __init__(self, top_speed=28.0, steer_spread=0.04, acceleration_spread=1.0):
        super().__init__()
        self.top_speed = top_speed  # m/s
        self.steer_spread = steer_spread  # 1/m: how far from the wanted curvature an action may lead
        self.acceleration_spread = acceleration_spread  # m/s^2
        steer = torch.linspace(-math.pi, math.pi, STEERINGS)
        slip = torch.atan(steer.tan() / 2)
        self.register_buffer("accelerations", torch.linspace(-MAX_ACCELERATION, MAX_ACCELERATION, ACCELERATIONS))
        self.register_buffer("bend", slip.cos() * steer.tan())  # curvature of the path times the length of the car

    def forward(self, rows):
        speed, length, x, y = rows[:, 0] * SPEED, rows[:, 1] * LENGTH, rows[:, 3] * GOAL, rows[:, 4] * GOAL
        distance = torch.hypot(x, y).clamp_min(1.0)
        bearing = torch.atan2(y, x).clamp(-math.pi / 2, math.pi / 2)  # a goal behind: the tightest turn
        ahead = torch.minimum(distance, (0.8 * speed).clamp_min(5.0))  # metres in which to come round
        curvature = 2 * bearing.sin() / ahead
        wanted_speed = (4 + 0.3 * distance).clamp_max(self.top_speed)
        acceleration = (2 * (wanted_speed - speed)).clamp(-MAX_ACCELERATION, MAX_ACCELERATION)
        off_steer = (self.bend / length.clamp_min(1.0)[:, None] - curvature[:, None]) / self.steer_spread
        off_speed = (self.accelerations - acceleration[:, None]) / self.acceleration_spread
        logits = -0.5 * (off_speed.square()[:, :, None] + off_steer.square()[:, None, :])
        return logits.flatten(1)


class DemoPolicy:
    """Samples actions from an untrained `LateFusion` network plus a `GoalPrior`.

    Nothing here was learned: the network's weights are random, and that agents reach goals is the prior's doing.  It
    drives over kerbs and into others, as a policy at the start of training does.

    Args:
        seed: of the weights and of the sampling.

    >>> import numpy as np
    >>> DemoPolicy(seed=0)(np.zeros((2, 2984), np.float32)).shape
    (2,)
    """

    def __init__(self, seed=0):
        with torch.random.fork_rng(devices=[]):  # the caller's random stream is not ours to move
            torch.manual_seed(seed)
            self.network = LateFusion().eval()
        self.prior = GoalPrior()
        self._random = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def __call__(self, observations):
        """Observations float32 [n, 2984] to actions int64 [n], numpy arrays both."""
        rows = torch.from_numpy(observations)
        logits = self.network(rows) + self.prior(rows)
        # The largest of logits plus Gumbel noise is a sample of their softmax.
        noise = torch.empty_like(logits).exponential_(generator=self._random)
        return (logits - noise.log()).argmax(1).numpy()
