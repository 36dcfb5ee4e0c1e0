"""fastvec as a batched env of TorchRL."""
from __future__ import annotations

import numpy as np

try:
    import torch
    from tensordict import TensorDict
    from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, Unbounded
    from torchrl.envs import EnvBase
except ImportError as error:
    raise ImportError(f"fastvec.torchrl needs TorchRL ({error}): pip install 'fastvec[torchrl]'") from error

import gymnasium

from fastvec.agents import agent_names
from fastvec.factory import make
from fastvec.gym import _as_space

_OWN = ("action", "reward", "done", "terminated", "truncated", "mask", "_reset")


class VecEnv(EnvBase):
    """Steps envs in fastvec's workers; where TorchRL's ParallelEnv or a GymEnv with many envs stood.

    Episodes begin anew within the step that ends them, and TorchRL does not notice: a step returns the last observation of an
    ended episode, and the reset that TorchRL then asks for returns the first of the next, without another word to the workers.
    So a step costs one handoff, whatever ends.

    `batch_size` is [num_envs]; of envs with several agents [num_envs, agents], with a bool "mask" beside the observations that
    says which agents took part.  An agent that is done before the others is done once; until its env's next episode its row has
    reward 0 and mask False.

    Tensordicts hold copies.  Keys: "observation" (Dict spaces: their own keys; Tuple: "observation" holds "0", "1", …), "action",
    "reward" float32, "done", "terminated", "truncated".  Discrete actions and observations are Categorical, not one-hot.

    Args:
        env_fns: a function for each env, or one and `num_envs`; an env is whatever `fastvec.make` takes.
        num_workers: worker processes, a divisor of the number of envs; 0 keeps the envs in this process; "auto" times an env.
        num_envs: with one function.
        device: of the tensors that come out.
        start_method, affinity, wait, timeout, seed, on_failure, max_restarts, restart_window, debug: as in `fastvec.make`.

    Attributes:
        vec: the fastvec.VecEnv underneath.
        infos: {env index: dict} of the last step or reset.

    Raises:
        what `fastvec.make` raises; ValueError: a key of a Dict space is one that TorchRL keeps for itself.

    Envs that reset themselves within `step` (`fastvec.Env`, compiled ones) do not tell the last observation of an episode: the
    step that ends one returns the first of the next, and says that it terminated, lest a value be taken from it.
    """

    def __init__(self, env_fns, num_workers="auto", *, num_envs=None, device="cpu", **options):
        if not options.keys().isdisjoint(("autoreset", "slots", "horizon", "batch_size")):
            raise TypeError("autoreset, slots, horizon and batch_size are fastvec.torchrl's own; leave them out")
        env_fns = list(env_fns) if isinstance(env_fns, (list, tuple)) else env_fns
        vec = make(env_fns, num_workers, num_envs=num_envs, autoreset="same_step", **options)
        try:
            agents = vec.agents_per_env
            super().__init__(device=device, batch_size=[vec.num_envs] if agents == 1 else [vec.num_envs, agents])
            self.vec = vec
            self.infos = {}
            self._waiting = np.zeros(vec.num_rows, bool)  # rows that are at a new episode's start already
            self._new_seed = None
            self._names = vec.apply(agent_names)
            self._take_specs()
        except BaseException:
            vec.close()
            raise

    def _take_specs(self):
        observation, action = _as_space(self.vec.single_observation_space), _as_space(self.vec.single_action_space)
        keyed = observation.spaces if isinstance(observation, gymnasium.spaces.Dict) else {"observation": observation}
        for key in keyed:
            if key in _OWN:
                raise ValueError(f"observation_space: the key {key!r} is TorchRL's own; rename it (gymnasium.wrappers.TransformObservation)")
        specs = {key: self._spec(space) for key, space in keyed.items()}
        if self.vec.agents_per_env > 1:
            specs["mask"] = Categorical(2, shape=self.batch_size, dtype=torch.bool, device=self.device)
        self._keyed, self._actions = keyed, action
        self.observation_spec = Composite(specs, shape=self.batch_size, device=self.device)
        self.full_action_spec = Composite({"action": self._spec(action)}, shape=self.batch_size, device=self.device)
        self.reward_spec = Unbounded((*self.batch_size, 1), dtype=torch.float32, device=self.device)
        flag = Categorical(2, shape=(*self.batch_size, 1), dtype=torch.bool, device=self.device)
        self.done_spec = Composite({key: flag.clone() for key in ("done", "terminated", "truncated")}, shape=self.batch_size,
                                   device=self.device)

    def _spec(self, space):
        """A space of one row as a spec of all."""
        batch, at = self.batch_size, {"device": self.device}
        if isinstance(space, gymnasium.spaces.Dict):
            return Composite({key: self._spec(part) for key, part in space.spaces.items()}, shape=batch, **at)
        if isinstance(space, gymnasium.spaces.Tuple):
            return Composite({str(i): self._spec(part) for i, part in enumerate(space.spaces)}, shape=batch, **at)
        dtype = torch.from_numpy(np.zeros((), space.dtype)).dtype
        shape = (*batch, *space.shape)
        if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
            return Categorical(int(space.n), shape=shape, dtype=dtype, **at)
        if isinstance(space, gymnasium.spaces.Discrete):
            return Bounded(int(space.start), int(space.start + space.n - 1), shape=shape, dtype=dtype, **at)
        if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1 and not np.any(space.start):
            return MultiCategorical([int(n) for n in space.nvec], shape=shape, dtype=dtype, **at)
        if isinstance(space, gymnasium.spaces.MultiBinary):
            return Binary(shape=shape, dtype=dtype, **at)
        if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
            low, high = (torch.from_numpy(np.array(bound)).expand(shape) for bound in (space.low, space.high))
            return Bounded(low, high, shape=shape, dtype=dtype, **at)
        return Unbounded(shape, dtype=dtype, **at)

    # ---- what EnvBase asks for ---------------------------------------------------------------------------------------

    def _step(self, tensordict):
        actions = self._as_rows(self._actions, tensordict["action"])
        *_, self.infos = self.vec.step(actions)
        rows = self.vec.fields
        terminated, truncated = rows["terminations"][0], rows["truncations"][0]
        done = terminated | truncated
        self._waiting = done | self._waiting & ~rows["masks"][0]  # an agent that left waits for its env's next episode
        out = self._observations()
        if done.any():
            self._put_last_observations(out, done)
        if self.vec.autoreset is None:
            terminated = done  # the last observation is not known: a value must not be taken from the next episode's first
        out["reward"] = self._flags(rows["rewards"][0])
        for key, flag in (("terminated", terminated), ("truncated", truncated), ("done", done)):
            out[key] = self._flags(flag)
        return TensorDict(out, self.batch_size, device=self.device)

    def _reset(self, tensordict=None, **_):
        mask = None
        if tensordict is not None and "_reset" in tensordict.keys():
            mask = tensordict["_reset"].reshape(-1).cpu().numpy()
        if mask is None or self._new_seed is not None:
            seed, self._new_seed = self._new_seed, None
            _, self.infos = self.vec.reset(seed)
            self._waiting[:] = False
        else:
            asked = (mask & ~self._waiting).reshape(self.vec.num_envs, -1).any(1)
            if asked.any():
                _, self.infos = self.vec.reset(env_mask=asked)
                self._waiting[np.repeat(asked, self.vec.agents_per_env)] = False
            self._waiting &= ~mask
        return TensorDict(self._observations(), self.batch_size, device=self.device)

    def _set_seed(self, seed):
        self._new_seed = seed  # of the next reset: env i gets seed + i

    def close(self, *, raise_if_closed=False):
        """Ends the workers.  May be called again."""
        self.is_closed = True
        if "vec" in self.__dict__:
            self.vec.close()

    # ---- rows and tensors --------------------------------------------------------------------------------------------

    def _observations(self):
        """Copies of all rows, by key."""
        rows = self.vec.fields["observations"][0]
        keyed = isinstance(_as_space(self.vec.single_observation_space), gymnasium.spaces.Dict)
        out = {key: self._copies(space, rows[key] if keyed else rows) for key, space in self._keyed.items()}
        if self.vec.agents_per_env > 1:
            out["mask"] = torch.from_numpy(self.vec.fields["masks"][0].copy()).reshape(self.batch_size)
        return out

    def _copies(self, space, rows):
        if isinstance(space, gymnasium.spaces.Dict):
            return {key: self._copies(part, rows[key]) for key, part in space.spaces.items()}
        if isinstance(space, gymnasium.spaces.Tuple):
            return {str(i): self._copies(part, rows[f"f{i}"]) for i, part in enumerate(space.spaces)}
        return torch.from_numpy(rows.copy()).reshape(*self.batch_size, *rows.shape[1:])

    def _flags(self, rows):
        return torch.from_numpy(rows.copy()).reshape(*self.batch_size, 1)

    def _put_last_observations(self, out, done):
        """In place of the first ones of new episodes, where the env tells."""
        keyed = isinstance(_as_space(self.vec.single_observation_space), gymnasium.spaces.Dict)
        for row in np.flatnonzero(done):
            env, agent = divmod(int(row), self.vec.agents_per_env)
            last = self.infos.get(env, {}).get("final_obs")
            if last is not None and self._names[env] is not None:
                last = last.get(self._names[env][agent])
            if last is None:
                continue
            at = (env,) if len(self.batch_size) == 1 else (env, agent)
            for key, space in self._keyed.items():
                self._put(space, out[key], at, last[key] if keyed else last)

    def _put(self, space, tensors, at, value):
        if isinstance(space, gymnasium.spaces.Dict):
            for key, part in space.spaces.items():
                self._put(part, tensors[key], at, value[key])
        elif isinstance(space, gymnasium.spaces.Tuple):
            for i, part in enumerate(space.spaces):
                self._put(part, tensors[str(i)], at, value[i])
        else:
            tensors[at] = torch.as_tensor(np.asarray(value, space.dtype))

    def _as_rows(self, space, actions):
        """Actions as `VecEnv.send` takes them."""
        if isinstance(space, gymnasium.spaces.Dict):
            return {key: self._as_rows(part, actions[key]) for key, part in space.spaces.items()}
        if isinstance(space, gymnasium.spaces.Tuple):
            return tuple(self._as_rows(part, actions[str(i)]) for i, part in enumerate(space.spaces))
        actions = actions.detach().cpu().numpy()
        return actions.reshape(self.vec.num_rows, *actions.shape[len(self.batch_size):])
