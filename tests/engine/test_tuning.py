"""fastvec.tune: the rounds, the rule of choice, what is foreseen, and what is measured."""
import dataclasses
import functools
import os
import pickle
import random
import time

import envs
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvec
import fastvec.drive
from fastvec import machine, tuning
from fastvec.drive.scenes import SHIPPED
from fastvec.tuning import Choice, Tuner, halving, plan, trials
from fastvec.tuning.halving import Halving, Score, Unusable, ranked
from fastvec.tuning.plan import Costs, Line
from fastvec_c.probe import Probe

# ---- the rule


def score(rate, cpu=1.0, memory=1.0):
    return Score(rate, cpu, memory)


@pytest.mark.parametrize("scores, order", [
    ({"a": score(100), "b": score(90), "c": score(110)}, "cab"),  # far apart: the fastest
    ({"a": score(100, 5), "b": score(98, 2), "c": score(96, 1)}, "bac"),  # within 3 %: least CPU time
    ({"a": score(100, 2.00, 9), "b": score(98, 2.05, 3), "c": score(99, 2.10, 1)}, "bac"),  # of equal ones: least memory
    ({"a": score(98), "b": score(100), "c": score(99)}, "bca"),  # all equal: the fastest
    ({"a": score(0, float("inf")), "b": score(1)}, "ba"),  # one whose rows are all masked
    ({"a": score(0, float("inf")), "b": score(0, float("inf"), 0.5)}, "ba"),
    ({}, ""),
])
def test_rule(scores, order):
    assert "".join(ranked(scores)) == order


positive = st.floats(1e-3, 1e9)


@given(st.lists(st.builds(Score, positive, positive, positive), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_nobody_near_the_best_is_cheaper_than_the_first(scores):
    scores = dict(enumerate(scores))
    order = ranked(scores)
    assert sorted(order) == sorted(scores)
    first, most = scores[order[0]], max(s.rate for s in scores.values())
    near = [s for s in scores.values() if s.rate >= most * (1 - halving.NOISE)]
    assert first in near and first.cpu <= min(s.cpu for s in near) * (1 + halving.NOISE)


# ---- the rounds


class Bench:
    """Measures nothing, but knows what would come out, give or take some noise that longer measurements have less of."""

    def __init__(self, truth, starting=0.0, noise=0.0, bad=None):
        self.truth, self.starting, self.noise, self.bad = truth, starting, noise, bad or {}
        self.now, self.turns, self.latest, self.dropped = 0.0, [], {}, []
        self.random = random.Random(0)

    def clock(self):
        return self.now

    def measure(self, choice, round, seconds):
        assert choice not in self.dropped and seconds >= 0
        if choice in self.bad and self.bad[choice] == round:
            raise Unusable("bad")
        self.now += seconds + (self.starting if not any(c == choice for c, *_ in self.turns) else 0)
        self.turns.append((choice, round, seconds))
        rate = self.truth[choice].rate * (1 + self.noise * self.random.uniform(-1, 1) / (1 + 10 * seconds))
        known = self.latest.get(choice, (0, []))
        self.latest[choice] = (round, [*(known[1] if known[0] == round else []), rate])

    def score(self, choice):
        if choice not in self.latest:
            return None
        rates = sorted(self.latest[choice][1])
        return self.truth[choice]._replace(rate=rates[len(rates) // 2])

    def drop(self, choice):
        self.dropped.append(choice)

    def seconds(self, round):
        return sum(s for _, r, s in self.turns if r == round)


def run(bench, seconds=30.0, choices=None):
    rounds = Halving(choices or list(bench.truth), bench, bench.clock)
    return rounds, rounds.run(seconds)


def test_the_best_of_many_wins():
    bench = Bench({i: score(100 + 10 * i) for i in range(32)}, starting=0.05, noise=0.3)
    rounds, finished = run(bench)
    assert finished and rounds.order()[0] == 31 and len(rounds.alive) == halving.FINALISTS and rounds.round == 4
    assert sorted(bench.dropped + rounds.alive) == list(range(32))
    assert 29 < bench.now <= 30.1


def test_better_ones_are_measured_longer_and_side_by_side():
    bench = Bench({i: score(100 + 10 * i) for i in range(16)})
    run(bench)
    for number, alive in ((1, 16), (2, 8), (3, 4)):
        turns = [c for c, r, _ in bench.turns if r == number]
        assert len(set(turns)) == alive and turns == 3 * turns[:alive]  # one pass after the other
    assert bench.seconds(1) == pytest.approx(15) and bench.seconds(2) == pytest.approx(7.5) and bench.seconds(3) == pytest.approx(7.5)


def test_few_choices_take_all_the_time():
    bench = Bench({"a": score(1), "b": score(2)})
    rounds, finished = run(bench, 6.0)
    assert finished and rounds.round == 1 and bench.now == pytest.approx(6) and rounds.order() == ["b", "a"] and bench.dropped == []


def test_the_fastest_stays_among_cheaper_ones():
    """All but it are 2 % slower and cheaper: the rule prefers them, but what they are compared to is measured on."""
    bench = Bench({i: score(100 if i == 0 else 98, cpu=10 - i) for i in range(9)})
    rounds, _ = run(bench)
    assert 0 in rounds.alive and rounds.order()[0] == 8


def test_slow_starts_end_with_half_of_the_time():
    bench = Bench({i: score(i + 1) for i in range(20)}, starting=2.0)
    rounds, finished = run(bench, 20.0)
    late = {c for c, why in rounds.unusable.items() if why == "no time was left to start it"}
    assert finished and late == set(range(5, 20)) and set(bench.dropped) >= late and rounds.order()[0] == 4
    assert bench.now <= 21


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_one_is_measured_even_without_time(seconds):
    bench = Bench({i: score(i + 1) for i in range(8)})
    rounds, finished = run(bench, seconds)
    assert not finished and rounds.order() == [0] and [c for c, *_ in bench.turns] == [0]


def test_one_is_measured_even_if_it_takes_too_long():
    bench = Bench({i: score(i + 1) for i in range(8)}, starting=100.0)
    rounds, finished = run(bench, 1.0)
    assert not finished and rounds.order() == [0] and bench.now < 102


def test_those_that_cannot_be_measured_are_out():
    bench = Bench({i: score(100 + 10 * i) for i in range(8)}, bad={7: 1, 6: 2})
    rounds, finished = run(bench)
    assert finished and rounds.order()[0] == 5 and rounds.unusable == {7: "bad", 6: "bad"} and {6, 7} <= set(bench.dropped)


def test_none_can_be_measured():
    bench = Bench({i: score(1) for i in range(3)}, bad={i: 1 for i in range(3)})
    rounds, _ = run(bench)
    assert rounds.order() == rounds.alive == [] and len(rounds.unusable) == 3


def test_interrupted_rounds_leave_what_is_known():
    bench = Bench({i: score(i + 1) for i in range(16)})
    rounds = Halving(list(bench.truth), bench, bench.clock)

    def watch():
        if len(bench.turns) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds.run(30, watch)
    assert rounds.order() == [4, 3, 2, 1, 0] and rounds.round == 1


# ---- what is foreseen


@pytest.mark.parametrize("points, line", [
    ([(1, 5.0)], Line(0, 5)), ([(4, 8.0)], Line(0, 2)), ([(1, 5.0), (4, 11.0)], Line(3, 2)), ([(1, 5.0), (4, 2.0)], Line(5, 0)),
    ([(1, 1.0), (4, 10.0)], Line(0, 3)),
])
def test_lines(points, line):
    assert Line.through(points) == line


@pytest.mark.parametrize("cpus, counts", [
    (1, [0, 1, 2]), (1.5, [0, 1, 2]), (0.5, [0, 1, 2]), (2, [0, 1, 2, 4]), (6, [0, 1, 2, 4, 5, 6, 12]), (8, [0, 1, 2, 4, 7, 8, 16]),
])
def test_worker_counts(cpus, counts):
    assert plan.worker_counts(cpus) == counts


def test_grid():
    found = plan.grid([0, 1, 2, 3], [1, 4], tuning.BATCHES)
    assert {b for w, _, b in found if w < 2} == {"all"}  # there are no halves of one
    assert {b for w, _, b in found if w == 2} == {"all", "gathered", "zero_copy"}
    assert {b for w, _, b in found if w == 3} == {"all", "gathered"}  # no equal blocks of three
    assert {n for _, n, _ in found} == {1, 4} and len(found) == len(set(found)) == 14


def costs(start=(0.0, 0.001), step=(0.0, 1e-4), nbytes=(1e6, 1e6), rows=(0.0, 1.0), policy=(0.0, 0.0), cpus=2.0, known=()):
    return Costs(Line(*start), Line(*step), Line(*nbytes), Line(*rows), Line(*policy), cpus, frozenset(known))


@pytest.mark.parametrize("rows, agents, expected", [
    (8, 1, {(0, 8, "all"), (1, 8, "all"), (2, 4, "all"), (4, 2, "all"), (2, 8, "gathered"), (4, 4, "gathered")}),
    (7, 1, {(0, 7, "all"), (1, 7, "all"), (2, 4, "all"), (4, 2, "all"), (2, 7, "gathered"), (4, 4, "gathered")}),
    (6, 3, {(0, 2, "all"), (1, 2, "all"), (2, 1, "all"), (2, 2, "gathered"), (4, 1, "gathered")}),  # 4 workers would give 12 rows
    (1, 1, {(0, 1, "all"), (1, 1, "all"), (2, 1, "gathered")}),
])
def test_grid_of_rows(rows, agents, expected):
    assert set(plan.grid_of_rows([0, 1, 2, 4], rows, ("all", "gathered"), costs(rows=(0.0, float(agents))))) == expected


def choices(workers=(0, 1, 2, 4), sizes=(1, 4, 16), batches=tuning.BATCHES):
    return [Choice(*c, "envs") for c in plan.grid(workers, sizes, batches)]


def test_all_are_tried_where_there_is_time():
    planned = costs().plan(choices(), 30.0, 7.5)
    assert set(planned.choices) == set(choices()) and planned.left_out == []
    assert [c.num_workers for c in planned.choices[-3:]] == [0, 0, 0]  # nothing is forked after them


def test_what_takes_too_long_is_left_out():
    planned = costs(start=(0.1, 1.0)).plan(choices(), 30.0, 7.5)
    told = {str(c): why for c, why in planned.left_out}
    assert told["4 workers x 16 envs"] == "starting it should take 32 s"
    assert all(costs(start=(0.1, 1.0)).startup(c) <= 7.5 for c in planned.choices) and planned.choices
    planned = costs(step=(0.0, 0.2)).plan(choices(), 1000.0, 1.0)
    assert {str(c): why for c, why in planned.left_out}["1 worker x 16 envs"] == "a step of all should take 3.2 s"


def test_too_little_time_is_for_the_most_promising():
    c = costs(start=(1.0, 0.0))
    planned = c.plan(choices(), 18.0, 4.5)
    kept, out = planned.choices, [choice for choice, why in planned.left_out if "time for all was too short" in why]
    assert kept and out and sum(map(c.startup, kept)) <= 9
    assert max(map(c.rate, kept)) >= max(map(c.rate, out))
    for workers in {choice.num_workers for choice in kept}:  # of each number of workers the best
        assert min([c.rate(k) for k in kept if k.num_workers == workers]) >= max([c.rate(o) for o in out if o.num_workers == workers], default=0)
    assert {choice.num_workers for choice in kept} == {0, 1, 2, 4}


def test_one_is_planned_even_without_time():
    assert len(costs().plan(choices(workers=[2]), 0.0, 1.0).choices) == 1


def test_what_runs_already_costs_no_start():
    probes = [Choice(1, 1, "all", "envs"), Choice(1, 4, "all", "envs")]
    planned = costs(start=(9.0, 9.0), known=[1, 4]).plan(choices(), 10.0, 2.5)
    assert set(probes) <= set(planned.choices)


def test_foreseen_rates():
    """A trainer that is as busy as its envs does twice as much when these step meanwhile, given the CPUs."""
    c = costs(step=(0.0, 1e-3), policy=(2e-3, 0.0), cpus=4.0)
    sync, half = Choice(2, 2, "all", "envs"), Choice(2, 2, "zero_copy", "envs")
    assert c.rate(Choice(2, 1, "all", "envs")) > 1.4 * c.rate(Choice(1, 1, "all", "envs"))
    assert c.seconds(sync) == pytest.approx(4e-3, rel=0.01) and c.seconds(half) == pytest.approx(4e-3, rel=0.01)
    assert costs(step=(0.0, 1e-3), cpus=4.0).rate(half) == pytest.approx(costs(step=(0.0, 1e-3), cpus=4.0).rate(sync), rel=0.01)
    assert costs(step=(0.0, 2e-3), policy=(1e-3, 0.0), cpus=4.0).rate(half) > 1.2 * costs(step=(0.0, 2e-3), policy=(1e-3, 0.0), cpus=4.0).rate(sync)
    assert c.memory(Choice(2, 3, "all", "envs")) == 8e6


# ---- what is measured


def bench(creator=Probe, needs=lambda choice: 0, **kwargs):
    return trials.Trials(lambda choice: fastvec.make(creator, **choice.arguments(), seed=0, timeout=20), needs, **kwargs)


def choice(workers, envs_each, batches="all"):
    return Choice(workers, envs_each, batches, "envs")


@pytest.mark.parametrize("which, batch", [
    (choice(0, 3), 3), (choice(1, 3), 3), (choice(2, 2), 4), (choice(4, 2, "gathered"), 4), (choice(2, 3, "zero_copy"), 3),
])
def test_a_slice(which, batch):
    running = bench(functools.partial(Probe, work_us=50, num_agents=2))
    try:
        began = time.perf_counter()
        running.measure(which, 1, 0.02)
        running.measure(which, 2, 0.02)
        running.measure(which, 2, 0.02)
        took = time.perf_counter() - began
        trial = running.known[which]
        assert [s.round for s in trial.slices] == [1, 2, 2] and len(trial.latest()) == len(trial.rates()) == 2
        assert trial.rows == 2 * batch and trial.startup > 0 and trial.memory > 0
        for s in trial.slices:
            assert s.rows == s.batches * trial.rows and s.seconds >= 0.02
            assert 0 < s.cpu and 0 < s.policy and s.envs >= 0 and s.envs + s.handoff + s.policy <= took
            if which.batches == "all":
                assert s.envs + s.handoff >= s.batches * which.per_worker * 50e-6
        rows, spent = trial.total("rows"), trial.total("cpu")
        assert running.score(which) == (pytest.approx(np.median(trial.rates())), pytest.approx(spent / rows), trial.memory)
        assert spent / rows >= 0.25 * 25e-6  # each env burns 50 µs for two rows; a step or two may lie across the ends of a slice
    finally:
        running.close()


def test_masked_rows_do_not_count():
    running = bench(functools.partial(envs.Herd, 3))
    running.measure(choice(1, 1), 1, 0.0)
    vec = running._open[choice(1, 1)].vec
    before = running.known[choice(1, 1)].slices[-1]
    assert before.batches == 1 and before.rows == int(vec.masks.sum())
    live = []
    for _ in range(12):
        running.measure(choice(1, 1), 1, 0.0)
        live.append(running.known[choice(1, 1)].slices[-1].rows)
        assert live[-1] == int(vec.masks.sum())
    running.close()
    assert min(live) < 3 == max(live)


def test_the_policy_is_asked():
    seen = []

    def policy(observations):
        seen.append(observations.shape)
        return np.ones(len(observations), np.int64)

    running = bench(policy=policy)
    running.measure(choice(1, 2), 1, 0.0)
    assert set(seen) == {(2, 4)} and running._open[choice(1, 2)].vec.rewards.tolist() == [1, 1]
    running.close()


def test_a_busy_trainer_is_seen():
    running = bench(policy_us=2000)
    running.measure(choice(1, 1), 1, 0.03)
    one = running.known[choice(1, 1)].slices[-1]
    running.close()
    assert one.policy >= one.batches * 2000e-6 and one.cpu >= one.batches * 2000e-6


def test_those_used_last_make_room(monkeypatch):
    monkeypatch.setattr(trials, "MOST_WAITING", 3)
    running = bench()
    a, b, c = choice(1, 1), choice(1, 2), choice(2, 1)
    for which in (a, b, c):  # the last needs the place of b, whose next turn comes after that of a
        running.measure(which, 1, 0.0)
    assert list(running._open) == [a, c] and len(running.known) == 3
    running.measure(b, 2, 0.0)  # starts again
    assert list(running._open) == [a, b] and [s.round for s in running.known[b].slices] == [1, 2]
    running.close()
    assert not running._open


def test_descriptors_are_not_used_up(monkeypatch):
    import resource

    for limit, most in ((1024, 128), (100_000, 1024), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limit=limit: (limit, limit))
        assert trials._most_workers() == most
    monkeypatch.undo()
    before = len(os.listdir("/proc/self/fd"))
    with fastvec.make(Probe, 4):
        assert len(os.listdir("/proc/self/fd")) - before <= 4 * trials.DESCRIPTORS + 1  # the arena's, one of the "other things"


def test_too_large_for_the_memory():
    needed = {choice(1, 1): 0, choice(2, 1): 2 * psutil.virtual_memory().total}
    running = bench(needs=needed.get)
    running.measure(choice(1, 1), 1, 0.0)
    with pytest.raises(Unusable, match="too large: it should take .* MiB are available"):
        running.measure(choice(2, 1), 1, 0.0)
    assert not running._open  # it had asked for their memory
    huge = bench(functools.partial(Probe, observation_size=1 << 28, num_agents=1 << 12))
    with pytest.raises(Unusable, match="too large: the arena needs"):
        huge.measure(choice(1, 1), 1, 0.0)


def test_one_that_fails_is_unusable():
    running = bench(functools.partial(Probe, fail_at=30))
    with pytest.raises(Unusable, match=r"env 0 \(worker 0\) raised .* in step\(\)"):
        for _ in range(40):
            running.measure(choice(1, 1), 1, 0.0)
    running.close()

    def start(which):
        raise OSError(11, "Resource temporarily unavailable")

    with pytest.raises(Unusable, match="Resource temporarily unavailable"):
        trials.Trials(start, lambda choice: 0).measure(choice(1, 1), 1, 0.0)


def test_cpu_seconds():
    before, used = machine.cpu_seconds(os.getpid()), time.process_time()
    assert before == pytest.approx(used, abs=0.05)
    from fastvec_c.probe import burn_cpu

    burn_cpu(3000)
    assert machine.cpu_seconds(os.getpid()) - before >= 3000e-6
    assert machine.cpu_seconds(2**22 + 1) == 0.0  # beyond what Linux gives out


# ---- all together


@pytest.fixture
def brief(monkeypatch):
    """Measurements as short as can be."""
    measure = trials.Trials.measure
    monkeypatch.setattr(trials.Trials, "measure", lambda self, choice, round, seconds: measure(self, choice, round, 0.0))


def some_env(worlds=1, env_index=0):
    return Probe(num_agents=2 * worlds)


def test_tune(brief):
    standings = []
    tuner = Tuner(Probe, 30.0, workers=[0, 1, 2], per_worker=[1, 8])
    tuner.run(standings.append)
    found = tuner.result()
    assert found.chosen is found.measured[0] and found.cpus == machine.usable_cpus() and 0 < found.seconds and found.finished
    for m in found.measured:
        assert m.slowest <= m.rows_per_second <= m.fastest and m.cpu_seconds_per_million > 0 and m.megabytes > 0
        assert m.envs + m.handoff + m.policy == pytest.approx(1) and m.batch_rows == m.choice.units_per_batch * m.choice.per_worker
    measured = {m.choice for m in found.measured}
    assert measured == set(choices([0, 1, 2], [1, 8])) and found.left_out == ()
    assert [m.round for m in found.measured] == [3] * 4 + [2] + [1] * 5  # 10, 5 and 4 choices are in the rounds
    assert [s.round for s in standings] == sorted(s.round for s in standings) and standings[0].round == 0 and standings[-1].best in measured
    assert pickle.loads(pickle.dumps(found)) == found 
    with found.make(Probe) as vec:
        assert vec.num_envs == found.chosen.choice.units * found.chosen.choice.per_worker


def test_tune_for_the_time_given():
    found = fastvec.tune(Probe, 1.0, workers=[0, 1], per_worker=[4])
    assert found.seconds >= 1.0 and {m.choice for m in found.measured} | {c for c, _ in found.left_out} == {choice(0, 4), choice(1, 4)}


def test_tune_worlds(brief):
    found = fastvec.tune(some_env, 30.0, workers=[1], per_worker=[1, 3], batches="all", slots=2)
    assert found.chosen.choice.vary == "worlds" and found.arguments() == {"num_workers": 1, "slots": 2}
    with found.make(some_env) as vec:
        assert vec.num_rows == 2 * found.chosen.choice.per_worker and vec.num_envs == 1 and vec.slots == 2
    fixed = Tuner(functools.partial(some_env, worlds=3), 1.0)
    assert fixed._vary == "envs" and Tuner(some_env, 1.0, vary="envs")._vary == "envs"


def test_tune_drive(brief):
    creator = fastvec.drive.creator(str(SHIPPED / "gen_parking_s0.json.gz"), obs_radius=30.0)
    found = fastvec.tune(creator, 30.0, workers=[0], per_worker=[2], batches="all")
    assert found.chosen.choice == Choice(0, 2, "all", "worlds")
    built = tuning._with_size(creator, found.chosen.choice)
    assert built == dataclasses.replace(creator, worlds=2)


def test_tune_rows(brief):
    found = fastvec.tune(Probe, 30.0, rows=6, workers=[0, 1, 2], policy_us=10)
    assert {m.batch_rows for m in found.measured} == {6} and len(found.measured) == 5


def test_one_that_fails_later_is_left_out(brief, monkeypatch):
    measure = trials.Trials.measure

    def failing(self, choice, round, seconds):
        if choice.num_workers == 2 and self.known.get(choice):
            raise Unusable("gone")
        measure(self, choice, round, seconds)

    monkeypatch.setattr(trials.Trials, "measure", failing)
    found = fastvec.tune(Probe, 30.0, workers=[1, 2], per_worker=[1], batches="all")
    assert [m.choice for m in found.measured] == [choice(1, 1)] and found.left_out == ((choice(2, 1), "gone"),) and found.finished


def test_interrupted(brief):
    def watch(standing):
        if standing.round == 1:
            raise KeyboardInterrupt

    tuner = Tuner(Probe, 30.0, workers=[0, 1], per_worker=[1, 4])
    with pytest.raises(KeyboardInterrupt):
        tuner.run(watch)
    found = tuner.result()
    assert not found.finished and {m.choice for m in found.measured}
    assert not tuner._trials._open


def test_nothing_measured(brief):
    tuner = Tuner(Probe, 30.0)

    def watch(standing):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner.run(watch)
    with pytest.raises(fastvec.FastvecError, match="nothing was measured"):
        tuner.result()


def test_choices_that_fail_are_left_out(brief):
    """The second env of a process is one too many."""
    with pytest.raises(fastvec.FastvecError, match=r"2 workers x 3 envs: creators: env 1 .* differ"):
        fastvec.tune(Growing(), 30.0, workers=[2], per_worker=[3], batches="all")
    found = fastvec.tune(Growing(), 30.0, workers=[0, 1], per_worker=[1, 3], batches="all")
    assert found.chosen.choice.per_worker == 1 and found.finished
    assert {(c.per_worker, "differ" in why) for c, why in found.left_out} == {(3, True)}


def test_a_creator_that_dies_now_and_then_is_tried_in_workers_only():
    class Fragile:
        start_attempts = 3

        def __call__(self):
            return Probe()

    assert 0 in Tuner(Probe)._workers and Tuner(Fragile())._workers == [n for n in Tuner(Probe)._workers if n]
    assert Tuner(Fragile(), workers=[0])._workers == [0]


class Growing:
    """A creator whose envs have ever wider rows."""

    def __call__(self, env_index=0):
        return Probe(observation_size=4 + env_index)


def test_an_env_that_cannot_be_built(brief):
    with pytest.raises(fastvec.WorkerError, match="no such world"):
        fastvec.tune(envs.bad_creator, 30.0)
    with pytest.raises(fastvec.WorkerError, match="exit code 3"):
        fastvec.tune(envs.dying_creator, 30.0)


def test_an_env_that_takes_too_long():
    with pytest.raises(fastvec.RecvTimeout, match="one env takes more than 0.25 s to build, or to step; give more seconds than 1"):
        fastvec.tune(envs.slow_creator, 1.0)
    with pytest.raises(fastvec.RecvTimeout, match="one env takes more than"):
        fastvec.tune(functools.partial(envs.Scripted, envs.sleep_long), 1.0)


def test_a_policy_that_raises(brief):
    def policy(observations):
        raise KeyError("weights")

    with pytest.raises(KeyError, match="weights"):
        fastvec.tune(Probe, 30.0, policy=policy)
    with pytest.raises(ValueError, match="actions"):
        fastvec.tune(Probe, 30.0, policy=lambda observations: np.zeros(7, np.int64))


@pytest.mark.parametrize("arguments, error, told", [
    (dict(creator=3), TypeError, "3 is not callable"), (dict(creator=[Probe]), TypeError, "give one function"),
    (dict(seconds=0.5), ValueError, "seconds=0.5; give a number of at least 1"), (dict(seconds="30"), ValueError, "seconds='30'"),
    (dict(seconds=float("inf")), ValueError, "seconds=inf"), (dict(seconds=float("nan")), ValueError, "seconds=nan"),
    (dict(workers=2), ValueError, "workers=2; give a list"), (dict(workers=[]), ValueError, "workers: an empty list"),
    (dict(workers=[-1]), ValueError, "workers: -1"), (dict(workers=[5000]), ValueError, "5000; give whole numbers of at least 0, 1024 at most"),
    (dict(per_worker=[0]), ValueError, "per_worker: 0"), (dict(per_worker=[1.5]), ValueError, "per_worker: 1.5"),
    (dict(rows=0), ValueError, "rows: 0"), (dict(rows=4, per_worker=[2]), ValueError, "give rows or per_worker, not both"),
    (dict(batches="some"), ValueError, "batches="), (dict(batches=()), ValueError, "batches="),
    (dict(policy=3), TypeError, "policy=3"), (dict(policy=len, policy_us=3), ValueError, "not both"),
    (dict(policy_us=-1), ValueError, "policy_us=-1"),
    (dict(vary="worlds"), ValueError, "has no parameter `worlds`"), (dict(vary="agents"), ValueError, "vary='agents'"),
    (dict(timeout=3), TypeError, "timeout=3: tune\\(\\) has no such argument"), (dict(num_envs=3), TypeError, "num_envs=3"),
    (dict(slots=0), ValueError, "slots=0"), (dict(start_method="clone"), ValueError, "start_method='clone'"), (dict(seed=-1), ValueError, "seed=-1"),
])
def test_bad_arguments(arguments, error, told):
    with pytest.raises(error, match=told):
        fastvec.tune(**{"creator": Probe, "seconds": 1.0, **arguments})


def test_the_example():
    import doctest

    assert doctest.testmod(tuning).failed == 0
