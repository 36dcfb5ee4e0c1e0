"""examples/gpudrive.py around a double of GPUDriveTorchEnv: rows, masks, ends and resets.  (The real one is not here.)"""
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fastvec

torch = pytest.importorskip("torch", reason="torch is not installed")


class Double:
    """World w controls slots 1 and 3 to 3 + w; slot s is done at its step s + 1, at its goal if s is odd."""

    def __init__(self, config, data_loader, max_cont_agents, device):
        self.worlds = [int(Path(f).stem) for f in data_loader.dataset]
        self.cont_agent_mask = torch.zeros(len(self.worlds), 64, dtype=torch.bool)
        for w, scene in enumerate(self.worlds):
            self.cont_agent_mask[w, [1, *range(3, 4 + scene)]] = True
        self.t = torch.zeros(len(self.worlds), dtype=torch.int64)

    def reset(self, env_idx_list=None):
        self.t[range(len(self.worlds)) if env_idx_list is None else env_idx_list] = 0

    def step_dynamics(self, actions):
        self.actions = actions.clone()
        self.t += 1

    def get_dones(self):
        return (self.t[:, None] > torch.arange(64)).float()

    def get_infos(self):
        return SimpleNamespace(goal_achieved=self.get_dones() * (torch.arange(64) % 2))

    def get_rewards(self):
        return self.actions.float()

    def get_obs(self, mask):
        world, slot = torch.where(mask)
        obs = torch.zeros(len(world), 2984)
        obs[:, 0], obs[:, 1], obs[:, 2] = torch.tensor(self.worlds)[world], slot, self.t[world]
        return obs


@pytest.fixture
def creator(tmp_path, monkeypatch):
    for scene in range(4):
        (tmp_path / f"{scene}.json").touch()
    for name, content in (("gpudrive", {}), ("gpudrive.env", {}), ("gpudrive.env.config", {"EnvConfig": dict}),
                          ("gpudrive.env.env_torch", {"GPUDriveTorchEnv": Double})):
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    from examples.gpudrive import GPUDrive

    return lambda env_index: GPUDrive(tmp_path, worlds=2, first_scene=2 * env_index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows(creator, num_workers):
    with fastvec.make(creator, num_workers, num_envs=2) as vec:
        observations, _ = vec.reset()
        scenes = [0, 0, 1, 1, 1], [2, 2, 2, 2, 3, 3, 3, 3, 3]  # env 0 has fewer rows: the rest is masked
        slots = [1, 3, 1, 3, 4], [1, 3, 4, 5, 1, 3, 4, 5, 6]
        assert vec.agents_per_env == 9 and vec.masks.tolist() == [True] * 5 + [False] * 4 + [True] * 9
        rows = [*range(5), *range(9, 18)]
        scene, slot = np.array([*scenes[0], *scenes[1]]), np.array([*slots[0], *slots[1]])
        assert observations[rows, 0].tolist() == scene.tolist() and observations[rows, 1].tolist() == slot.tolist()
        length = scene + 4  # a world's last agent is done at the step of its slot + 1
        for t in range(1, 20):
            actions = (np.arange(vec.num_rows) * t) % 91
            observations, rewards, terminations, truncations, _ = vec.step(actions)
            at = (t - 1) % length + 1  # step in the episode
            alive = at <= slot + 1
            assert vec.masks[rows].tolist() == alive.tolist()
            assert rewards[rows].tolist() == np.where(alive, actions[rows], 0).tolist()
            assert terminations[rows].tolist() == ((at == slot + 1) & (slot % 2 == 1)).tolist()
            assert truncations[rows].tolist() == ((at == slot + 1) & (slot % 2 == 0)).tolist()
            assert observations[rows, 2].tolist() == (at % length).tolist()
