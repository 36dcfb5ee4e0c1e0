"""Which adapter a creator's result gets, and what the mistakes are told."""
import subprocess
import sys

import gymnasium as gym
import pytest

from fastvec.adapters import adapt
from fastvec.env import Env
from fastvec.spaces import Spec
from fastvec_c.env import CompiledEnv
from fastvec_c.gym_env import GymEnv
from fastvec_c.probe import Probe
from fastvec_c.rows_env import RowsEnv


class Rows(Env):
    observation_space = Spec((2,))
    action_space = Spec((), "int64", 0, 1)


class Half:
    def __fastvec_env__(self):
        raise NotImplementedError


class Almost:
    def reset(self):
        pass

    def step(self, action):
        pass


def test_each_kind_gets_its_adapter():
    cartpole, rows, compiled = gym.make("CartPole-v1"), Rows(), Probe()
    assert type(adapt(cartpole)) is GymEnv and adapt(cartpole).env is cartpole
    assert type(adapt(rows)) is RowsEnv and adapt(rows).env is rows
    assert type(adapt(compiled)) is CompiledEnv and adapt(compiled).env is compiled


def test_half_a_compiled_env():
    with pytest.raises(TypeError, match="Half has __fastvec_env__ but no observation_space"):
        adapt(Half())


def test_autoreset_reaches_gymnasium_envs():
    assert adapt(gym.make("CartPole-v1"), "same_step").autoreset == "same_step"


OldGym = type("OldGym", (), {"__module__": "gym.envs.classic"})


@pytest.mark.parametrize("env, message", [
    (None, "returned None: did it forget `return`"),
    (Rows, "returned the class .*Rows itself: return an instance"),
    (Half, "returned the class .*Half itself"),
    ([Rows()], "a list of 1: return one env"),
    (lambda: Rows(), "a function: did the creator return it without calling"),
    (Almost(), "Almost, which has step and reset.*derive it from gymnasium.Env or fastvec.Env"),
    (OldGym(), "from the old gym package"),
    (3, "an object of type builtins.int; expected a gymnasium.Env, a fastvec.Env, .*PufferEnv.*GPUDriveTorchEnv.*__fastvec_env__"),
])
def test_mistakes_are_named(env, message):
    with pytest.raises(TypeError, match=message):
        adapt(env)


def test_vector_envs_are_refused():
    with pytest.raises(TypeError, match="vectorized already: return a single env"):
        adapt(gym.make_vec("CartPole-v1", 2))


def test_envs_of_ours_do_without_gymnasium():
    code = "import sys; sys.modules['gymnasium'] = None\n"
    code += "from fastvec.adapters import adapt; from fastvec.env import Env; from fastvec.spaces import Spec\n"
    code += "class E(Env): observation_space = action_space = Spec((2,))\n"
    code += "print(type(adapt(E())).__name__)\ntry: adapt(3)\nexcept TypeError: print('refused')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["RowsEnv", "refused"]
