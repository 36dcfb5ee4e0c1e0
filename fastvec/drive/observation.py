"""What is where in observation rows, and PyTorch modules that take them; without torch, `Layout` and `expand` still work.

Float32 rows follow `DriveConfig`: the parts that it switches on come one after another.

    ego         6   speed / 100, length / 30, width / 15 (seven tenths of them), goal x, goal y / 1000, has collided;
                9   with reward_conditioned: and the weights of collisions, goal and leaving the road
    partners 63 x 6   speed / 100, x, y / 1000, heading / 2 pi, length / 30, width / 15; zeros where there is none
    roads  200 x 13   x, y / 1000, half length, half width, half height / 100, heading / 2 pi, one-hot of the type (0 none,
                      1 edge, 2 line, 3 lane, 4 crosswalk, 5 speed bump, 6 stop sign)
    lidar 3 x 50 x 4  depth, type, x, y; metres
    bev   200 x 200   entity types

With norm_obs=False there are metres, m/s and radians instead.  By default: ego 0:6, partners 6:384, roads 384:2984.

Packed rows are bytes, a third as many.  The same numbers are float16, rounded to the nearest, in the machine's byte order;
the one-hot is a byte, behind all the rest.

    bytes      0:12    ego, 6 float16   (0:18, and 6 more to all that follows, with reward_conditioned)
              12:768   partners, 63 x 6 float16
             768:3168  roads, 200 x 6 float16
            3168:3368  types of roads, 200 bytes

Rounded to float16, a position is off by at most 0.25 m at 500 m and 0.02 m at 50 m.
"""
from __future__ import annotations

import math

import numpy as np

from fastvec.drive.config import DriveConfig

try:
    import torch
    from torch import nn
except ImportError:  # the classes below then say so
    torch = None

EGO, WEIGHTS, PARTNERS, PARTNER, ROADS, ROAD, TYPES = 6, 3, 63, 6, 200, 6, 7  # ROAD: without the type


class Layout:
    """Where the parts of an observation row are.

    Args:
        config: a `DriveConfig`; its defaults where None.

    Attributes:
        parts: {name: (slice, shape)}, in order: `rows[..., slice].reshape(*rows.shape[:-1], *shape)`.  Slices count
            floats of float32 rows and float16 of packed ones, which end with a part `types` that counts bytes.
        size: length of a row: of float32, or bytes of a packed one.

    >>> Layout().parts["partners"]
    (slice(6, 384, None), (63, 6))
    """

    def __init__(self, config=None):
        config = DriveConfig() if config is None else config
        packed = config.observation == "packed"
        self.parts, at = {}, 0
        for name, shape in config.row_parts().items():
            shape = (ROADS, ROAD) if packed and name == "roads" else shape
            self.parts[name] = slice(at, at + math.prod(shape)), shape
            at += math.prod(shape)
        if packed:
            self.parts["types"] = slice(2 * at, 2 * at + ROADS), (ROADS,)
        self.size = config.row_nbytes() if packed else at


def expand(rows):
    """Packed rows as float32 ones.

    Args:
        rows: uint8 (..., 3368), or (..., 3374) with weights.

    Returns:
        float32 (..., 2984) or (..., 2987): what the env would have written, rounded to float16.

    Raises:
        ValueError: rows of another length or dtype.
    """
    near = _near(rows.shape, rows.dtype == np.uint8)
    halves = np.ascontiguousarray(rows[..., :-ROADS]).view(np.float16)
    types = rows[..., -ROADS:, None] == np.arange(TYPES, dtype=np.uint8)
    roads = halves[..., near:].reshape(*rows.shape[:-1], ROADS, ROAD)
    roads = np.concatenate([roads, types], axis=-1, dtype=np.float32)
    return np.concatenate([halves[..., :near], roads.reshape(*rows.shape[:-1], -1)], axis=-1, dtype=np.float32)


def _near(shape, is_bytes):
    # Numbers before the roads of packed rows.
    for near in (EGO + PARTNERS * PARTNER, EGO + WEIGHTS + PARTNERS * PARTNER):
        if is_bytes and shape and shape[-1] == 2 * (near + ROADS * ROAD) + ROADS:
            return near
    raise ValueError(f"rows has shape {tuple(shape)}{'' if is_bytes else ', and not uint8'}: expected packed rows, uint8 (..., 3368) "
                     "or (..., 3374)")


def _unpack(rows):
    """Packed rows, a tensor, as float16 (..., near), float16 (..., 200, 6) and types uint8 (..., 200): views where possible."""
    near = _near(rows.shape, rows.dtype == torch.uint8)
    halves = rows[..., :-ROADS]
    # A view needs even strides and an even address, which any arena gives; other tensors are copied.
    if halves.storage_offset() % 2 or any(stride % 2 for stride in halves.stride()[:-1]) or halves.stride(-1) != 1:
        halves = halves.contiguous()
    halves = halves.view(torch.float16)
    return halves[..., :near], halves[..., near:].unflatten(-1, (ROADS, ROAD)), rows[..., -ROADS:]


if torch is not None:
    class Expand(nn.Module):
        """Packed rows as float32 ones, on the device where they are: uint8 [..., 3368] to [..., 2984] (3374 to 2987).

        Args:
            dtype: of the output; float16 is exact, as float32 is.

        Raises (when called):
            ValueError: rows of another length or dtype.
        """

        def __init__(self, dtype=torch.float32):
            super().__init__()
            self.dtype = dtype

        def forward(self, rows):
            near, roads, types = _unpack(rows)
            one_hot = types.unsqueeze(-1) == torch.arange(TYPES, dtype=torch.uint8, device=rows.device)
            roads = torch.cat((roads.to(self.dtype), one_hot.to(self.dtype)), -1)
            return torch.cat((near.to(self.dtype), roads.flatten(-2)), -1)

    class LateFusion(nn.Module):
        """Embeds ego, partners and roads apart, keeps the largest of each feature over partners and roads, and fuses.

        Takes float32 rows [..., 2984] and packed rows uint8 [..., 3368] alike (with `conditioned`: 2987 and 3374), with
        the same parameters and, to the accuracy of float16, the same result.  Packed rows are not expanded: instead of
        a one-hot times columns of a weight, a row of an embedding is added, and no 13 floats per road are stored.

        Args:
            output: features of the result, [..., output], in the parameters' dtype.
            hidden: features of each of the three embeddings, from a two-layer network each.
            fused: features of the hidden layer after them.
            conditioned: rows have the weights of reward_conditioned: 9 floats of ego.

        Raises (when called):
            ValueError: rows of another length or dtype.
        """

        def __init__(self, output=128, hidden=64, fused=128, conditioned=False):
            super().__init__()
            self.ego_size = EGO + (WEIGHTS if conditioned else 0)
            self.ego = _two_layers(nn.Linear(self.ego_size, hidden), hidden)
            self.partner = _two_layers(nn.Linear(PARTNER, hidden), hidden)
            self.road_point = nn.Linear(ROAD, hidden)
            self.road_type = nn.Embedding(TYPES, hidden)
            self.road = _two_layers(nn.Identity(), hidden)
            self.fuse = nn.Sequential(nn.Linear(3 * hidden, fused), nn.GELU(), nn.Linear(fused, output))

        def forward(self, rows):
            near, points, types = self._parts(rows)
            dtype = self.road_point.weight.dtype
            ego, partners = near.to(dtype).split((self.ego_size, PARTNERS * PARTNER), -1)
            roads = self.road_point(points.to(dtype)) + self.road_type(types)
            partners = self.partner(partners.unflatten(-1, (PARTNERS, PARTNER)))
            return self.fuse(torch.cat((self.ego(ego), partners.amax(-2), self.road(roads).amax(-2)), -1))

        def _parts(self, rows):
            size = self.ego_size + PARTNERS * PARTNER
            floats, packed = size + ROADS * (ROAD + TYPES), 2 * (size + ROADS * ROAD) + ROADS
            if rows.shape[-1:] == (packed,) and rows.dtype == torch.uint8:
                near, points, types = _unpack(rows)
                return near, points, types.int()
            if rows.shape[-1:] != (floats,) or not rows.is_floating_point():
                raise ValueError(f"rows is {rows.dtype} {tuple(rows.shape)}: expected floats (..., {floats}) or uint8 (..., {packed})")
            roads = rows[..., size:].unflatten(-1, (ROADS, ROAD + TYPES))
            return rows[..., :size], roads[..., :ROAD], roads[..., ROAD:].argmax(-1)

    def _two_layers(first, hidden):
        return nn.Sequential(first, nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden))

else:
    def __getattr__(name):
        if name in ("Expand", "LateFusion"):
            raise ImportError(f"fastvec.drive.observation.{name} needs PyTorch: pip install torch")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
