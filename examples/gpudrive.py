"""The real GPUDrive (CPU mode), vectorized over processes: an env that writes the rows of several worlds in place.

    python examples/gpudrive.py data/processed/examples

Needs an installation of GPUDrive (github.com/Emerge-Lab/gpudrive; there is no working pip package).
"""
import sys
from pathlib import Path

import numpy as np
import torch

import fastvec


class Scenes:
    """What GPUDriveTorchEnv takes for its data loader: one batch of scene files."""

    def __init__(self, files):
        self.batch_size, self.dataset = len(files), list(files)

    def __iter__(self):
        return iter([self.dataset])


class GPUDrive(fastvec.Env):
    """`worlds` worlds of GPUDrive, on the scenes of a folder from `first_scene` on; a row for each controlled agent.

    A world begins anew when all its controlled agents are done, all worlds when `reset` is called.  Agents that were done
    before a step are masked in it.  Keyword arguments are those of GPUDrive's EnvConfig.
    """

    observation_space = fastvec.Spec((2984,), "float32")
    action_space = fastvec.Spec((), "int64", low=0, high=90)  # 7 accelerations x 13 steerings

    def __init__(self, folder, worlds, first_scene=0, **config):
        from gpudrive.env.config import EnvConfig
        from gpudrive.env.env_torch import GPUDriveTorchEnv

        files = sorted(str(f) for f in Path(folder).glob("*.json"))
        files = [files[(first_scene + w) % len(files)] for w in range(worlds)]
        # Built here, in the worker: a simulator that crosses a fork hangs.
        self.sim = GPUDriveTorchEnv(EnvConfig(**config), Scenes(files), max_cont_agents=64, device="cpu")
        self.controlled = self.sim.cont_agent_mask  # bool [worlds, 64]
        self.world = torch.where(self.controlled)[0]  # of each row
        self.num_agents = len(self.world)
        self.actions = torch.zeros(self.controlled.shape, dtype=torch.int64)

    def reset(self, seed=None, options=None):
        self.sim.reset()
        self.alive = torch.ones(self.num_agents, dtype=torch.bool)
        self.observations[:] = self.sim.get_obs(self.controlled).numpy()

    def step(self, actions):
        self.actions[self.controlled] = torch.from_numpy(np.array(actions))
        self.sim.step_dynamics(self.actions)
        done = self.sim.get_dones()[self.controlled].bool()
        reached = self.sim.get_infos().goal_achieved[self.controlled].bool()
        self.masks[:] = self.alive
        self.rewards[:] = torch.where(self.alive, self.sim.get_rewards()[self.controlled], 0)
        self.terminations[:] = self.alive & done & reached
        self.truncations[:] = self.alive & done & ~reached
        self.alive = ~done
        over = [w for w in range(len(self.controlled)) if not self.alive[self.world == w].any()]
        if over:
            self.sim.reset(env_idx_list=over)
            self.alive[torch.isin(self.world, torch.tensor(over))] = True
        self.observations[:] = self.sim.get_obs(self.controlled).numpy()


if __name__ == "__main__":
    with fastvec.make(lambda env_index: GPUDrive(sys.argv[1], worlds=4, first_scene=4 * env_index), 2, affinity="cores") as vec:
        vec.reset(seed=0)
        for _ in range(91):
            vec.step(np.random.randint(0, 91, vec.num_rows))
        print(vec, vec.stats())
