"""debug=True: every wrong number has its name and place, in every mode; and right ones pass."""
import pickle
import re
import time

import envs
import gymnasium
import numpy as np
import pytest

import fastvec
from fastvec.debug import parts
from fastvec.spaces import as_spec
from fastvec_c.probe import Probe

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 2])
MODES = pytest.mark.parametrize("mode", [
    dict(num_workers=0), dict(num_workers=4), dict(num_workers=2, slots=3), dict(num_workers=4, batch_size=2),
    dict(num_workers=4, batch_size=2, zero_copy=True), dict(num_workers=4, batch_size=1, in_order=True),
], ids=lambda mode: " ".join(f"{k}={v}" for k, v in mode.items()))


class Wild(gymnasium.Env):
    """Observes numbers from -1 to 1; env 2 observes, or earns, what it is told to in its step `at` (0: in the reset)."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2, 3), np.float32)
    action_space = gymnasium.spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32))

    def __init__(self, env_index=0, value=np.nan, at=4, reward=0.0):
        self.value, self.at, self.reward = (value, at, reward) if env_index == 2 else (0, -1, 0.0)
        self.t = 0

    def reset(self, *, seed=None, options=None):
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), self.reward if self.t == self.at else 1.0, False, False, {}

    def observe(self):
        observation = np.full((2, 3), 0.5, np.float32)
        observation[1, 2] = self.value if self.t == self.at else 1
        return observation


class Agents(fastvec.Env):
    """Three agents, of which the second is masked; env 1 is handed to `spoil` after each step."""

    observation_space = fastvec.Spec((2,), "float32", 0, 10)
    action_space = fastvec.Spec((), "int64", 0, 4)
    num_agents = 3
    fields = {"bounded": fastvec.Spec((), "int32", 0, 3), "free": fastvec.Spec((2,), "float32")}

    def __init__(self, env_index, spoil):
        self.spoil = spoil if env_index == 1 else None

    def reset(self, seed=None, options=None):
        self.write()

    def step(self, actions):
        self.write()
        if self.spoil:
            self.spoil(self)

    def write(self):
        self.observations[:], self.rewards[:] = 5, 1
        self.observations[1], self.rewards[1] = np.nan, np.inf
        self.terminations[:] = self.truncations[:] = False
        self.masks[:] = [True, False, True]
        self.bounded[:], self.free[:] = [3, 77, 0], np.nan


def steps(vec, n=12):
    """Steps until n rounds are done, whatever the batches are; n None: until an error ends it, for of asynchronous batches nobody
    knows when the bad one comes."""
    zeros = np.zeros((vec.num_rows, *vec.action_spec.shape), vec.action_spec.dtype)
    batches, deadline = np.inf if n is None else n * vec.num_envs // vec.batch_size, time.monotonic() + 60
    vec.async_reset()
    while batches > 0 and time.monotonic() < deadline:
        vec.send(zeros[vec.recv().rows])
        batches -= 1


# ---- rows ------------------------------------------------------------------------------------------------------------


@MODES
def test_an_observation_that_is_not_a_number(mode):
    vec = fastvec.make(Wild, num_envs=4, debug=True, **mode)
    with pytest.raises(fastvec.WorkerError, match=r"env 2.* raised RowError .observations\[1, 2\] is nan for agent 0 of env 2 .row 2., in step 4 of "
                       r"its worker; allowed are finite numbers from -1.0 to 1.0. in step"):
        steps(vec, None)
    with pytest.raises(fastvec.ClosedError):
        vec.reset()


@EVERYWHERE
@pytest.mark.parametrize("kwargs, says, attributes", [
    (dict(value=1.25), r"observations\[1, 2\] is 1.25 ", ("observations", (1, 2), 1.25, -1.0, 1.0)),
    (dict(value=-1.25), r"observations\[1, 2\] is -1.25 ", ("observations", (1, 2), -1.25, -1.0, 1.0)),
    (dict(value=np.inf), r"observations\[1, 2\] is inf ", ("observations", (1, 2), np.inf, -1.0, 1.0)),
    (dict(value=7, at=0), r"in a reset after 0 steps of its worker.* in reset", ("observations", (1, 2), 7.0, -1.0, 1.0)),
    (dict(value=0, reward=-np.inf), r"rewards is -inf .*allowed are finite numbers. ", ("rewards", (), -np.inf, None, None)),
])
def test_what_it_says(num_workers, kwargs, says, attributes):
    vec = fastvec.make(lambda env_index: Wild(env_index, **kwargs), num_workers, num_envs=4, debug=True)
    with pytest.raises(fastvec.WorkerError, match=says) as caught:
        steps(vec)
    error, cause = caught.value, caught.value.__cause__
    assert (error.env, error.worker, error.phase) == (2, 1 if num_workers else None, "reset" if kwargs.get("at") == 0 else "step")
    assert isinstance(cause, fastvec.RowError) and isinstance(cause, ValueError)
    assert (cause.env, cause.agent, cause.row) == (2, 0, 2)
    assert (cause.field, cause.index, cause.value, cause.low, cause.high) == attributes
    assert pickle.loads(pickle.dumps(cause)).__dict__ == cause.__dict__


@EVERYWHERE
def test_without_debug_nobody_looks(num_workers):
    with fastvec.make(Wild, num_workers, num_envs=4) as vec:
        steps(vec)


def spoil_nothing(env):
    pass


def spoil_observation(env):
    env.observations[2, 1] = 11


def spoil_reward(env):
    env.rewards[0] = np.nan


def spoil_flag(env):
    env.truncations.view(np.uint8)[1] = 2  # of a masked row: a flag all the same


def spoil_mask(env):
    env.masks.view(np.uint8)[2] = 255


def spoil_field(env):
    env.bounded[0] = -1


@EVERYWHERE
@pytest.mark.parametrize("spoil, says", [
    (spoil_observation, r"observations\[1\] is 11.0 for agent 2 of env 1 .row 5., .*from 0.0 to 10.0"),
    (spoil_reward, r"rewards is nan for agent 0 of env 1 .row 3."),
    (spoil_flag, r"truncations is the byte 2 for agent 1 of env 1 .row 4., .*allowed are 0 or 1"),
    (spoil_mask, r"masks is the byte 255 for agent 2 of env 1 .row 5."),
    (spoil_field, r"bounded is -1 for agent 0 of env 1 .row 3., .*numbers from 0 to 3"),
])
def test_rows_of_agents(num_workers, spoil, says):
    vec = fastvec.make(lambda env_index: Agents(env_index, spoil), num_workers, num_envs=2, debug=True)
    with pytest.raises(fastvec.WorkerError, match=says):
        steps(vec)


@EVERYWHERE
def test_masked_rows_may_hold_anything(num_workers):
    with fastvec.make(lambda env_index: Agents(env_index, spoil_nothing), num_workers, num_envs=2, debug=True, slots=2) as vec:
        steps(vec)


class Counted(Probe):
    """A compiled env whose first number, its steps, may be 5 at most."""

    observation_space = fastvec.Spec((4,), "float32", 0, np.array([5, np.inf, np.inf, np.inf]))


@MODES
def test_compiled_envs(mode):
    vec = fastvec.make(lambda: Counted(episode_len=100), num_envs=4, seed=0, debug=True, **mode)
    with pytest.raises(fastvec.WorkerError, match=r"observations\[0\] is 6.0 for agent 0 of env .*, in step 6 of its worker; allowed .* from 0.0 to 5.0"):
        steps(vec, None)


def test_parts_of_structured_observations():
    class Parts(envs.Scripted):
        observation_space = gymnasium.spaces.Dict({
            "camera": gymnasium.spaces.Box(0, 255, (2, 2), np.uint8),
            "state": gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(0, 1, (3,), np.float64)]),
        })

        def observe(self):
            return {"camera": np.full((2, 2), 255, np.uint8), "state": (2, np.array([0, 1, 2 if self.t == 3 else 1]))}

    with pytest.raises(fastvec.WorkerError, match=re.escape("observations['state']['f1'][2] is 2.0 for agent 0")):
        steps(fastvec.make(Parts, 1, debug=True))


def test_restart_with_debug():
    """An env that writes nonsense is as good as one that raises."""
    with fastvec.make(Wild, 4, num_envs=4, debug=True, on_failure="restart", max_restarts=100) as vec:
        vec.reset()
        for t in range(1, 10):
            _, _, _, truncations, infos = vec.step(np.zeros((4, 2), np.float32))
            assert truncations.tolist() == [False, False, t % 4 == 0, False]
            assert bool(infos) == (t % 4 == 0)
            if infos:
                assert "RowError (observations[1, 2] is nan" in infos[2]["error"]
                assert np.isfinite(vec.observations).all()


@MODES
@pytest.mark.parametrize("creator", [envs.Scripted, envs.Herd])
def test_debug_changes_no_result(creator, mode):
    def run(debug):
        seen = {}
        with fastvec.make(creator, num_envs=4, seed=3, debug=debug, **mode) as vec:
            vec.async_reset()
            for _ in range(20 * vec.num_envs // vec.batch_size):
                batch = vec.recv()
                for row, *values in zip(batch.rows, batch.observations, batch.rewards, batch.terminations, batch.truncations, batch.masks):
                    seen.setdefault(int(row), []).append([np.array(v).tolist() for v in values])
                vec.send(np.zeros((len(batch.rows), *vec.action_spec.shape), vec.action_spec.dtype))
        return {row: history[:10] for row, history in seen.items()}

    both = run(False), run(True)
    least = {row: min(len(b[row]) for b in both) for row in both[0] if row in both[1]}
    assert least and all(both[0][row][:n] == both[1][row][:n] for row, n in least.items())


def test_workers_that_are_not_forked():
    with pytest.raises(fastvec.WorkerError, match="RowError"):
        steps(fastvec.make(Wild, 2, num_envs=4, debug=True, start_method="spawn"))


# ---- actions ---------------------------------------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize("index, value, says", [
    ((2, 0), np.nan, r"actions\[2, 0\] = nan for agent 0 of env 2 .row 2.*, in batch 1; give finite numbers from -1.0 to 1.0"),
    ((3, 0), -1.5, r"actions\[3, 0\] = -1.5 .*env 3"),
    ((0, 1), np.inf, r"actions\[0, 1\] = inf .*give finite numbers of at least 0.0"),
    ((1, 1), -0.25, r"actions\[1, 1\] = -0.25 .*of at least 0.0"),
])
def test_float_actions(num_workers, index, value, says):
    with fastvec.make(envs_of_floats, num_workers, num_envs=4, debug=True) as vec:
        vec.reset()
        actions = np.zeros((4, 2), np.float32)
        actions[index] = value
        with pytest.raises(ValueError, match=says + ("" if "give" in says else "")) as caught:
            vec.send(actions)
        assert ("worker 1" in str(caught.value)) == (num_workers == 2 and index[0] >= 2)
        vec.actions[:] = actions
        with pytest.raises(ValueError, match="actions"):
            vec.send()  # written in place
        vec.step(np.zeros((4, 2)))  # nothing had been sent


def envs_of_floats():
    return Wild()


@MODES
def test_actions_in_every_mode(mode):
    """The index is that in the batch; env and row are those of the whole."""
    with fastvec.make(envs.Scripted, num_envs=4, debug=True, **mode) as vec:
        vec.async_reset()
        vec.send(np.zeros(len(vec.recv().rows), np.int64))
        batch = vec.recv()
        last = len(batch.rows) - 1
        actions = np.zeros(len(batch.rows), np.int64)
        actions[last] = 7
        row = batch.rows[last]
        with pytest.raises(ValueError, match=rf"actions\[{last}\] = 7 for agent 0 of env {row} .row {row}.*, in batch 2; give numbers from 0 to 6"):
            vec.send(actions)
        vec.send(np.zeros(len(batch.rows), np.int64))


def test_actions_of_masked_rows():
    """Floats that nobody reads may be anything; integers may not: a compiled env may take them for an index before it looks."""
    class Floats(Agents):
        action_space = fastvec.Spec((), "float32", 0, 1)

    with fastvec.make(lambda env_index: Floats(env_index, None), 1, debug=True) as vec:
        vec.reset()
        vec.step([0.5, np.nan, 1])
        with pytest.raises(ValueError, match=r"actions\[2\] = nan for agent 2 of env 0"):
            vec.send([0.5, np.nan, np.nan])
    with fastvec.make(lambda env_index: Agents(env_index, None), 0, debug=True) as vec:
        vec.reset()
        with pytest.raises(ValueError, match=r"actions\[1\] = 5 for agent 1 of env 0 .row 1., in batch 1; give numbers from 0 to 4"):
            vec.send([0, 5, 0])


def test_structured_actions():
    class Parts(envs.Scripted):
        action_space = gymnasium.spaces.Dict({"gear": gymnasium.spaces.Discrete(3, start=-1), "pedals": gymnasium.spaces.Box(0, 1, (2,), np.float32)})

        def step(self, action):
            return super().step(action["gear"])

    with fastvec.make(Parts, 1, num_envs=2, debug=True) as vec:
        vec.reset()
        vec.step({"gear": [-1, 1], "pedals": np.ones((2, 2), np.float32)})
        with pytest.raises(ValueError, match=re.escape("actions['gear'][1] = 2 for agent 0 of env 1 (row 1, worker 0), in batch 2; give numbers from -1 to 1")):
            vec.send({"gear": [0, 2], "pedals": np.ones((2, 2), np.float32)})
        with pytest.raises(ValueError, match=re.escape("actions['pedals'][0, 1] = nan")):
            vec.send({"gear": [0, 0], "pedals": np.array([[0, np.nan], [0, 0]], np.float32)})


@MODES
def test_rollouts(mode):
    if "slots" in mode:
        pytest.skip("a horizon has its own number of slots")

    def policy(batch):
        return np.full((len(batch.rows), 2), value, np.float32), None

    vec = fastvec.make(Wild, num_envs=4, horizon=8, debug=True, **mode)
    vec.reset()
    value = 2
    with pytest.raises(ValueError, match=r"actions\[0, 0\] = 2.0 for agent 0 of env .*, in batch 1; give finite numbers from -1.0 to 1.0"):
        vec.rollout(policy)
    value = 0
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match=r"observations\[1, 2\] is nan for agent 0 of env 2 .row 2., in step 4 of its worker"):
        vec.rollout(policy)


# ---- through other interfaces --------------------------------------------------------------------------------------


def test_gymnasium_vector_env():
    import fastvec.gym

    vector = fastvec.gym.VectorEnv([lambda i=i: Wild(i) for i in range(4)], 2, debug=True)
    vector.reset()
    with pytest.raises(ValueError, match=r"actions\[1, 0\] = 2.0 .*env 1"):  # which gymnasium leaves to the envs
        vector.step(np.array([[0, 0], [2, 0], [0, 0], [0, 0]], np.float32))
    with pytest.raises(fastvec.RowError, match=r"observations\[1, 2\] is nan for agent 0 of env 2") as caught:
        for _ in range(4):
            vector.step(np.zeros((4, 2), np.float32))
    assert isinstance(caught.value.__cause__, fastvec.WorkerError)


def test_stable_baselines():
    pytest.importorskip("stable_baselines3")
    import fastvec.sb3

    vec_env = fastvec.sb3.VecEnv([lambda i=i: Wild(i) for i in range(4)], 2, debug=True)
    vec_env.reset()
    with pytest.raises(fastvec.RowError, match=r"observations\[1, 2\] is nan for agent 0 of env 2"):
        for _ in range(4):
            vec_env.step(np.zeros((4, 2), np.float32))
    vec_env.close()


# ---- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_wrong_argument(wrong):
    with pytest.raises(ValueError, match="debug=.*give True or False"):
        fastvec.make(envs.Scripted, 1, debug=wrong)


def test_bounds_that_forbid_nothing_are_not_looked_at():
    everything = [
        gymnasium.spaces.Box(0, 255, (2,), np.uint8), gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32), fastvec.Spec((), "int64"),
        fastvec.Spec((), "uint64", 0, 2**64 - 1), fastvec.Spec((), "int8", -1000, 1000), fastvec.Spec((), "bool"),
    ]
    for space in everything:
        part, = parts(as_spec(space, "space"))
        assert part.low is None and part.high is None
    part, = parts(fastvec.Spec((2,), "float32", 0.1, [np.inf, 3]))
    assert part.low == np.float32(0.1) and part.high.tolist() == [np.inf, 3]
    assert part.wrong(np.array([[0.1, 3], [0.1, 4]], np.float32), np.array([True, True])) == (1, 1)
