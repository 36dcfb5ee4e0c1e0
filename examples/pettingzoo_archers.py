"""A PettingZoo parallel env, many times over: knights and archers against zombies, each of them a row.

    pip install 'pettingzoo[butterfly]'
    python examples/pettingzoo_archers.py [steps]
"""
import sys

import fastvec
import numpy as np
from pettingzoo.butterfly import knights_archers_zombies_v11


def creator():
    return knights_archers_zombies_v11.parallel_env(max_cycles=300)


def play(steps, num_workers=2, seed=1):
    """{agent: mean return of its episodes} under random actions."""
    rng = np.random.default_rng(seed)
    with fastvec.make(creator, num_workers, num_envs=4, seed=seed) as vec:
        names = [agent for env in vec.call("possible_agents") for agent in env]  # of each row
        vec.reset()
        returns = np.zeros(vec.num_rows)
        finished = {name: [] for name in names}
        for _ in range(steps):
            actions = rng.integers(0, 6, vec.num_rows)  # your policy, for the rows that vec.masks names
            _, rewards, terminations, truncations, _ = vec.step(actions)
            returns += rewards
            for row in np.flatnonzero(terminations | truncations):
                finished[names[row]].append(returns[row])
                returns[row] = 0
    return {name: float(np.mean(episodes)) for name, episodes in finished.items() if episodes}


if __name__ == "__main__":
    for agent, mean in play(int(sys.argv[1]) if len(sys.argv) > 1 else 2000).items():
        print(f"{agent}: {mean:.2f} zombies in an episode")
