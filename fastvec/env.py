"""The protocol for Python envs that write their rows in place."""
from __future__ import annotations

from typing import Any

import numpy as np


class Env:
    """An env that writes the rows of its agents straight into shared memory.

    Derive from it where one Python call steps many agents at once: a simulator vectorised with NumPy, a world with many
    agents, a binding to a library.  (An env with one agent and gymnasium's interface needs nothing of this.)

    A subclass sets, on the class or in `__init__`, before its creator returns it:

        observation_space, action_space: one row of each, as a `fastvec.Spec` or a gymnasium space.
        num_agents: how many rows it writes, always the same number; 1 unless set.
        fields: {name: Spec or space} of further arrays it writes, one row per agent each; none unless set.

    fastvec sets the attributes below before every call, as NumPy arrays with one row per agent:

        observations: [num_agents, *shape], the dtype of observation_space.
        rewards: float32 [num_agents].
        terminations, truncations, masks: bool [num_agents].
        every name in `fields`: [num_agents, *shape].

    Write into them (`self.rewards[:] = r`); to assign them (`self.rewards = r`) is an error.  They are not there yet in
    `__init__`.

    Whose the rows are: the env's own from the beginning of a call of `reset` or `step` to its end, and the trainer's
    from then on.  The next call may bring other arrays with other contents (whatever was written there some steps ago),
    so keep no reference to them, and write every row of observations, rewards, terminations and truncations each time,
    even where nothing has changed.  The same holds for the `actions` that `step` gets.

    When `reset` is called, rewards, terminations and truncations are all 0 and masks all 1: an env whose rows are
    always in use never needs to touch masks.  A mask is 1 where the row's agent took part in this step (after a reset:
    takes part in the episode that begins); rewards and flags of rows masked 0 mean nothing and should be 0.

    Resets are the env's own business: `step` begins a new episode where one has ended.  The observation of a finished
    row is then the first of the next episode, its reward and flags the last of the old one.

    Example: 1,000 points that walk along a line, and are done when they reach its end.

    >>> import numpy as np
    >>> from fastvec.env import Env
    >>> from fastvec.spaces import Spec
    >>> class Walkers(Env):
    ...     observation_space = Spec((2,), "float32")           # position, steps so far
    ...     action_space = Spec((), "int64", low=0, high=1)     # left, right
    ...     num_agents = 1000
    ...     goal, limit = 5, 200
    ...
    ...     def __init__(self):
    ...         self.rng = np.random.default_rng()
    ...         self.position = np.zeros(self.num_agents)
    ...         self.age = np.zeros(self.num_agents)
    ...
    ...     def reset(self, seed=None, options=None):
    ...         if seed is not None:
    ...             self.rng = np.random.default_rng(seed)
    ...         self.begin(np.ones(self.num_agents, bool))
    ...
    ...     def step(self, actions):
    ...         self.position += 2 * actions - 1
    ...         self.age += 1
    ...         self.terminations[:] = self.position >= self.goal
    ...         self.truncations[:] = ~self.terminations & (self.age >= self.limit)
    ...         self.rewards[:] = self.terminations
    ...         finished = self.terminations | self.truncations
    ...         info = {"episode_lengths": self.age[finished]} if finished.any() else None
    ...         self.begin(finished)
    ...         return info
    ...
    ...     def begin(self, rows):
    ...         self.position[rows] = self.rng.integers(-3, 4, rows.sum())
    ...         self.age[rows] = 0
    ...         self.observations[:, 0] = self.position
    ...         self.observations[:, 1] = self.age

    To try it without fastvec, do what fastvec does: give it rows, then call it.

    >>> env = Walkers()
    >>> env.observations = np.zeros((1000, 2), np.float32)
    >>> env.rewards = np.zeros(1000, np.float32)
    >>> env.terminations, env.truncations = np.zeros((2, 1000), bool)
    >>> env.masks = np.ones(1000, bool)
    >>> env.reset(seed=0)
    >>> while (info := env.step(np.ones(1000, np.int64))) is None:
    ...     pass
    >>> float(info["episode_lengths"][0]), float(env.rewards.max())
    (2.0, 1.0)
    """

    observation_space: Any
    action_space: Any
    num_agents: int = 1
    fields: dict[str, Any] = {}

    observations: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    masks: np.ndarray

    def reset(self, seed: int | None = None, options: dict | None = None) -> dict | None:
        """Begins new episodes in every row and writes their first observations.

        Args:
            seed: None goes on with the env's random stream; a number starts it anew, and the same number must give the
                same episodes.
            options: whatever the trainer passed on.

        Returns:
            an info dict, or None.  An empty one is the same as None.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reset(); write self.observations there")

    def step(self, actions: np.ndarray) -> dict | None:
        """One step of every agent: acts, then writes observations, rewards, terminations and truncations.

        Args:
            actions: [num_agents, *shape], the dtype of action_space; what the policy chose on the observations written
                last.  Read it only, and only during the call.

        Returns:
            an info dict, or None.  Infos leave the worker by a slow path: best return one at the end of an episode only.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step(); write self.observations, self.rewards, … there")

    def close(self) -> None:
        """Lets go of what the env holds.  Called once, before the worker ends."""

    def render(self) -> Any:
        """A picture of the env, of whatever kind its users expect."""
        raise NotImplementedError(f"{type(self).__name__} has no render()")
