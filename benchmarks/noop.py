"""The env that does nothing: what is left of a step is the vectorization."""
import gymnasium
import numpy as np


class NoOp(gymnasium.Env):
    """Observes `size` zeros for ever."""

    def __init__(self, size):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (size,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observation = np.zeros(size, np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation, {}

    def step(self, action):
        return self.observation, 0.0, False, False, {}
