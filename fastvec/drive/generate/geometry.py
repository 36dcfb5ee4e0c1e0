"""Polylines by arc length, and boxes that overlap."""
from __future__ import annotations

import math

import numpy as np


class Path:
    """A polyline that is looked up by arc length, in metres.

    Attributes:
        length: of all of it.
    """

    def __init__(self, points):
        points = np.asarray(points, float)[:, :2]
        points = points[np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 1e-6]]
        self._points = points
        self._s = np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
        self.length = self._s[-1]

    def at(self, s):
        """Positions, (..., 2)."""
        return np.stack([np.interp(s, self._s, self._points[:, 0]), np.interp(s, self._s, self._points[:, 1])], -1)

    def heading(self, s, reach=1.0):
        """Directions in radians, without jumps, taken from `reach` metres before to as much behind."""
        a, b = self.at(np.clip(s - reach, 0, self.length)), self.at(np.clip(s + reach, 0, self.length))
        return np.unwrap(np.arctan2(b[..., 1] - a[..., 1], b[..., 0] - a[..., 0]))

    def resampled(self, spacing):
        """Points at equal distances of at most `spacing`, (n, 2)."""
        return self.at(np.linspace(0, self.length, max(1, math.ceil(self.length / spacing)) + 1))

    def nearest(self, point):
        """The arc length of the point of the path next to `point`, to a quarter of a metre."""
        s = np.linspace(0, self.length, max(2, int(self.length * 4)))
        return s[np.argmin(np.hypot(*(self.at(s) - point).T))]


def corners(xy, yaw, length, width):
    """Corners of oriented boxes: (t, 2) centres and (t,) headings to (t, 4, 2)."""
    c, s = np.cos(yaw), np.sin(yaw)
    ahead, aside = np.stack([c, s], -1) * length / 2, np.stack([-s, c], -1) * width / 2
    return np.stack([xy - ahead - aside, xy + ahead - aside, xy + ahead + aside, xy - ahead + aside], 1)


def boxes_overlap(a, b):
    """Do boxes (t, 4, 2) overlap, step by step?  Bool (t,), by separating axes."""
    hit = np.ones(len(a), bool)
    for box in (a, b):
        for i in (0, 1):
            axis = box[:, i + 1] - box[:, i]
            pa, pb = np.einsum("tkd,td->tk", a, axis), np.einsum("tkd,td->tk", b, axis)
            hit &= (pa.max(1) >= pb.min(1)) & (pb.max(1) >= pa.min(1))
    return hit
