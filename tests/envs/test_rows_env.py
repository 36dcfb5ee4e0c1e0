"""fastvec.Env: rows written in place."""
import doctest

import numpy as np
import pytest
from env_slots import begin, bound
from gymnasium import spaces

import fastvec.env
from fastvec.adapters import adapt
from fastvec.env import Env
from fastvec.spaces import Spec


class Counters(Env):
    """Every agent adds up its actions; agent i is masked out while its sum is odd."""

    observation_space = Spec((2,), "int32")
    action_space = spaces.Discrete(4)
    num_agents = 3
    fields = {"costs": Spec((2,), "float64"), "phase": spaces.Discrete(2)}

    def __init__(self):
        self.sums = np.zeros(3, np.int64)
        self.calls = []
        self.set_names = []

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if "set_names" in self.__dict__:
            self.set_names.append(name)

    def reset(self, seed=None, options=None):
        self.calls.append((seed, options))
        self.sums[:] = 0
        self.write()
        return {"seed": seed} if seed is not None else None

    def step(self, actions):
        self.actions = actions
        self.sums += actions
        self.write()
        self.rewards[:] = actions
        self.terminations[:] = self.sums > 5
        self.truncations[:] = self.sums > 7
        return {}

    def write(self):
        self.observations[:, 0] = self.sums
        self.observations[:, 1] = -self.sums
        self.masks[:] = self.sums % 2 == 0
        self.costs[:] = self.sums[:, None] / 2
        self.phase[:] = self.sums % 2


def test_rows_are_written_in_place_in_the_slot_that_is_named():
    env = adapt(Counters())
    slots = bound(env, count=2, fill=77)
    begin(slots[0])
    env.reset(0, None, None)
    np.testing.assert_array_equal(slots[0]["observations"], np.zeros((3, 2)))
    slots[0]["actions"][:] = 1, 2, 3
    assert env.step(0, 1) is None
    np.testing.assert_array_equal(slots[0]["observations"], np.zeros((3, 2)))
    np.testing.assert_array_equal(slots[1]["observations"], [[1, -1], [2, -2], [3, -3]])
    np.testing.assert_array_equal(slots[1]["rewards"], [1, 2, 3])
    np.testing.assert_array_equal(slots[1]["masks"], [False, True, False])
    np.testing.assert_array_equal(slots[1]["costs"], [[0.5, 0.5], [1, 1], [1.5, 1.5]])
    np.testing.assert_array_equal(slots[1]["phase"], [1, 0, 1])
    slots[1]["actions"][:] = 3, 2, 3
    env.step(1, 0)
    slots[0]["actions"][:] = 0, 2, 3
    env.step(0, 1)
    np.testing.assert_array_equal(slots[1]["terminations"], [False, True, True])
    np.testing.assert_array_equal(slots[1]["truncations"], [False, False, True])


def test_the_actions_are_the_slots_own_memory():
    env = adapt(Counters())
    slots = bound(env, count=2)
    env.reset(0, None, None)
    env.step(1, 0)
    assert env.env.actions is slots[1]["actions"]


def test_specs_fields_and_agents():
    env = adapt(Counters())
    assert env.num_agents == 3
    assert env.observation_spec == Spec((2,), "int32")
    assert env.action_spec == Spec((), "int64", 0, 3)
    assert env.fields == {"costs": Spec((2,), "float64"), "phase": Spec((), "int64", 0, 1)}


def test_attributes_are_set_only_when_the_slot_changes():
    env = adapt(Counters())
    bound(env, count=2)
    rows = {"observations", "rewards", "terminations", "truncations", "masks", "costs", "phase"}

    def set_by(call, *args):
        env.env.set_names.clear()
        call(*args)
        return set(env.env.set_names) - {"actions", "sums"}

    assert set_by(env.reset, 0, None, None) == rows
    assert set_by(env.step, 0, 0) == set()
    assert set_by(env.step, 0, 1) == rows
    assert set_by(env.step, 1, 1) == set()


def test_seed_options_and_infos_pass():
    env = adapt(Counters())
    bound(env)
    assert env.reset(0, 5, {"level": 2}) == {"seed": 5}
    assert env.reset(0, None, None) is None
    assert env.env.calls == [(5, {"level": 2}), (None, None)]


def making(step=None, reset=None):
    """A Counters that returns or does what it is told."""
    env = Counters()
    if step:
        env.step = lambda actions: step(env)
    if reset:
        env.reset = lambda seed=None, options=None: reset(env)
    adapted = adapt(env)
    bound(adapted)
    return adapted


@pytest.mark.parametrize("name", ["observations", "rewards", "terminations", "truncations", "masks", "costs"])
def test_replacing_an_attribute_is_an_error(name):
    def replace(env):
        setattr(env, name, getattr(env, name).copy())

    env = making(step=replace)
    env.reset(0, None, None)
    with pytest.raises(RuntimeError, match=rf"step\(\) of Counters replaced self.{name}; .*self.{name}\[:\] = …"):
        env.step(0, 0)
    with pytest.raises(RuntimeError, match=r"reset\(\) of Counters replaced"):
        making(reset=replace).reset(0, None, None)


@pytest.mark.parametrize("result, message", [
    ((1, 2, 3, 4, 5), "returned a tuple of 5; .*derive from gymnasium.Env"),
    (3, "info of type int; expected a dict"),
    ([], "info of type list; expected a dict"),
])
def test_results_other_than_infos_are_refused(result, message):
    with pytest.raises(TypeError, match=r"reset\(\) of Counters .*" + message):
        making(reset=lambda env: result).reset(0, None, None)
    env = making(step=lambda env: result)
    env.reset(0, None, None)
    with pytest.raises(TypeError, match=r"step\(\) of Counters .*" + message):
        env.step(0, 0)


def test_slots_that_are_not_bound_are_refused():
    env = adapt(Counters())
    with pytest.raises(IndexError, match="bound to 0 slots"):
        env.reset(0, None, None)
    bound(env, count=2)
    for slots in ((0, 2), (2, 0), (0, -1), (-1, 0)):
        with pytest.raises(IndexError, match="bound to 2 slots"):
            env.step(*slots)


@pytest.mark.parametrize("name, value, error, message", [
    ("num_agents", 0, ValueError, "num_agents of Counters is 0"),
    ("num_agents", 2.0, TypeError, "num_agents of Counters is 2.0; expected an integer"),
    ("num_agents", True, TypeError, "num_agents of Counters is True"),
    ("fields", [Spec()], TypeError, "fields of Counters is .*expected a dict"),
    ("fields", {"rewards": Spec()}, ValueError, "'rewards', which fastvec.Env uses"),
    ("fields", {"step": Spec()}, ValueError, "'step', which fastvec.Env uses"),
    ("fields", {"actions": Spec()}, ValueError, "'actions', which fastvec.Env uses"),
    ("fields", {"a b": Spec()}, ValueError, "'a b'; it becomes an attribute"),
    ("fields", {"a": 3}, TypeError, r"^fields\['a'\] is 3"),
    ("observation_space", spaces.Text(3), TypeError, "^observation_space is Text"),
    ("action_space", None, TypeError, "^action_space is None"),
])
def test_declarations_are_checked(name, value, error, message):
    env = Counters()
    setattr(env, name, value)
    with pytest.raises(error, match=message):
        adapt(env)


def test_missing_spaces_are_named():
    with pytest.raises(TypeError, match="^Env has no observation_space"):
        adapt(Env())


def test_methods_that_are_missing_are_named():
    class Empty(Env):
        observation_space = action_space = Spec((2,))

    env = adapt(Empty())
    bound(env)
    with pytest.raises(NotImplementedError, match=r"Empty has no reset\(\)"):
        env.reset(0, None, None)
    with pytest.raises(NotImplementedError, match=r"Empty has no step\(\)"):
        env.step(0, 0)
    env.close()


def test_the_docstrings_example():
    results = doctest.testmod(fastvec.env)
    assert results.attempted > 5 and results.failed == 0
