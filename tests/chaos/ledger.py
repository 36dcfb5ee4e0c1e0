"""Envs whose rows can be checked by whoever knows which actions they got."""
import struct
import time
import zlib

import numpy as np

import fastvec

SIZE = 64  # numbers in an observation: several cache lines, so that a torn row shows


class Ledger(fastvec.Env):
    """Every number of a row follows from (agent's place, life, step, checksum of all actions of this life).

    The life is the seed of the last reset: a worker that was started again has another.
    """

    observation_space = fastvec.Spec((SIZE,), "uint32")
    action_space = fastvec.Spec((), "int64", low=0, high=999)

    def __init__(self, first_row, num_agents, slow=0.0):
        self.num_agents = num_agents
        self.places = np.arange(first_row, first_row + num_agents, dtype=np.uint32)
        self.slow = slow

    def reset(self, seed=None, options=None):
        self.life = np.uint32(self.life if seed is None else seed & 0xFFFFFFFF)
        self.t = np.uint32(0)
        self.sums = np.zeros(self.num_agents, np.uint32)
        self.write()

    def step(self, actions):
        if self.slow and self.t % 8 == 0:
            time.sleep(self.slow)
        self.t += np.uint32(1)
        self.sums = chained(self.sums, actions)
        self.rewards[:] = self.t
        self.terminations[:] = False
        self.truncations[:] = False
        self.write()
        if self.t % 16 == 0:
            return {"t": int(self.t), "padding": b"x" * int(self.t % 5000)}  # messages of many sizes
        return None

    def write(self):
        self.observations[:] = expected(self.places, self.life, self.t, self.sums)


def chained(sums, actions):
    """The checksum of each row after one more action."""
    return np.array([zlib.crc32(struct.pack("<q", a), int(s)) for s, a in zip(sums, actions, strict=True)], np.uint32)


def expected(places, life, t, sums):
    """uint32 [rows, SIZE]: the observation that a row must be."""
    rows = np.empty((len(places), SIZE), np.uint32)
    rows[:, 0::4] = places[:, None]
    rows[:, 1::4] = np.asarray(life)
    rows[:, 2::4] = np.asarray(t)
    rows[:, 3::4] = sums[:, None]
    return rows
