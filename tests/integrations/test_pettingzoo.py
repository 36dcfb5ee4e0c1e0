"""PettingZoo's parallel envs in fastvec.make."""
import os
import signal

import numpy as np
import pytest

pettingzoo = pytest.importorskip("pettingzoo", reason="needs PettingZoo: pip install 'fastvec[pettingzoo]'")
pytest.importorskip("dm_env", reason="parallel_envs.py needs dm_env: pip install 'fastvec[dm_env]'")

import gymnasium
from parallel_envs import Masked, Relay
from pettingzoo.test.example_envs import generated_agents_parallel_v0

import fastvec

EVERYWHERE = pytest.mark.parametrize("num_workers", [0, 1, 2])


def three(num_workers, creator=Relay, **options):
    return fastvec.make(creator, num_workers, num_envs=2, seed=3, **options)


def played_alone(env, steps, policy):
    """The rows of one env with next-step resets, computed the plain way."""
    agents = env.possible_agents
    rows = []
    observations, _ = env.reset(seed=0)
    zeros = {agent: 0.0 for agent in agents}
    flags = dict.fromkeys(agents, False)
    rows.append((observations, zeros, flags, flags, set(env.agents)))
    for t in range(steps):
        acting = set(env.agents)
        if not acting:
            observations, _ = env.reset()
            rows.append((observations, zeros, flags, flags, set(env.agents)))
            continue
        rows.append((*env.step({agent: policy(t, agents.index(agent)) for agent in env.agents})[:4], acting))
    return rows


@EVERYWHERE
@pytest.mark.parametrize("slots", [1, 3])
def test_the_same_as_alone(num_workers, slots):
    def policy(t, row):
        return (t + 2 * row) % 7

    with three(num_workers, slots=slots) as vec:
        assert (vec.num_rows, vec.agents_per_env, vec.autoreset) == (6, 3, "next_step")
        assert vec.single_observation_space == Relay.space and vec.single_action_space == Relay.actions
        expected = played_alone(Relay(), 40, policy)
        vec.reset(seed=0)
        for t, (observations, rewards, terminations, truncations, acting) in enumerate(expected):
            if t:
                vec.step([policy(t - 1, row) for row in range(3)] * 2)
            for row, agent in enumerate(["ann", "bob", "cid"] * 2):
                there = agent in acting
                assert vec.masks[row] == there
                assert vec.observations[row].tolist() == (observations[agent].tolist() if there else [0, 0, 0, 0])
                for field, value in ((vec.rewards, rewards), (vec.terminations, terminations), (vec.truncations, truncations)):
                    assert field[row] == (value[agent] if there else 0)


@EVERYWHERE
def test_infos_are_the_agents(num_workers):
    with three(num_workers) as vec:
        assert vec.reset(options={"map": 1})[1] == {env: {"ann": {"options": {"map": 1}}} for env in (0, 1)}
        infos = [vec.step(np.zeros(6, int))[4] for _ in range(10)]
        assert [dict(i) for i in infos] == [
            {0: {agent: {"left": t}}, 1: {agent: {"left": t}}} if (agent := {3: "ann", 6: "bob", 9: "cid"}.get(t)) else {}
            for t in range(1, 11)
        ]
        assert vec.call("possible_agents") == [Relay.possible_agents] * 2
        assert vec.call("seed") == [3, 4]


@EVERYWHERE
def test_same_step(num_workers):
    with three(num_workers, autoreset="same_step") as vec:
        vec.reset()
        for _ in range(9):
            observations, rewards, terminations, truncations, infos = vec.step([1, 2, 3] * 2)
        assert rewards.tolist() == [0, 0, 3] * 2 and truncations.tolist() == [False, False, True] * 2
        assert not terminations.any() and vec.masks.all()
        assert observations[:3].tolist() == [[0, 1, 0, 0], [1, 1, 0, 0], [2, 1, 0, 0]]
        assert infos[0]["final_info"] == {"cid": {"left": 9}}
        assert infos[0]["final_obs"]["cid"].tolist() == [2, 0, 9, 3]
        vec.step([1, 2, 3] * 2)
        assert vec.rewards.tolist() == [1, 2, 3] * 2


@EVERYWHERE
def test_disabled(num_workers):
    with three(num_workers, autoreset="disabled") as vec:
        vec.reset()
        for _ in range(9):
            vec.step(np.zeros(6, int))
        vec.reset(env_mask=np.array([True, False]))
        assert vec.observations[:, 1].tolist() == [1, 1, 1, 0, 0, 0]
        assert vec.masks.tolist() == [True, True, True, False, False, True]
        with pytest.raises(fastvec.WorkerError, match="autoreset='disabled'"):
            vec.step(np.zeros(6, int))


@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_rollouts(num_workers, autoreset):
    """A step counts where its agent acted: not after it left, nor where it only comes in; last observations go by names."""
    period, steps = 10 if autoreset == "next_step" else 9, 14
    with fastvec.make(Relay, num_workers, num_envs=2, seed=0, horizon=steps, autoreset=autoreset,
                      trainer_fields={"values": ((), "float32")}) as vec:
        vec.reset()
        for k in range(3):
            rollout = vec.rollout()
            for batch in rollout.collect():
                if autoreset == "disabled" and batch.truncations.any():
                    vec.reset(env_mask=np.ones(2, bool))
                vec.send(np.full(6, 2), {"values": np.full(6, 10.0)})
            at = np.arange(k * steps, (k + 1) * steps) % period
            acted = np.stack([at < 3 * (agent + 1) for agent in range(3)] * 2, 1)
            assert rollout.masks.tolist() == acted.tolist()
            assert rollout.rewards.tolist() == (2.0 * acted).tolist()
            ends = np.stack([at == 3 * (agent + 1) - 1 for agent in range(3)] * 2, 1)
            assert (rollout.terminations | rollout.truncations).tolist() == ends.tolist()
            finals = None
            if autoreset == "same_step":
                t, rows, observations = rollout.final_observations()
                assert list(zip(t, rows)) == [(t, row) for t in np.flatnonzero(at == 8) for row in (2, 5)]
                assert observations[:, [0, 2, 3]].tolist() == [[2, 9, 2]] * len(t)
                finals = np.full((steps, 6), np.nan)
                finals[t, rows] = 10
            advantages, _ = rollout.gae(np.full(6, 10.0), gamma=0.5, gae_lambda=0, final_values=finals)
            assert advantages.tolist() == np.where(acted, np.where(rollout.terminations, 2.0 - 10, 2.0 + 5 - 10), 0).tolist()


def test_action_masks():
    with three(1, Masked) as vec:
        observations, _ = vec.reset()
        for t in range(4):
            assert (observations["action_mask"].argmax(1) == t).all()
            observations, *_ = vec.step(observations["action_mask"].argmax(1))
        assert observations["observation"][1].tolist() == [1, 0, 4, 3]
        assert observations["action_mask"][0].tolist() == [0] * 7  # dead


def test_without_possible_agents():
    with pytest.raises(fastvec.WorkerError, match="has no possible_agents; list there"):
        fastvec.make(lambda: generated_agents_parallel_v0.parallel_env(max_cycles=30), 1)


class Late(Relay):
    """cid takes part from the third step on."""

    def reset(self, seed=None, options=None):
        observations, infos = super().reset(seed, options)
        self.agents = ["ann", "bob"]
        return {agent: observations[agent] for agent in self.agents}, infos

    def step(self, actions):
        results = super().step(actions)
        if self.t == 3:
            self.agents.append("cid")
            results[0]["cid"] = self.observe("cid", 0)
        return results


def test_agents_that_come_later():
    with fastvec.make(Late, 1) as vec:
        vec.reset()
        masks = [vec.masks.tolist()]
        for _ in range(4):
            vec.step([1, 2, 3])
            masks.append(vec.masks.tolist())
        assert masks == [[True, True, False], [True, True, False], [True, True, False], [True, True, True], [False, True, True]]
        assert vec.rewards.tolist() == [0, 2, 3] and vec.observations[2].tolist() == [2, 0, 4, 3]


class Silent(Relay):
    """ann leaves without a flag."""

    def step(self, actions):
        results = super().step(actions)
        results[2]["ann"] = False
        return results


def test_leaving_without_a_flag_is_a_truncation():
    with fastvec.make(Silent, 0) as vec:
        vec.reset()
        for t in range(3):
            vec.step([0, 0, 0])
            assert vec.truncations.tolist() == [t == 2, False, False] and not vec.terminations.any()
        vec.step([0, 0, 0])
        assert vec.masks.tolist() == [False, True, True]


def test_seeds_do_not_depend_on_workers():
    kaz = pytest.importorskip("pettingzoo.butterfly.knights_archers_zombies_v11", reason="needs pettingzoo[butterfly]")
    seen = []
    for num_workers in (0, 2):
        with fastvec.make(lambda: kaz.parallel_env(max_cycles=40), num_workers, num_envs=2, seed=5) as vec:
            observations, _ = vec.reset()
            rows = [observations.tobytes()]
            rng = np.random.default_rng(1)
            for _ in range(100):
                vec.step(rng.integers(0, 6, vec.num_rows))
                rows.append([vec.fields[name].tobytes() for name in ("observations", "rewards", "truncations", "masks")])
        seen.append(rows)
    assert seen[0] == seen[1]


# ---- what goes wrong -----------------------------------------------------------------------------------------------------


def with_space(**spaces):
    class Differing(Relay):
        def observation_space(self, agent):
            return spaces.get(f"{agent}_observes", self.space)

        def action_space(self, agent):
            return spaces.get(f"{agent}_acts", self.actions)

    return Differing


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_envs(num_workers):
    def fails(creator, error, match):
        with pytest.raises(fastvec.WorkerError, match=match) as raised:
            fastvec.make(creator, num_workers, num_envs=1)
        assert isinstance(raised.value.__cause__, error)

    small = gymnasium.spaces.Box(-1, 1, (3,))
    fails(with_space(bob_observes=small), ValueError, r"'ann' and 'bob' of Differing differ in their observation space: shape \(4,\) against \(3,\)")
    fails(with_space(cid_acts=gymnasium.spaces.Discrete(2)), ValueError, "'ann' and 'cid' of Differing differ in their action space: high 6")
    fails(with_space(ann_observes=gymnasium.spaces.Text(3)), TypeError, r"observation_space\('ann'\).*no fixed size")
    fails(type("Empty", (Relay,), {"possible_agents": []}), ValueError, "possible_agents of Empty is empty")
    fails(lambda: pettingzoo.AECEnv(), TypeError, "aec_to_parallel")


def returning(reset=None, step=None, agents=None):
    class Odd(Relay):
        def reset(self, seed=None, options=None):
            results = super().reset(seed, options)
            self.agents = self.agents if agents is None else agents
            return results if reset is None else reset

        def step(self, actions):
            results = super().step(actions)
            return results if step is None else step

    return Odd


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_results(num_workers):
    def fails(creator, error, match):
        with pytest.raises(fastvec.WorkerError, match=match) as raised:
            vec = fastvec.make(creator, num_workers, num_envs=1)
            vec.reset()
            vec.step([0, 0, 0])
        assert isinstance(raised.value.__cause__, error)

    fails(returning(reset={}), TypeError, r"reset\(\) of Odd returned {}; expected a tuple of 2 dicts")
    fails(returning(step=({}, {}, {}, {})), TypeError, r"step\(\) of Odd returned a tuple of \['dict', 'dict', 'dict', 'dict'\]")
    fails(returning(reset=({}, {})), KeyError, "no observation for the agent 'ann'")
    fails(returning(agents=[]), RuntimeError, "no agents after reset")
    fails(returning(agents=["ann", "eve"]), ValueError, r"agents of Odd has \['eve'\]")


@EVERYWHERE
def test_an_env_raises(num_workers):
    def throw():
        raise ZeroDivisionError("over")

    vec = three(num_workers, lambda env_index: Relay(throw if env_index else None))
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match="env 1.*ZeroDivisionError") as raised:
        vec.step(np.zeros(6, int))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    vec.close()
    vec.close()


def test_a_worker_dies():
    vec = three(2, lambda env_index: Relay((lambda: os.kill(os.getpid(), signal.SIGKILL)) if env_index else None))
    vec.reset()
    with pytest.raises(fastvec.WorkerError, match="worker 1 .*SIGKILL"):
        vec.step(np.zeros(6, int))
