"""Steps envs whose every row can be checked, while an adversary kills, stops and slows their workers.

    python tests/chaos/chaos.py --kills 1000 --rows 10000000 --seed 0

Each row carries its place, the life of its worker, its step and a checksum of all its actions; every row of every batch is
compared with what it must be.  What a run survived is printed; the first difference ends it with an error.
"""
import argparse
import os
import random
import signal
import sys
import threading
import time
from functools import partial

import numpy as np

sys.path[:0] = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))]

import fastvec  # noqa: E402
from ledger import Ledger, chained, expected  # noqa: E402

MODES = {
    "sync": {},
    "slots": {"slots": 4},
    "gathered": {"batch": 2},
    "in_order": {"batch": 2, "in_order": True},
    "zero_copy": {"batch": 2, "zero_copy": True},
}


class Adversary(threading.Thread):
    """Kills, stops and continues workers, at random moments of a seeded stream, until told to stop."""

    def __init__(self, vec, seed, pause):
        super().__init__(daemon=True)
        self.vec, self.pause = vec, pause
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.kills = self.stops = 0

    def run(self):
        while not self.over.wait(self.random.expovariate(1 / self.pause)):
            worker = self.vec._workers[self.random.randrange(self.vec.num_workers)]
            if self.random.random() < 0.75:
                self.kills += self.signal(worker, self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
            elif self.signal(worker, signal.SIGSTOP):
                self.stops += 1
                time.sleep(self.random.random() * 0.02)
                self.signal(worker, signal.SIGCONT)

    def signal(self, worker, number):
        """Whether the worker was there to get it."""
        try:
            if worker.ended(0):
                return False
            signal.pidfd_send_signal(worker.pidfd, number)
            return True
        except (OSError, ValueError):  # replaced this very moment
            return False

    def finish(self):
        self.over.set()
        self.join()


class Referee:
    """Knows what every row must be, and says where one is not."""

    def __init__(self, rows, seed):
        self.life = (np.arange(rows) + seed).astype(np.uint32)
        self.t = np.zeros(rows, np.uint32)
        self.sums = np.zeros(rows, np.uint32)
        self.verified = self.truncated = 0

    def acted(self, rows, actions):
        self.t[rows] += np.uint32(1)
        self.sums[rows] = chained(self.sums[rows], actions)

    def check(self, batch, fresh=False):
        """A batch: of a step, or (`fresh`) of the first reset."""
        rows = batch.rows
        begun = np.array([batch.infos.get(row, {}).get("restarted", False) for row in rows])
        if begun.any():
            again = rows[begun]
            self.life[again], self.t[again], self.sums[again] = batch.observations[begun][:, 1], 0, 0
            self.truncated += len(again)
        self.same("observations", rows, batch.observations, expected(rows.astype(np.uint32), self.life[rows, None], self.t[rows, None],
                                                                     self.sums[rows]))
        self.same("truncations", rows, batch.truncations, begun & (not fresh))
        self.same("terminations", rows, batch.terminations, np.zeros(len(rows), bool))
        self.same("masks", rows, batch.masks, np.ones(len(rows), bool))
        self.same("rewards", rows, batch.rewards, np.where(begun, 0, self.t[rows]).astype(np.float32))
        for row, t in zip(rows[~begun], self.t[rows][~begun]):
            told = batch.infos.get(row, {}).get("t")
            if told not in (None, t):
                raise AssertionError(f"row {row}: infos of step {told} came with step {t}")
        self.verified += len(rows)

    def same(self, what, rows, got, must):
        wrong = np.flatnonzero((got != must).reshape(len(rows), -1).any(1))
        if len(wrong):
            k = wrong[0]
            raise AssertionError(f"{what} of row {rows[k]}, step {self.t[rows[k]]}: {got[k]}, not {must[k]}; {len(wrong)} rows differ")


def one_run(mode, workers, agents, kills, rows, seed, pause, start_method="fork", wait="auto", progress=lambda *_: None):
    """Steps until so many workers were killed and so many rows verified.

    Returns:
        (the referee, the adversary, restarts)
    """
    options = dict(MODES[mode])
    if "batch" in options:
        options["batch_size"] = options.pop("batch")
    creators = [partial(Ledger, i, 1, 0.001 * (i == 0)) if agents == 1 else partial(Ledger, i * agents, agents) for i in range(workers)]
    with fastvec.make(creators, workers, seed=seed, start_method=start_method, wait=wait, on_failure="restart", max_restarts=1 << 30,
                      **options) as vec:
        referee, adversary = Referee(vec.num_rows, seed), Adversary(vec, seed, pause)
        referee.life = np.repeat(np.arange(workers) + seed, agents).astype(np.uint32)
        actions = np.random.default_rng(seed)
        first = set()
        vec.async_reset()
        adversary.start()
        try:
            while adversary.kills < kills or referee.verified < rows:
                batch = infos_by_row(vec.recv(), agents)
                referee.check(batch, fresh=not first >= set(batch.rows))
                first.update(batch.rows)
                chosen = actions.integers(0, 1000, len(batch.rows))
                referee.acted(batch.rows, chosen)
                vec.send(chosen)
                progress(adversary.kills, referee.verified)
        finally:
            adversary.finish()
        return referee, adversary, sum(w.restarts for w in vec.stats().workers)


def infos_by_row(batch, agents):
    """The infos of envs, given to each row of theirs."""
    return batch._replace(infos={e * agents + a: info for e, info in batch.infos.items() for a in range(agents)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=1000, help="at least, over all modes")
    parser.add_argument("--rows", type=int, default=10_000_000, help="verified, at least, over all modes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.05, help="mean seconds between two attacks")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--agents", type=int, default=64, help="rows of each env")
    args = parser.parse_args()
    began = time.monotonic()
    total = np.zeros(5, np.int64)
    for k, mode in enumerate(MODES):
        referee, adversary, restarts = one_run(
            mode, args.workers, args.agents, -(-args.kills // len(MODES)), -(-args.rows // len(MODES)), args.seed + k, args.pause
        )
        figures = np.array([adversary.kills, adversary.stops, restarts, referee.truncated, referee.verified])
        total += figures
        print(f"{mode:10}", told(figures), flush=True)
    print(f"survived   {told(total)}; nothing lost, nothing repeated, in {time.monotonic() - began:.0f} s")


def told(figures):
    return "{:,} kills, {:,} stops, {:,} restarts, {:,} rows truncated, {:,} rows verified".format(*figures)


if __name__ == "__main__":
    main()
