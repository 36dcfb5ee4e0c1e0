"""The network that `examples/train_drive.py` trains and `fastvec eval` drives with, and who drives with it.  Needs PyTorch."""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from fastvec.drive.config import AGENTS, ROADS, DriveConfig
from fastvec.drive.observation import Layout

PARTNER, ROAD = 6, 13  # floats of a partner and of a road segment in a row
EGO_FEATURES, PARTNER_FEATURES, ROAD_FEATURES = 12, 10, 11
EDGE, LINE, LANE, STOP_SIGN = 7, 8, 9, 12  # columns of a road segment: of its type's one-hot
AWAY = 5_000.0  # metres to the goal: agents that are done stand 11 km from everything
NONE = 1e9  # square metres: further than anything
# What is worth a place among the nearest: an edge, which ends an episode, as much as a lane at half and others at a third of its distance.
NEARNESS = {"edge": 1.0, "lane": 4.0, "other": 9.0}


class DriveNetwork(nn.Module):
    """Late fusion: ego, partners and road segments are embedded apart, partners and roads pooled by their maximum, and all three fused
    into one number for each action and an estimate of the return.

    A row is first boiled down by `prepare`, which has no parameters, so that what is learned from many times is prepared once: the
    nearest partners and road segments (of a segment the point that is nearest to the agent), in tens of metres and m/s rather than in
    GPUDrive's kilometres, with a few functions of distance that a small network would have to spend its layers on.  Entries that a row
    lacks take no part in the pools.

    Args:
        num_actions: how many discrete actions there are.
        partners, roads: how many of each are looked at, the nearest ones.
        hidden: features of the partners' and the roads' embeddings, from a two-layer network each.
        fused: features of the two layers after the three embeddings.
        conditioned: rows have the weights of reward_conditioned: 9 floats of ego.
        recurrent: put an LSTM cell of `fused` features before the outputs.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(self, num_actions, partners=8, roads=32, hidden=32, fused=128, conditioned=False, recurrent=False):
        super().__init__()
        for name, value, most in (("num_actions", num_actions, 1 << 20), ("partners", partners, AGENTS - 1), ("roads", roads, ROADS),
                                  ("hidden", hidden, 1 << 12), ("fused", fused, 1 << 12)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}: expected a whole number from 1 to {most}")
        self.settings = dict(num_actions=num_actions, partners=partners, roads=roads, hidden=hidden, fused=fused,
                             conditioned=conditioned, recurrent=recurrent)
        reward_type = "reward_conditioned" if conditioned else "sparse_on_goal_achieved"
        parts = Layout(DriveConfig(reward_type=reward_type)).parts
        self.row_parts = [parts[name][0] for name in ("ego", "partners", "roads")]
        ego = EGO_FEATURES + 3 * conditioned
        self.sizes = ego, partners * PARTNER_FEATURES, roads * ROAD_FEATURES
        self.num_features, self.num_states = sum(self.sizes) + 2, 2 * fused if recurrent else 0
        self.ego = nn.Sequential(nn.Linear(ego, 2 * hidden), nn.ReLU())
        self.partner = nn.Sequential(nn.Linear(PARTNER_FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.road = nn.Sequential(nn.Linear(ROAD_FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.fuse = nn.Sequential(nn.Linear(4 * hidden, fused), nn.ReLU(), nn.Linear(fused, fused), nn.ReLU())
        self.memory = nn.LSTMCell(fused, fused) if recurrent else None
        self.action = nn.Linear(fused, num_actions)
        self.value = nn.Linear(fused, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, 2 ** 0.5)
                nn.init.zeros_(layer.bias)
        nn.init.orthogonal_(self.action.weight, 0.01)  # at first all actions are about equally likely
        nn.init.orthogonal_(self.value.weight, 1.0)

    # ---- what is computed once a row ---------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, rows):
        """What the network looks at: rows float32 [n, 2984] (conditioned: 2987), normalised, to features float32 [n, num_features].

        Raises:
            ValueError: rows of another length or dtype.
        """
        self._check(rows)
        ego, partners, roads = (rows[:, part] for part in self.row_parts)
        partners, any_partner = self._partners(partners.unflatten(1, (AGENTS - 1, PARTNER)), ego[:, :1])
        roads, any_road = self._roads(roads.unflatten(1, (ROADS, ROAD)))
        return torch.cat((_ego(ego), partners.flatten(1), roads.flatten(1), any_partner, any_road), 1)

    def _check(self, rows):
        size = self.row_parts[-1].stop
        if rows.ndim != 2 or rows.shape[1] != size or rows.dtype != torch.float32:
            raise ValueError(f"rows is {rows.dtype} {tuple(rows.shape)}: expected float32 (n, {size}), the rows of a "
                             f"{'reward-conditioned ' if size != 2984 else ''}DriveConfig with ego, partners and roads only, and norm_obs")

    def _partners(self, rows, speed):
        x, y = rows[..., 1] * 1000, rows[..., 2] * 1000
        at, there = _nearest(torch.where(rows[..., 4] != 0, x * x + y * y, NONE), self.settings["partners"])
        rows = rows.gather(1, at.unsqueeze(-1).expand(-1, -1, PARTNER))
        x, y = rows[..., 1] * 1000, rows[..., 2] * 1000
        cos, sin = _direction(rows[..., 3])
        features = (x / 20, y / 20, cos, sin, 5 * rows[..., 0] * cos - 5 * speed, 5 * rows[..., 0] * sin, 6 * rows[..., 4], 6 * rows[..., 5],
                    torch.exp(torch.hypot(x, y) / -6), torch.exp(torch.hypot(x, y) / -25))
        return torch.stack(features, -1), there

    def _roads(self, rows):
        x, y, half = rows[..., 0] * 1000, rows[..., 1] * 1000, rows[..., 2] * 100
        cos, sin = _direction(rows[..., 5])
        along = torch.minimum(torch.maximum(-(x * cos + y * sin), -half), half)  # from the middle to the point nearest to us
        x, y = x + along * cos, y + along * sin
        ends = rows[..., EDGE] + rows[..., STOP_SIGN] > 0
        weight = torch.where(ends, NEARNESS["edge"], torch.where(rows[..., LANE] > 0, NEARNESS["lane"], NEARNESS["other"]))
        at, there = _nearest(torch.where(half > 0, (x * x + y * y) * weight, NONE), self.settings["roads"])
        x, y, cos, sin, half = (part.gather(1, at) for part in (x, y, cos, sin, half))
        types = [rows[..., column].gather(1, at) for column in (EDGE, LINE, LANE, STOP_SIGN)]
        distance = torch.hypot(x, y)
        features = (x / 20, y / 20, cos, sin, torch.exp(distance / -4), torch.exp(distance / -15), (half / 20).clamp_max(1), *types)
        return torch.stack(features, -1), there

    def takes_part(self, rows):
        """Which rows have somebody who drives: bool [n].  The others are unused, or their agents are done and gone, and whatever is
        done for them has no effect."""
        return (rows[:, 1] > 0) & (self.goal_distance(rows) < AWAY)

    def goal_distance(self, rows):
        """Metres from agents to their goals: rows [..., 2984] to [...]."""
        return torch.hypot(rows[..., 3], rows[..., 4]) * 1000

    # ---- what is learned ---------------------------------------------------------------------------------------------

    def embed(self, features):
        """Features [n, num_features] to [n, fused]: all but the memory and the outputs."""
        ego, partners, roads, any_partner, any_road = features.split((*self.sizes, 1, 1), 1)
        partners = self.partner(partners.unflatten(1, (-1, PARTNER_FEATURES))).amax(1) * any_partner
        roads = self.road(roads.unflatten(1, (-1, ROAD_FEATURES))).amax(1) * any_road
        return self.fuse(torch.cat((self.ego(ego), partners.relu(), roads.relu()), 1))

    def remember(self, embedded, states):
        """One step of the memory: embedded [n, fused], states [n, num_states] to what both have become.  Zeros begin an episode."""
        if self.memory is None:
            return embedded, states
        hidden, cell = self.memory(embedded, states.chunk(2, 1))
        return hidden, torch.cat((hidden, cell), 1)

    def decide(self, embedded):
        """Logits [n, num_actions] and values [n]."""
        return self.action(embedded), self.value(embedded).squeeze(1)

    def forward(self, features, states=None):
        """(logits [n, num_actions], values [n], states [n, num_states])"""
        if states is None:
            states = features.new_zeros(len(features), self.num_states)
        embedded, states = self.remember(self.embed(features), states)
        return *self.decide(embedded), states


def _ego(rows):
    """Of the agent itself: speed, size, and where its goal is: far ones clipped, near ones in detail."""
    speed, length, width, x, y = rows[:, 0] * 5, rows[:, 1] * 6, rows[:, 2] * 6, rows[:, 3] * 1000, rows[:, 4] * 1000
    distance = torch.hypot(x, y)
    divisor = distance.clamp_min(1e-3)
    features = (speed, length, width, (x / 100).clamp(-2, 2), (y / 100).clamp(-2, 2), x / divisor, y / divisor, (distance / 20).clamp_max(1),
                (distance / 200).clamp_max(2), torch.log1p(distance) / 5, speed * speed, rows[:, 5])
    return torch.cat((torch.stack(features, 1), rows[:, 6:]), 1)  # with the weights of reward_conditioned, where there are any


def _direction(turns):
    return torch.cos(turns * (2 * math.pi)), torch.sin(turns * (2 * math.pi))


def _nearest(distance, count):
    """Indices [n, count] of the smallest distances [n, things], and is there any: float [n, 1].  The nearest is named again in place of
    those that are not there (at `NONE`), which changes no maximum."""
    found = distance.topk(count, 1, largest=False)
    there = found.values < NONE
    return torch.where(there, found.indices, found.indices[:, :1]), there[:, :1].to(distance.dtype)


class Driver:
    """Acts as a `DriveNetwork` says.  Call it with observations, float32 [n, 2984], for actions, int64 [n]; NumPy arrays both.

    Args:
        network: a DriveNetwork.
        sample: draw actions as in training; otherwise the likeliest one is taken.
        seed: of the draws.
    """

    def __init__(self, network, sample=False, seed=0):
        self.network, self.sample = network.eval(), sample
        self._random = torch.Generator()
        self.reset(seed)

    def reset(self, seed=0):
        """Forgets what was seen, and draws anew: call it where episodes begin."""
        self._random.manual_seed(seed)
        self._states = None

    @torch.inference_mode()
    def __call__(self, observations):
        logits, _, self._states = self.network(self.network.prepare(torch.from_numpy(np.ascontiguousarray(observations))), self._states)
        if self.sample:  # the largest of logits plus Gumbel noise is a sample of their softmax
            logits = logits - torch.empty_like(logits).exponential_(generator=self._random).log()
        return logits.argmax(1).numpy()
