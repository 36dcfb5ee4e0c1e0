"""Rollouts in the arena are what stepping and copying gives, bit for bit; whose they are, and until when."""
import os
import threading

import envs
import numpy as np
import pytest

import fastvec
import fastvec.drive

try:
    import torch  # here, so that the collections after each test do not look through it again
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs torch")

T, ROLLOUTS = 7, 4
FIELDS = {"values": ((), "float32"), "state": fastvec.Spec((2, 3), "float64")}
NAMES = ("observations", "next_observations", "actions", "rewards", "terminations", "truncations")


class Cut(envs.Scripted):
    """Every other episode is truncated."""

    def step(self, action):
        observation, reward, over, _, info = super().step(action)
        late = over and self.episode % 2 == 1
        return observation, reward, over and not late, late, info


CREATORS = {"compiled": envs.probe, "gymnasium": Cut, "rows": envs.Herd}
MODES = {
    "this process": {"num_workers": 0},
    "sync": {"num_workers": 2},
    "gathered": {"num_workers": 3, "batch_size": 2},
    "with a rest": {"num_workers": 3, "batch_size": 4},
    "in order": {"num_workers": 3, "batch_size": 4, "in_order": True},
    "zero copy": {"num_workers": 3, "batch_size": 2, "zero_copy": True},
    "zero copy, in order": {"num_workers": 3, "batch_size": 2, "zero_copy": True, "in_order": True},
}


def make(creator=Cut, horizon=T, **options):
    return fastvec.make(creator, **{"num_workers": 0, "num_envs": 6, "seed": 11, "horizon": horizon, **options})


def actions_at(vec, t):
    """[num_rows, ...], a function of the step alone."""
    rng, spec = np.random.default_rng([t, 7]), vec.action_spec
    if spec.dtype.kind == "f":
        return rng.uniform(-1, 1, (vec.num_rows, *spec.shape)).astype(spec.dtype)
    return rng.integers(0, int(spec.high) + 1, vec.num_rows)


def values_of(observations):
    """Any function of observations."""
    return (observations.astype(np.float64) @ np.arange(1, observations.shape[-1] + 1)).astype(np.float32) % 13


def state_of(observations):
    return np.repeat(values_of(observations).astype(float), 6).reshape(-1, 2, 3)


def policy(vec, double_buffer=False, seen=None):
    """What answers a batch: actions of each row's own step, values and a state."""
    def answer(batch):
        number = vec._collecting.number
        steps = vec.batch_slots - (T + 1) * (number % 2 if double_buffer else 0) + T * number
        if seen is not None:
            seen.append((steps, batch._replace(**{name: np.array(getattr(batch, name)) for name in batch._fields if name != "infos"})))
        actions = np.stack([actions_at(vec, t)[row] for t, row in zip(steps, batch.rows)])
        return actions, {"values": values_of(batch.observations), "state": state_of(batch.observations)}

    return answer


def by_steps(creator, steps, **options):
    """Lists over time, as a trainer would copy them: arrays by name, and infos."""
    with fastvec.make(creator, 0, num_envs=6, seed=11, **options) as vec:
        vec.reset()
        kept = {name: [array[0].copy()] for name, array in vec.fields.items()} | {"infos": []}
        for t in range(steps):
            kept["actions"][t] = actions_at(vec, t)
            if options.get("autoreset") == "disabled" and (over := vec.terminations | vec.truncations).any():
                vec.reset(env_mask=over)
                kept["observations"][t] = vec.observations.copy()
            infos = vec.step(kept["actions"][t])[4]
            for name, array in vec.fields.items():
                kept[name].append(array[0].copy())
            kept["infos"].append(dict(infos))
        return kept


def part(kept, k, name):
    """Rollout k of a list over time."""
    if name in ("observations", "actions"):
        return np.stack(kept[name][k * T:(k + 1) * T])
    return np.stack(kept[name.removeprefix("next_")][k * T + 1:(k + 1) * T + 1])


def assert_equal(rollout, kept, k):
    for name in NAMES:
        got, want = getattr(rollout, name), part(kept, k, name)
        assert got.shape == want.shape and got.dtype == want.dtype and got.tobytes() == want.tobytes(), (k, name)
    assert rollout.last_observations.tobytes() == kept["observations"][(k + 1) * T].tobytes()
    assert rollout.infos == kept["infos"][k * T:(k + 1) * T]
    want = part(kept, k, "observations")
    for name, function in (("values", values_of), ("state", state_of)):
        assert rollout.fields[name].tobytes() == np.stack([function(o) for o in want]).tobytes()
    if "tag" in kept:
        assert rollout.fields["tag"].tobytes() == np.stack(kept["tag"][k * T:(k + 1) * T + 1]).tobytes()


@pytest.fixture(scope="module")
def stepped():
    return {kind: by_steps(creator, T * ROLLOUTS) for kind, creator in CREATORS.items()}


@pytest.mark.parametrize("kind", CREATORS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("double_buffer", [False, True])
def test_equal_to_stepping_and_copying(stepped, kind, mode, double_buffer):
    with make(CREATORS[kind], double_buffer=double_buffer, trainer_fields=FIELDS, **MODES[mode]) as vec:
        vec.reset()
        answer, last = policy(vec, double_buffer), None
        for k in range(ROLLOUTS):
            rollout = vec.rollout(answer)
            assert rollout.number == k and np.shares_memory(rollout.observations, vec.fields["observations"])
            assert_equal(rollout, stepped[kind], k)
            if last is not None:
                assert_equal(last, stepped[kind], k - 1)
            last = rollout if double_buffer else None


@pytest.mark.parametrize("mode", MODES)
def test_batches(stepped, mode):
    """Each row is asked for every step once, and shown what it saw and got."""
    kept, seen = stepped["gymnasium"], []
    with make(trainer_fields=FIELDS, **MODES[mode]) as vec:
        vec.reset()
        for _ in range(ROLLOUTS):
            vec.rollout(policy(vec, seen=seen))
    asked = sorted((t, row) for steps, batch in seen for t, row in zip(steps, batch.rows))
    assert asked == [(t, row) for t in range(T * ROLLOUTS) for row in range(6)]
    for steps, batch in seen:
        for name in ("observations", "rewards", "terminations", "truncations", "masks"):
            assert getattr(batch, name).tobytes() == np.stack([kept[name][t][row] for t, row in zip(steps, batch.rows)]).tobytes()
        for env, info in batch.infos.items():
            assert info == kept["infos"][steps[list(batch.rows).index(env)] - 1][env]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("double_buffer", [False, True])
@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
def test_autoreset(num_workers, double_buffer, autoreset):
    kept = by_steps(Cut, T * ROLLOUTS, autoreset=autoreset)
    over = np.stack(kept["terminations"]) | np.stack(kept["truncations"])
    assert over.any() and np.stack(kept["truncations"]).any()
    with make(num_workers=num_workers, double_buffer=double_buffer, autoreset=autoreset, trainer_fields=FIELDS) as vec:
        vec.reset()
        answer = policy(vec, double_buffer)
        for k in range(ROLLOUTS):
            rollout = vec.rollout()
            for batch in rollout.collect():
                if autoreset == "disabled" and (batch.terminations | batch.truncations).any():
                    vec.reset(env_mask=batch.terminations | batch.truncations)
                vec.send(*answer(batch))
            following = over[k * T:(k + 1) * T] if autoreset == "next_step" else np.zeros((T, 6), bool)
            assert rollout.masks.tolist() == (~following).tolist()
            for name in set(NAMES) - {"next_observations"}:
                assert getattr(rollout, name).tobytes() == part(kept, k, name).tobytes(), (k, name)


def test_masks_are_the_arenas(stepped):
    with make(envs.Herd) as vec:
        vec.reset()
        for k in range(ROLLOUTS):
            rollout = vec.rollout(lambda batch: (np.stack([actions_at(vec, 0)[row] for row in batch.rows]), None))
            assert np.shares_memory(rollout.masks, vec.fields["masks"])
            assert rollout.masks.tolist() == part(stepped["rows"], k, "masks").tolist()


def test_drive():
    """Agents that are done before their world, and worlds that begin anew, over several rollouts."""
    creator, actions = fastvec.drive.creator("shipped", worlds=2, episode_len=15), np.random.default_rng(0).integers(0, 91, (60, 200))
    with fastvec.make(creator, 0, seed=0) as vec:
        vec.reset()
        names = ("observations", "rewards", "terminations", "truncations", "masks")
        rows, kept = vec.num_rows, {name: [vec.fields[name][0].copy()] for name in names}
        for t in range(60):
            vec.step(actions[t, :rows])
            for name, arrays in kept.items():
                arrays.append(vec.fields[name][0].copy())
    kept = {name: np.stack(arrays) for name, arrays in kept.items()}
    assert kept["truncations"].any() and not kept["masks"].all() and kept["masks"][31].any()
    with fastvec.make(creator, 1, seed=0, horizon=20) as vec:
        vec.reset()
        for k in range(3):
            steps = iter(range(20 * k, 20 * k + 20))
            rollout = vec.rollout(lambda batch: (actions[next(steps), :rows], None))
            assert np.array_equal(rollout.observations, kept["observations"][20 * k:20 * k + 20])
            for name in ("rewards", "terminations", "truncations", "masks"):
                assert np.array_equal(getattr(rollout, name), kept[name][20 * k + 1:20 * k + 21])


# ---- advantages ------------------------------------------------------------------------------------------------------


def critic(observations):
    return np.sin(values_of(observations)) + 2


def plain_gae(kept, finals, counting, last, steps, gamma, gae_lambda):
    """Advantages of all steps of a run by steps, in plain Python; `finals[t, row]`: of who was truncated, None where unknown."""
    advantages = np.zeros((steps, 6))
    for row in range(6):
        for t in reversed(range(steps)):
            if not counting[t, row]:
                continue
            terminated, truncated = kept["terminations"][t + 1][row], kept["truncations"][t + 1][row]
            value = critic(kept["observations"][t])[row]
            following = critic(kept["observations"][t + 1])[row] if t + 1 < steps else last[row]
            if truncated:
                following = finals(t, row, value, following)
            delta = kept["rewards"][t + 1][row] + gamma * following * (not terminated) - value
            goes_on = t + 1 < steps and not (terminated or truncated)
            advantages[t, row] = delta + (gamma * gae_lambda * advantages[t + 1, row] if goes_on else 0)
    return advantages


@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled", "same_step, unknown", "same_step, as terminations"])
def test_gae(autoreset):
    autoreset, _, how = autoreset.partition(", ")
    steps = 29
    kept = by_steps(Cut, steps, autoreset=autoreset)
    with make(horizon=steps, autoreset=autoreset, trainer_fields={"values": ((), "float32")}) as vec:
        vec.reset()
        rollout, finals = vec.rollout(), np.full((steps, 6), np.nan)
        for t, batch in enumerate(rollout.collect()):
            if autoreset == "disabled" and (over := batch.terminations | batch.truncations).any():
                if t < 15:  # later the value of the observation before stands for it
                    finals[t - 1] = critic(batch.observations)
                vec.reset(env_mask=over)
            vec.send(actions_at(vec, t), {"values": critic(batch.observations)})
        if autoreset == "same_step" and not how:
            at, rows, observations = rollout.final_observations()
            assert at.tolist() == np.nonzero(rollout.truncations)[0].tolist() and len(at) > 4
            finals[at, rows] = critic(observations)
            for t, row, last in zip(at, rows, observations, strict=True):
                assert last.tolist() == kept["infos"][t][row]["final_obs"].tolist()
        last_values = critic(rollout.last_observations)
        given = {"disabled": finals, "same_step": 0 if how == "as terminations" else None if how else finals}.get(autoreset)
        got = rollout.gae(last_values, 0.9, 0.8, final_values=given)

        def final(t, row, value, following):
            if how == "as terminations":
                return 0
            if autoreset == "next_step":
                return following
            return value if np.isnan(finals[t, row]) else finals[t, row]

        want = plain_gae(kept, final, rollout.masks, last_values, steps, 0.9, 0.8)
        assert got[0] is rollout.advantages and got[1] is rollout.returns
        np.testing.assert_allclose(rollout.advantages, want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(rollout.returns, np.where(rollout.masks, want + rollout.fields["values"], 0), rtol=1e-4, atol=1e-4)
        scaled = rollout.gae(last_values, 0.9, 0.8, final_values=given, values=np.zeros((steps, 6)), rewards=2 * rollout.rewards)[1]
        assert not np.allclose(scaled, got[1])


def test_a_truncated_last_step_needs_no_help():
    """Nobody has reset it yet: its observation is the last of the rollout."""
    with make(horizon=2, num_envs=1, autoreset="disabled", trainer_fields={"values": ((), "float32")}) as vec:
        vec.reset()
        for k in range(20):
            rollout = vec.rollout()
            for batch in rollout.collect():
                if batch.terminations[0] or batch.truncations[0]:
                    vec.reset(env_mask=np.ones(1, bool))
                vec.send([1], {"values": [3.0]})
            if rollout.truncations[1, 0]:
                rollout.gae([7.0], gamma=0.5)
                assert rollout.advantages[1, 0] == rollout.rewards[1, 0] + 0.5 * 7 - 3
                return
        pytest.fail("no rollout ended with an episode")


def test_an_episode_that_a_reset_cuts_off_is_truncated():
    with make(autoreset="next_step", trainer_fields={"values": ((), "float32")}) as vec:
        vec.reset()
        rollout, which = vec.rollout(), np.arange(6) == 2
        for t, batch in enumerate(rollout.collect()):
            if t in (0, 2):
                observations = vec.reset(env_mask=which)[0]
                assert observations[2].tolist()[2:] == [0, 0]
            vec.send(np.ones(6, int), {"values": np.full(6, 3.0 + t)})
        assert rollout.truncations[1].tolist() == which.tolist() and not rollout.truncations[0].any()
        assert rollout.rewards[1].tolist() == [2.0] * 6 and rollout.masks[:4].all()
        rollout.gae(np.full(6, 7.0), gamma=0.5, gae_lambda=1)
        assert rollout.advantages[1, 2] == 2 + 0.5 * 4 - 4  # what it was cut off from is gone


def test_a_reset_does_not_change_who_took_part():
    with make(envs.Herd, num_envs=2) as vec:
        vec.reset()
        rollout = vec.rollout()
        for t, _ in enumerate(rollout.collect()):
            if t == 2:
                vec.reset(env_mask=np.array([True, False]))
            vec.send(np.ones((8, 2), np.float32))
        assert rollout.masks[1].tolist() == [False, True, True, True] * 2  # agent 0 sits out every second step
        assert rollout.masks[2:4].tolist() == [[True] * 5 + [False, True, True], [False, True, True, True, False, True, False, True]]
        assert rollout.truncations[1].tolist() == [False, True, True, True] + [False] * 4
        assert rollout.rewards[:3].tolist() == [[2.0] * 8] * 3


# ---- workers that die ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "gathered", "zero copy"])
def test_restarts(mode):
    """Of 3 envs, env 1 kills its worker in its third step, with each of its lives: the step is not learned from."""
    options = {"num_workers": 3, "num_envs": 3, **({} if mode == "sync" else {"batch_size": 1, "zero_copy": mode == "zero copy"})}
    with make(envs.Trapped(envs.kill_me), horizon=4, on_failure="restart", max_restarts=100, autoreset="next_step", **options) as vec:
        vec.reset()
        lost = 0
        for k in range(6):
            rollout = vec.rollout(lambda batch: (np.ones(len(batch.rows), int), None))
            died = np.array([k * 4 + t for t in range(4)]) % 3 == 2
            assert rollout.truncations[:, 1].tolist() == died.tolist() and not rollout.terminations[:, 1].any()
            assert rollout.masks[:, 1].tolist() == (~died).tolist()
            assert [info.get(1, {}).get("restarted", False) for info in rollout.infos] == died.tolist()
            assert rollout.observations[:, 1, 2].tolist() == [(k * 4 + t) % 3 for t in range(4)]
            lost += died.sum()
            assert rollout.observations[:, [0, 2], 0].tolist() == [[11, 13]] * 4
        assert lost == 8


def test_drops():
    with make(envs.Trapped(envs.kill_me), num_workers=3, num_envs=3, on_failure="drop", trainer_fields={"values": ((), "float32")}) as vec:
        vec.reset()
        for k in range(2):
            rollout = vec.rollout(lambda batch: (np.ones(3, int), {"values": np.ones(3)}))
            assert rollout.masks[:, 1].tolist() == [k == 0 and t < 2 for t in range(T)]
            assert rollout.truncations[:, 1].tolist() == [k == 0 and t == 2 for t in range(T)]
            advantages, _ = rollout.gae(np.zeros(3))
            assert not advantages[2:, 1].any() and np.isfinite(advantages).all()


# ---- whose it is -----------------------------------------------------------------------------------------------------


def zeros(batch):
    return np.zeros(len(batch.rows), int), None


def test_gone_when_the_next_begins():
    with make(trainer_fields=FIELDS) as vec:
        vec.reset()
        first, second = vec.rollout(zeros), vec.rollout()
        assert first.rewards.shape == (T, 6)  # the next has not begun
        loop = second.collect()
        next(loop)
        for name in (*NAMES, "masks", "last_observations", "fields"):
            with pytest.raises(fastvec.StateError, match="rollout 0 is gone.*double_buffer=True"):
                getattr(first, name)
        with pytest.raises(fastvec.StateError, match="rollout 0 is gone"):
            first.gae(np.zeros(6), values=np.zeros((T, 6)))
        with pytest.raises(fastvec.StateError, match="not complete"):
            second.rewards  # noqa: B018


def test_kept_until_the_next_but_one():
    with make(double_buffer=True) as vec:
        vec.reset()
        rollouts = []
        for k in range(5):
            rollouts.append(vec.rollout(zeros))
            assert [np.array_equal(r.rewards, r.rewards) for r in rollouts[-2:]] == [True] * len(rollouts[-2:])
            for old in rollouts[:-2]:
                with pytest.raises(fastvec.StateError, match="gone"):
                    old.rewards  # noqa: B018


@pytest.mark.parametrize("double_buffer", [False, True])
@pytest.mark.parametrize("end", ["reset", "async_reset", "reset some", "step"])
def test_what_else_ends_it(end, double_buffer):
    """A reset takes the slots of the next rollout, steps outside of rollouts any; what is still there has not changed."""
    with make(double_buffer=double_buffer, num_workers=2) as vec:
        vec.reset()
        for _ in range(3):
            rollout = vec.rollout(zeros)
            before = [getattr(rollout, name).copy() for name in (*NAMES, "last_observations")]
            if end == "step":
                vec.step(np.ones(6, int))
            elif end == "async_reset":
                vec.async_reset(seed=3)
                vec.recv()
            else:
                vec.reset(seed=3, env_mask=None if end == "reset" else np.arange(6) < 3)
            if double_buffer and end != "step":
                for name, array in zip((*NAMES, "last_observations"), before, strict=True):
                    assert array.tobytes() == getattr(rollout, name).tobytes(), name
            else:
                with pytest.raises(fastvec.StateError, match="gone"):
                    rollout.rewards  # noqa: B018
            if end.endswith("reset"):
                assert vec.observations[:, 0].tolist() == list(range(3, 9))
            at = vec.observations.copy()
            assert np.array_equal(vec.rollout(zeros).observations[0], at)


def test_a_thread_learns_from_the_last_while_the_next_is_collected(stepped):
    errors = []

    def learn(rollout, k):
        try:
            for _ in range(20):
                assert_equal(rollout, stepped["gymnasium"], k)
        except BaseException as error:
            errors.append(error)

    with make(double_buffer=True, num_workers=2, trainer_fields=FIELDS) as vec:
        vec.reset()
        learner, answer = None, policy(vec, True)
        for k in range(ROLLOUTS):
            rollout = vec.rollout(answer)
            if learner:
                learner.join()
            learner = threading.Thread(target=learn, args=(rollout, k))
            learner.start()
        learner.join()
    assert not errors


def test_readable_after_close():
    with make() as vec:
        vec.reset()
        rollout = vec.rollout(zeros)
        rewards = rollout.rewards.copy()
    assert np.array_equal(rollout.rewards, rewards) and "complete" in repr(rollout)


# ---- what the trainer writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_fields_written_in_place(stepped, mode):
    """`batch_slots` says where what send() scatters would go."""
    with make(trainer_fields=FIELDS, **MODES[mode]) as vec:
        vec.reset()
        for k in range(2):
            rollout, answer = vec.rollout(), policy(vec)
            for batch in rollout.collect():
                actions, fields = answer(batch)
                for name, values in {**fields, "actions": actions}.items():
                    vec.fields[name][vec.batch_slots, batch.rows] = values
                vec.send()
            assert_equal(rollout, stepped["gymnasium"], k)


def test_workers_know_nothing_of_trainer_fields():
    with make(envs.Herd, num_workers=2, trainer_fields=FIELDS) as vec:
        vec.reset()
        vec.step(np.zeros((24, 2), np.float32))
        assert vec.apply(hasattr, "tag") == [True] * 6 and vec.apply(hasattr, "values") == [False] * 6
        assert vec.trainer_fields.keys() == FIELDS.keys() and vec.fields["state"].shape == (T + 1, 24, 2, 3)


def test_trainer_fields_without_a_horizon():
    with fastvec.make(Cut, 0, num_envs=2, trainer_fields={"values": fastvec.Spec((), "float64")}) as vec:
        vec.reset()
        vec.send([0, 0], {"values": [1, 2.5]})
        assert vec.fields["values"].tolist() == [[1, 2.5]]


@needs_torch
def test_torch():
    with make(trainer_fields=FIELDS, num_workers=2) as vec:
        vec.reset()
        rollout = vec.rollout(lambda batch: (torch.ones(6, dtype=torch.int64), {"values": torch.arange(6.0, requires_grad=True)}))
        rollout.gae(torch.zeros(6))
        for name in (*NAMES, "last_observations", "masks", "advantages", "returns"):
            tensor, array = getattr(rollout.torch, name), getattr(rollout, name)
            assert tensor.data_ptr() == array.ctypes.data and tensor.shape == array.shape
        assert rollout.torch.fields["values"][3].tolist() == list(range(6))
        vec.rollout(lambda batch: (np.ones(6, int), None))
        with pytest.raises(fastvec.StateError, match="gone"):
            rollout.torch.observations  # noqa: B018


# ---- in the middle of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("after", [1, T - 1, None])
def test_leaving_the_loop_gives_it_up(mode, after):
    """Nobody waits for ever, those who were done among them: steps go on where the rows are, rollouts after a reset."""
    with make(**MODES[mode]) as vec:
        vec.reset()
        rollout = vec.rollout()
        for i, batch in enumerate(rollout.collect()):
            if i == after or after is None and vec._units_left < vec.num_units:
                break
            vec.send(np.zeros(len(batch.rows), int))
        else:
            assert after is None  # all were done at once
            batch = vec.step(np.zeros(6, int)) and vec._recv_all(None, "recv")
        with pytest.raises(fastvec.StateError, match="not complete|gone"):
            rollout.rewards  # noqa: B018
        seen = set()
        while seen != set(range(6)):
            vec.send(np.zeros(len(batch.rows), int))
            batch = vec.recv()
            seen.update(batch.rows.tolist())
        vec.reset(seed=5)
        assert vec.rollout(zeros).observations[0, :, 0].tolist() == list(range(5, 11))


def test_leaving_it_with_all_rows_in_hand():
    """The next one begins where they are."""
    with make(double_buffer=True) as vec:
        vec.reset()
        for batch in vec.rollout().collect():
            if batch.observations[0, 2] == 3:
                break
            vec.send(np.ones(6, int))
        at = batch.observations.copy()
        rollout = vec.rollout(zeros)
        assert rollout.number == 1 and np.array_equal(rollout.observations[0], at) and rollout.observations[1, 0, 2] == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_call_in_between(mode, stepped):
    with make(trainer_fields=FIELDS, **MODES[mode]) as vec:
        vec.reset()
        for k in range(2):
            rollout, answer = vec.rollout(), policy(vec)
            for batch in rollout.collect():
                assert vec.call("double", 4) == [8] * 6
                vec.send(*answer(batch))
            assert_equal(rollout, stepped["gymnasium"], k)


def test_what_a_policy_raises():
    def fails(batch):
        raise KeyError("policy")

    with make(num_workers=2, trainer_fields=FIELDS) as vec:
        vec.reset()
        with pytest.raises(KeyError, match="policy"):
            vec.rollout(fails)
        for wrong in (np.zeros(6, int), (np.zeros(6, int),), (0, 0), [0, {}], None):
            with pytest.raises(TypeError, match=r"policy: returned .*; give \(actions, fields\)"):
                vec.rollout(lambda batch: wrong)  # noqa: B023
        assert vec.rollout(lambda batch: (np.zeros(6, int), None)).number == 6


def test_an_env_that_raises_ends_it():
    vec = make(envs.Trapped(envs.throw), num_workers=2)
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match="env 1 .*KeyError"):
        vec.rollout(zeros)
    with pytest.raises(fastvec.ClosedError):
        vec.rollout(zeros)


def test_a_wait_that_takes_too_long_gives_it_up():
    with make(envs.Trapped(envs.sleep_long), num_workers=2) as vec:
        vec.reset()
        vec._timeout = 0.3  # as make(timeout=...), but not for the start
        with pytest.raises(fastvec.RecvTimeout, match="worker 0"):
            vec.rollout(zeros)
        assert vec._collecting is None
        with pytest.raises(fastvec.StateError, match="all rows in hand"):
            vec.rollout(zeros)
        vec.close(grace=0.1)


def test_what_does_not_belong_into_the_loop():
    with make() as vec:
        vec.reset()
        for wrong, says in (
            (lambda: vec.reset(), "given up by a reset"),
            (lambda: next(vec.rollout().collect()), "given up|all rows in hand"),
            (lambda: vec.step(np.zeros(6, int)), "recv.. with nothing sent"),
            (lambda: None, "recv.. with nothing sent"),
        ):
            with pytest.raises(fastvec.StateError, match=says):
                for _ in vec.rollout().collect():
                    wrong()
            vec.reset()
        assert vec.rollout(zeros).masks.all()


def assert_played(rollout):
    """By the rules of Cut, whose observations are [seed, episode, step, sum of actions]."""
    seed, episode, step, total = rollout.observations.transpose(2, 0, 1)
    acted = rollout.masks
    over = acted & (step + 1 >= 5 + episode % 3)
    late = episode % 2 == 1
    following = np.stack([seed, np.where(acted, episode, episode + 1), np.where(acted, step + 1, 0), np.where(acted, total + rollout.actions, 0)], 2)
    assert np.array_equal(rollout.next_observations, following)
    assert np.array_equal(rollout.rewards, np.where(acted, total + rollout.actions, 0))
    assert np.array_equal(rollout.terminations, over & ~late) and np.array_equal(rollout.truncations, over & late)
    assert np.array_equal(acted[1:], ~over[:-1])
    assert np.array_equal(rollout.fields["values"], values_of(rollout.observations))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("double_buffer", [False, True])
def test_whatever_comes_in_between(mode, double_buffer):
    """Rollouts, some given up, steps, resets, calls, in any order: every rollout that is complete has been played by the rules, and the
    last two, with two buffers, stay as they are."""
    rng = np.random.default_rng(list(MODES).index(mode))
    with make(double_buffer=double_buffer, trainer_fields={"values": ((), "float32")}, **MODES[mode]) as vec:
        vec.reset()
        complete, kept = 0, []

        def answer(batch):
            return rng.integers(0, 7, len(batch.rows)), {"values": values_of(batch.observations)}

        for what in rng.choice(["rollout", "rollout", "leave", "step", "reset", "reset some", "call"], 40):
            if what == "rollout":
                rollout = vec.rollout(answer)
                complete += 1
                kept = [*kept, rollout][-2:] if double_buffer else [rollout]
            elif what == "leave":
                leave = rng.integers(0, 20)
                for i, batch in enumerate(vec.rollout().collect()):
                    if i == leave:
                        break
                    vec.send(*answer(batch))
                if vec.batch_size < 6:
                    vec.reset()
                kept = []
            elif what == "step":
                for _ in range(rng.integers(1, 4)):
                    vec.step(rng.integers(0, 7, 6)) if vec.batch_size == 6 else vec.call("seed")
                kept = kept if vec.batch_size < 6 else []
            elif what == "call":
                vec.call("seed")
            else:
                vec.reset(env_mask=None if what == "reset" else rng.random(6) < 0.5)
                kept = kept[1:] if double_buffer and len(kept) == 2 else kept if double_buffer else []
            for rollout in kept:
                assert_played(rollout)
        assert complete > 5


@needs_torch
def test_the_example_of_the_docs():
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "rollouts.md")) as f:
        example = f.read().split("```python\n")[1].split("```")[0]
    names = {}
    exec(example.replace("range(10)", "range(2)"), names)
    assert names["advantages"].shape == names["returns"].shape == (names["counting"].sum(),)


# ---- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, says", [
    ({"horizon": 0}, "horizon=0; give an int of at least 1"),
    ({"horizon": 2.5}, "horizon=2.5; give an int"),
    ({"horizon": True}, "horizon=True; give an int"),
    ({"slots": 8}, "slots=8, but horizon=7 says how many there are; leave slots out"),
    ({"slots": 0, "horizon": None}, "slots=0; give an int of at least 1"),
    ({"double_buffer": True, "horizon": None}, "double_buffer=True is for rollouts; give horizon"),
    ({"double_buffer": 2}, "double_buffer=2; give True or False"),
    ({"trainer_fields": ["values"]}, r"trainer_fields=\['values'\]; give a dict"),
    ({"trainer_fields": {"values": "float32"}}, r"trainer_fields\['values'\]='float32'; give a fastvec.Spec or \(shape, dtype\)"),
    ({"trainer_fields": {"values": ((), "floatish")}}, r"trainer_fields\['values'\].*floatish.*give a fastvec.Spec"),
    ({"trainer_fields": {"values": (3, "float32")}}, r"trainer_fields\['values'\].*give a fastvec.Spec"),
    ({"trainer_fields": {"values": ((-1,), "float32")}}, r"trainer_fields\['values'\].*at least one element"),
    ({"trainer_fields": {"values": ((0,), "float32")}}, r"trainer_fields\['values'\].*at least one element"),
    ({"trainer_fields": {"values": ((), object)}}, r"trainer_fields\['values'\].*numbers or bools"),
    ({"trainer_fields": {"values": ((), "U3")}}, r"trainer_fields\['values'\].*numbers or bools"),
    ({"trainer_fields": {3: ((), "float32")}}, "trainer_fields: the name 3; give a string"),
    ({"trainer_fields": {"rewards": ((), "float32")}}, "trainer_fields: 'rewards' is a field of the envs; take another name"),
    ({"trainer_fields": {"tag": ((), "float32")}, "creator": envs.Herd}, "trainer_fields: 'tag' is a field of the envs"),
    ({"horizon": 2 ** 40}, "the arena needs .*a shorter horizon"),
])
def test_make(options, says):
    with pytest.raises((ValueError, TypeError, MemoryError), match=says):
        make(**{"num_workers": 2, **options})


def test_without_a_horizon():
    with make(horizon=None) as vec:
        vec.reset()
        with pytest.raises(fastvec.StateError, match="keeps no rollouts; give make.. a horizon"):
            vec.rollout()


def test_when_it_cannot_begin():
    with make(num_workers=3, batch_size=2) as vec:
        with pytest.raises(fastvec.StateError, match="rollout before reset"):
            vec.rollout(zeros)
        vec.async_reset()
        for step in (vec.recv, vec.reset):
            with pytest.raises(fastvec.StateError, match="begins with all rows in hand: complete the last one, or call reset"):
                vec.rollout(zeros)
            step()
        rollout = vec.rollout(zeros)
        with pytest.raises(fastvec.StateError, match="collected before"):
            next(rollout.collect())
    with pytest.raises(fastvec.ClosedError):
        vec.rollout(zeros)


@pytest.mark.parametrize("fields, says", [
    ({"value": np.zeros(6)}, r"fields: 'value' is not a trainer field; declared in make\(trainer_fields=...\): values, state"),
    ({"values": np.zeros(5)}, r"fields\['values'\]: shape \(5,\); give \(6,\)"),
    ({"values": np.zeros((6, 1))}, r"fields\['values'\]: shape \(6, 1\); give \(6,\)"),
    ({"values": np.zeros(6, complex)}, r"fields\['values'\]: dtype complex128 cannot become float32"),
    ([1], "fields"),
])
def test_send(fields, says):
    """Nothing is sent then: the batch can still be answered."""
    with make(trainer_fields=FIELDS) as vec:
        vec.reset()
        rollout = vec.rollout()
        for batch in rollout.collect():
            with pytest.raises((ValueError, TypeError), match=says):
                vec.send(np.zeros(6, int), fields)
            vec.send(np.zeros(6, int), {"values": np.ones(6)})
        assert rollout.fields["values"].all()


def test_gae_and_what_it_needs():
    with make() as vec:
        vec.reset()
        rollout = vec.rollout(zeros)
        with pytest.raises(fastvec.StateError, match="advantages: call gae"):
            rollout.advantages  # noqa: B018
        with pytest.raises(ValueError, match="values: there is no trainer field of that name; give them, or declare it"):
            rollout.gae(np.zeros(6))
        with pytest.raises(ValueError, match=r"last_values: shape \(5,\); give \(6,\)"):
            rollout.gae(np.zeros(5), values=np.zeros((T, 6)))
        with pytest.raises(fastvec.StateError, match="final_observations.. with autoreset='next_step'"):
            rollout.final_observations()
        assert rollout.gae(np.zeros(6), values=np.zeros((T, 6)))[0] is rollout.advantages
