"""fastvec.torchrl against the real TorchRL."""
import os
import signal
import sys

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("torchrl", reason="needs TorchRL: pip install 'fastvec[torchrl]'")

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "engine"))
import envs  # noqa: E402
import fastvec  # noqa: E402
from fastvec.torchrl import VecEnv  # noqa: E402
from fastvec_c.probe import Probe  # noqa: E402
from torchrl.collectors import Collector  # noqa: E402
from torchrl.envs import RewardSum, StepCounter, TransformedEnv  # noqa: E402
from torchrl.envs.utils import check_env_specs  # noqa: E402

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 2])


class Spaces(gymnasium.Env):
    """Observes samples of many spaces, and checks that its actions lie in theirs."""

    observation_space = gymnasium.spaces.Dict({
        "box": gymnasium.spaces.Box(-1, 1, (2, 3), np.float64), "free": gymnasium.spaces.Box(-np.inf, np.inf, (), np.float32),
        "choice": gymnasium.spaces.Discrete(5), "shifted": gymnasium.spaces.Discrete(3, start=-1),
        "many": gymnasium.spaces.MultiDiscrete([3, 4]), "bits": gymnasium.spaces.MultiBinary(6),
        "pair": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(0, 255, (4,), np.uint8))),
    })
    action_space = gymnasium.spaces.Dict({
        "steer": gymnasium.spaces.Box(-1, 1, (2,), np.float32), "gear": gymnasium.spaces.Discrete(4),
        "both": gymnasium.spaces.Tuple((gymnasium.spaces.MultiDiscrete([2, 3]), gymnasium.spaces.MultiBinary(2))),
    })

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 3, False, {}


def creators():
    return {
        "cartpole": envs.cartpole, "spaces": Spaces, "herd": envs.Herd, "compiled": envs.probe, "tuple": TupleEnv,
    }


class TupleEnv(Spaces):
    observation_space = Spaces.observation_space["pair"]


@EVERYWHERE
@pytest.mark.parametrize("name", creators())
def test_check_env_specs(name, num_workers):
    env = VecEnv(creators()[name], num_workers, num_envs=4)
    check_env_specs(env, seed=3, break_when_any_done="both")
    env.close()


@EVERYWHERE
def test_rollouts_are_those_of_gymnasium(num_workers):
    """Observations (the last ones of episodes too), rewards and flags, over several episodes."""
    actions = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (80, 4)))

    def played(env):
        told, td = [], env.reset()
        for t in range(80):
            td["action"] = actions[t].clone()
            td, following = env.step_and_maybe_reset(td)
            told.append(td.select("observation", "next").clone())
            td = following
        return torch.stack(told, -1)

    ours = VecEnv(envs.cartpole, num_workers, num_envs=4)
    ours.set_seed(5)
    a = played(ours)
    first = a["observation"][:, 0]
    for env in range(4):
        bare = gymnasium.make("CartPole-v1")
        observation, _ = bare.reset(seed=5 + env)
        assert np.array_equal(first[env].numpy(), observation)
        for t in range(80):
            assert np.array_equal(a["observation"][env, t].numpy(), observation)
            observation, reward, terminated, truncated, _ = bare.step(int(actions[t, env]))
            following = a["next"][env, t]
            assert np.array_equal(following["observation"].numpy(), observation) and following["reward"].item() == reward
            assert following["terminated"].item() == terminated and following["done"].item() == (terminated or truncated)
            if terminated or truncated:
                observation, _ = bare.reset()
    assert a["next", "done"].sum() > 4
    ours.close()


def test_truncations_of_envs_that_reset_themselves_are_no_place_to_bootstrap_from():
    env = VecEnv(envs.probe, 2, num_envs=2)
    td = env.rollout(40, break_when_any_done=False)
    assert td["next", "done"].any() and torch.equal(td["next", "terminated"], td["next", "done"])
    env.close()


def test_a_reset_after_an_end_costs_nothing():
    env = VecEnv(envs.Scripted, 2, num_envs=2, seed=1)
    td = env.reset()
    while not td.get(("next", "done"), torch.zeros(1, dtype=torch.bool)).any():
        td["action"] = torch.ones(2, dtype=torch.int64)
        td, following = env.step_and_maybe_reset(td)
        last, td = td, td if td["next", "done"].any() else following
    assert env.vec.stats().batches == 5
    assert last["next", "observation"][0].tolist() == [1, 0, 5, 5] and following["observation"][0].tolist() == [1, 1, 0, 0]
    env.close()


@EVERYWHERE
def test_partial_reset_of_an_episode_that_goes_on(num_workers):
    env = VecEnv(envs.Scripted, num_workers, num_envs=4, seed=1)
    td = env.reset()
    td["action"] = torch.ones(4, dtype=torch.int64)
    td = env.step(td)["next"]
    td["_reset"] = torch.tensor([[True], [False], [True], [False]])
    td = env.reset(td)
    assert td["observation"][:, 2].tolist() == [0, 1, 0, 1] and td["observation"][:, 1].tolist() == [1, 0, 1, 0]
    env.close()


def test_pettingzoo_agents_end_one_by_one():
    pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    sys.path.insert(0, os.path.dirname(__file__))
    import parallel_envs

    env = VecEnv(parallel_envs.Relay, 2, num_envs=2)
    check_env_specs(env)
    td = env.rollout(9, break_when_any_done=False)
    assert td.shape == (2, 3, 9)
    # ann leaves in step 3, bob in 6, cid in 9; the last observation of each says so.
    done = td["next", "done"][0, :, :, 0]
    assert done.nonzero().tolist() == [[0, 2], [1, 5], [2, 8]]
    assert [td["next", "observation"][0, agent, t].tolist()[:3] for agent, t in done.nonzero()] == [[0, 1, 3], [1, 1, 6], [2, 1, 9]]
    assert td["next", "mask"][0].sum(1).tolist() == [4, 7, 9]  # in step 9 the next episode has begun, for all
    env.close()


@EVERYWHERE
def test_collector_and_transforms(num_workers):
    env = TransformedEnv(VecEnv(envs.cartpole, num_workers, num_envs=4))
    env.append_transform(StepCounter())
    env.append_transform(RewardSum())
    collector = Collector(env, None, frames_per_batch=128, total_frames=512)
    for batch in collector:
        assert batch.shape == (4, 32)
        done = batch["next", "done"]
        assert (batch["next", "episode_reward"][done] == batch["next", "step_count"][done]).all()
    collector.shutdown()


def test_seeds():
    env = VecEnv(envs.Scripted, 2, num_envs=2)
    env.set_seed(40)
    assert env.reset()["observation"][:, 0].tolist() == [40, 41]
    assert env.reset()["observation"][:, 1].tolist() == [1, 1]  # goes on
    env.close()


def test_a_worker_dies(nothing_left_behind):
    env = VecEnv(envs.cartpole, 2, num_envs=2, on_failure="restart")
    td = env.reset()
    os.kill(env.vec._workers[1].process.pid, signal.SIGKILL)
    td["action"] = torch.zeros(2, dtype=torch.int64)
    td, following = env.step_and_maybe_reset(td)
    assert td["next", "truncated"].flatten().tolist() == [False, True] and env.infos[1]["restarted"]
    env.close()
    env = VecEnv(envs.cartpole, 2, num_envs=2)
    td = env.reset()
    os.kill(env.vec._workers[1].process.pid, signal.SIGKILL)
    td["action"] = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(fastvec.WorkerError, match="SIGKILL"):
        env.step(td)
    env.close(), env.close()


def test_bad_input(nothing_left_behind):
    class Reserved(Spaces):
        observation_space = gymnasium.spaces.Dict({"reward": gymnasium.spaces.Discrete(2)})

    with pytest.raises(ValueError, match="'reward' is TorchRL's own; rename it"):
        VecEnv(Reserved, 1)
    with pytest.raises(TypeError, match="autoreset, slots, horizon and batch_size"):
        VecEnv(Spaces, 1, autoreset="disabled")
    env = VecEnv(lambda: Probe(num_actions=5), 1)
    td = env.reset()
    td["action"] = torch.full(env.action_spec.shape, 9)
    with pytest.raises(ValueError, match="action"):
        env.step(td)
    env.close()
