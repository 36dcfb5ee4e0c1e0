"""Which of many choices is best, found by measuring within a time limit: successive halving.

All are measured briefly, the better half longer, and so on until a few are left (Jamieson and Talwalkar, "Non-stochastic best
arm identification and hyperparameter optimization", AISTATS 2016).
"""
from __future__ import annotations

import math
import time
from typing import NamedTuple

FINALISTS = 4  # so many are measured in the last round
PASSES = 3  # measurements of each choice in a round, one pass over all after the other, so that what else the machine does hits all
FIRST = 0.5  # the first round's share of the time: all must start in it
NOISE = 0.03  # what lies so close together is taken as equal


class Score(NamedTuple):
    """What a choice is judged by: the rate, the more the better; then CPU time for the same work, and memory."""

    rate: float
    cpu: float
    memory: float


class Unusable(Exception):
    """A choice cannot be measured; says why."""


def ranked(scores: dict) -> list:
    """The choices of {choice: Score}, best first: of those within 3 % of the best rate the one that takes least CPU time; of those
    within 3 % of that, the one with least memory.  The next one is the best of the rest by the same rule."""
    rest, order = dict(scores), []
    while rest:
        fast = _near(rest, lambda s: s.rate, max, 1 - NOISE)
        frugal = _near(fast, lambda s: s.cpu, min, 1 + NOISE)
        best = min(frugal, key=lambda choice: (frugal[choice].memory, -frugal[choice].rate))
        order.append(best)
        del rest[best]
    return order


def _near(scores, figure, best_of, factor):
    bound = factor * best_of(map(figure, scores.values()))
    return {choice: s for choice, s in scores.items() if (figure(s) >= bound if best_of is max else figure(s) <= bound)}


class Halving:
    """The rounds.  What is known stays readable when they are interrupted.

    Args:
        choices: what to choose from, hashable.
        bench: measures them.  `measure(choice, round, seconds)` does so once more, in about that time, or raises Unusable;
            `score(choice)` is the Score of the latest round that it was measured in, None before the first; `drop(choice)`
            says that it is not measured again.

    Attributes:
        alive: choices that are not out, in the order given.
        unusable: {choice: why it cannot be measured}.
        round: number of the round, from 1.
    """

    def __init__(self, choices, bench, clock=time.monotonic):
        self.alive = list(choices)
        self.unusable = {}
        self.round = 0
        self._bench, self._clock = bench, clock

    def run(self, seconds: float, watch=lambda: None) -> bool:
        """Measures for about so many seconds; calls `watch` after each measurement.  Whether all rounds were gone through."""
        end = self._clock() + seconds
        while self.alive:
            self.round += 1
            rounds = 1 + max(0, math.ceil(math.log2(len(self.alive) / FINALISTS)))  # this one and those to come
            now = self._clock()
            share = FIRST if self.round == 1 and rounds > 1 else 1 / rounds
            if not self._measure(now + share * (end - now), end, watch):
                return False
            if rounds == 1:
                break
            self._halve()
        return True

    def order(self) -> list:
        """The choices that are not out and have been measured, best first."""
        scores = {choice: self._bench.score(choice) for choice in self.alive}
        return ranked({choice: score for choice, score in scores.items() if score is not None})

    def _measure(self, until, end, watch) -> bool:
        """One round, which lasts until `until`; what some take too long, the next ones lack.  False: `end` came before all had a turn."""
        turns, first = PASSES * self.alive, len(self.alive)
        for i, choice in enumerate(turns):
            now = self._clock()
            must = self.round == 1 and i == 0  # one is measured in any case
            if now >= until and i >= first:
                break
            if now >= end and not must:
                return False
            if choice in self.unusable:
                continue
            try:
                if self.round == 1 and now >= until and not must:
                    raise Unusable("no time was left to start it")
                self._bench.measure(choice, self.round, max(0.0, until - now) / (len(turns) - i))
            except Unusable as error:
                self.unusable[choice] = str(error)
                self.alive.remove(choice)
                self._bench.drop(choice)
            watch()
        return True

    def _halve(self):
        order = self.order()
        keep = order[:max(FINALISTS, math.ceil(len(order) / 2))]
        fastest = max(order, key=lambda choice: self._bench.score(choice).rate, default=None)
        if order and fastest not in keep:  # many are as fast, as far as one can see, and cheaper: what they are compared to must not go
            keep[-1] = fastest
        for choice in set(self.alive) - set(keep):
            self._bench.drop(choice)
        self.alive = [choice for choice in self.alive if choice in keep]
