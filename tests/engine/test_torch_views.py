"""vec.torch: tensors on the arena's memory."""
import envs
import gymnasium
import numpy as np
import pytest

import fastvec

torch = pytest.importorskip("torch", reason="needs torch")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_they_share_memory(num_workers):
    with fastvec.make(envs.Scripted, num_workers, num_envs=4, seed=1, slots=2) as vec:
        vec.reset()
        for t in range(1, 4):
            vec.torch.actions[:] = torch.arange(4)
            vec.send()
            vec.recv()
            for name in ("observations", "actions", "rewards", "terminations", "truncations", "masks"):
                tensor, array = getattr(vec.torch, name), getattr(vec, name)
                assert tensor.data_ptr() == array.ctypes.data and tensor.shape == array.shape
            assert vec.torch.observations[:, 3].tolist() == [0, t, 2 * t, 3 * t]
        assert vec.torch.masks.dtype == torch.bool and vec.torch.rewards.dtype == torch.float32
        assert vec.torch.fields["observations"].shape == (2, 4, 4)
        kept = vec.torch.observations
    assert kept[:, 2].tolist() == [3] * 4  # readable after close


class Structured(gymnasium.Env):
    observation_space = gymnasium.spaces.Dict({
        "place": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(9), gymnasium.spaces.Box(-1, 1, (3,), np.float32))),
        "light": gymnasium.spaces.MultiBinary(3),
    })
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"place": (7, np.array([0, 0.5, 1], np.float32)), "light": np.array([1, 0, 1], np.int8)}, {}


def test_structured_observations():
    with fastvec.make(Structured, 2) as vec:
        vec.reset()
        observations = vec.torch.observations
        assert observations["place"]["f0"].tolist() == [7, 7] and observations["place"]["f1"].tolist() == [[0, 0.5, 1]] * 2
        assert observations["light"].tolist() == [[1, 0, 1]] * 2
        assert observations["light"].data_ptr() == vec.observations["light"].ctypes.data


def test_gathered_batches_become_tensors_without_a_copy():
    with fastvec.make(envs.Scripted, 3, batch_size=1) as vec:
        vec.async_reset()
        batch = vec.recv()
        assert torch.from_numpy(batch.observations).data_ptr() == batch.observations.ctypes.data


def test_dtypes_that_torch_lacks():
    class Env(fastvec.Env):
        observation_space = fastvec.Spec((2,), np.dtype("complex256"))
        action_space = fastvec.Spec((), "int64", 0, 1)

    with fastvec.make(Env, 1) as vec, pytest.raises(TypeError, match="torch has no tensors of complex256"):
        vec.torch  # noqa: B018


def test_without_torch(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with fastvec.make(envs.Scripted, 0) as vec, pytest.raises(ImportError, match="vec.torch needs torch .*pip install torch"):
        vec.torch  # noqa: B018


def test_jax_on_the_same_memory():
    jax = pytest.importorskip("jax", reason="needs jax: pip install 'fastvec[jax]'")
    with fastvec.make(envs.Scripted, 2, num_envs=4) as vec:
        vec.reset()
        shared = jax.dlpack.from_dlpack(vec.observations)
        assert shared.unsafe_buffer_pointer() == vec.observations.ctypes.data  # rows begin at a cache line
        copy = jax.numpy.array(vec.observations, copy=True)
        before = np.array(copy)
        vec.step([1] * 4)
        assert np.array_equal(np.array(copy), before) and not np.array_equal(vec.observations, before)
