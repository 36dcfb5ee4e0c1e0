"""A JAX policy in front of fastvec's workers: random search for a linear CartPole policy, jitted, each env its own candidate.

    python examples/jax_policy.py [rounds]
"""
import sys
from functools import partial

import fastvec
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def act(weights, observations):
    """weights [envs, 4], observations [envs, 4] -> int [envs]"""
    return (jnp.einsum("ef,ef->e", weights, observations) > 0).astype(jnp.int32)


def returns(vec, weights, limit=500):
    """float32 [envs]: the return of one episode of each candidate."""
    observations, _ = vec.reset()
    total, alive = np.zeros(vec.num_envs, np.float32), np.ones(vec.num_envs, bool)
    for _ in range(limit):
        # A copy: JAX takes arrays for immutable, and may read them after it has returned; the next step overwrites the views.
        actions = act(weights, jnp.array(observations, copy=True))
        observations, rewards, terminations, truncations, _ = vec.step(np.asarray(actions))
        total += rewards * alive
        alive &= ~(terminations | truncations)
        if not alive.any():
            break
    return total


def search(rounds, num_workers="auto", num_envs=16, seed=0):
    """The best return found."""
    key, best, best_return = jax.random.key(seed), jnp.zeros(4), 0.0
    with fastvec.make(partial(gymnasium.make, "CartPole-v1"), num_workers, num_envs=num_envs, seed=seed,
                      start_method="forkserver") as vec:  # JAX has threads, which a fork would leave behind
        for _ in range(rounds):
            key, draw = jax.random.split(key)
            candidates = best + jax.random.normal(draw, (num_envs, 4))
            total = returns(vec, candidates)
            if total.max() > best_return:
                best, best_return = candidates[total.argmax()], float(total.max())
    return best_return


if __name__ == "__main__":
    print(f"best return: {search(int(sys.argv[1]) if len(sys.argv) > 1 else 10):.0f} of 500")
