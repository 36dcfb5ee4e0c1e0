"""Rollouts in the arena are what stepping and copying gives, bit for bit; whose they are, and until when."""
import threading

import envs
import numpy as np
import pytest

import fastvec

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
