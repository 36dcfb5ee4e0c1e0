"""fastvec as a vectorized env of Stable-Baselines3."""
from __future__ import annotations

import warnings

import numpy as np

try:
    from stable_baselines3.common import env_util
    from stable_baselines3.common.vec_env import base_vec_env
except ImportError as error:
    raise ImportError(f"fastvec.sb3 needs Stable-Baselines3 ({error}): pip install 'fastvec[sb3]'") from error

from fastvec_c.errors import WorkerError

from fastvec import sb3_calls
from fastvec.agents import agent_names
from fastvec.factory import make
from fastvec.gym import _as_space, _structured

_TRUNCATED = "TimeLimit.truncated"


class VecEnv(base_vec_env.VecEnv):
    """Steps envs in fastvec's workers; where SubprocVecEnv or DummyVecEnv stood.

    Episodes begin anew within the step that ends them.  Observations, rewards (float32 [num_envs]) and dones (bool [num_envs])
    are fresh arrays, infos a fresh dict for each.

    Of envs with several agents each agent is a row, and so an env to Stable-Baselines3: `num_envs` counts rows.  A row is done
    when its agent is; while `masks` says that nobody uses it (until its env's next episode), its observation and reward are
    0, and its action is ignored.  A PettingZoo env's infos go to the rows of their agents, those of other envs with several
    agents to the first row.  `indices` are rows, too: attributes and methods are those of the env that a row belongs to.

    Args:
        env_fns: a function for each env; an env is whatever `fastvec.make` takes.
        num_workers: worker processes, a divisor of the number of envs; 0 keeps the envs in this process; "auto" times an
            env, of which it makes one more, and takes what should be fastest.
        start_method, affinity, wait, timeout, on_failure, max_restarts, restart_window, debug: as in `fastvec.make`.

    Attributes:
        vec: the fastvec.VecEnv underneath.

    Raises:
        ValueError, TypeError: an argument does not fit, or the envs' spaces differ.
        whatever a function of `env_fns`, or an env, raised; its cause is a fastvec.WorkerError with the worker's traceback.
        WorkerError: a worker died.
        RecvTimeout: the workers did not answer within `timeout`.
    """

    def __init__(self, env_fns, num_workers="auto", *, start_method=None, affinity=None, wait="auto", timeout=None,
                 on_failure="raise", max_restarts=10, restart_window=600.0, debug=False):
        options = {"start_method": start_method, "affinity": affinity, "wait": wait, "timeout": timeout,
                   "on_failure": on_failure, "max_restarts": max_restarts, "restart_window": restart_window, "debug": debug}
        self.vec = vec = _raising(make, list(env_fns), num_workers, autoreset="same_step", **options)
        try:
            if vec.autoreset:
                vec.leave_bounds_to_envs()  # as Stable-Baselines3 does
            observation_space, action_space = _as_space(vec.single_observation_space), _as_space(vec.single_action_space)
            self._views = _structured(observation_space, vec.fields["observations"][0])
            self._agents = vec.apply(agent_names)
            super().__init__(vec.num_rows, observation_space, action_space)
        except BaseException:
            self.close()
            raise

    # ---- stepping ----------------------------------------------------------------------------------------------------

    def reset(self):
        """Begins new episodes, with what `seed` and `set_options` have said.  A step under way is dropped.

        An env with several agents takes the seed and the options of its first row.

        Returns:
            the observations; infos are in `reset_infos`.
        """
        first_rows = slice(None, None, self.vec.agents_per_env)
        seeds = self._seeds[first_rows]
        if self.vec.autoreset is None and not any(seed is not None for seed in seeds):
            seeds = None  # for envs that rely on a seed at first; what a function of env_fns seeded goes on
        options = [option or None for option in self._options[first_rows]]
        _, infos = _raising(self.vec.reset, seeds, options if any(options) else None)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        for env, info in infos.items():
            self._set_rows(self.reset_infos, env, self._by_row(env, info))
        return _copied(self._views)

    def step_async(self, actions):
        """Begins a step.

        Args:
            actions: [num_envs, *shape of an action].
        """
        if actions is None:  # to the engine it means: those written in place
            raise TypeError(f"actions=None; give an array with an action for each of the {self.num_envs} envs")
        _raising(self.vec.send, actions)

    def step_wait(self):
        """Ends it.

        Returns:
            (observations, rewards, dones, infos)
        """
        batch = _raising(self.vec.recv)
        observations, rewards, dones = _copied(self._views), batch.rewards.copy(), batch.terminations | batch.truncations
        infos = [{_TRUNCATED: False} for _ in range(len(rewards))]
        if batch.infos or dones.any():
            self._fill(infos, batch, observations, dones)
        return observations, rewards, dones, infos

    @property
    def masks(self):
        """bool [num_envs], False where no agent took part in the last step; a view, which the next step overwrites."""
        return self.vec.masks

    def close(self):
        """Ends the workers.  May be called again."""
        self.vec.close()

    # ---- infos -------------------------------------------------------------------------------------------------------

    def _fill(self, infos, batch, observations, dones):
        """What there is to say of a step, into `infos`: a dict of each row."""
        final_obs = {}
        for env, info in batch.infos.items():
            if "final_info" in info:
                info = dict(info)
                final_obs[env], final_info = info.pop("final_obs"), info.pop("final_info")
                self._set_rows(self.reset_infos, env, self._by_row(env, info))
                info = final_info
            self._set_rows(infos, env, [{**said, _TRUNCATED: False} for said in self._by_row(env, info)])
        for row in np.flatnonzero(dones):
            last = self._last_observation(row, final_obs, observations)
            if last is not None:
                infos[row]["terminal_observation"] = last
                infos[row][_TRUNCATED] = bool(batch.truncations[row] and not batch.terminations[row])

    def _last_observation(self, row, final_obs, observations):
        """Of a finished episode; None where the env resets itself and does not tell."""
        env, agent = divmod(int(row), self.vec.agents_per_env)
        if env not in final_obs:  # an agent that leaves before the others, whose row has it
            return _row(observations, row) if self.vec.autoreset else None
        if self._agents[env] is None:
            return final_obs[env]
        return final_obs[env].get(self._agents[env][agent])

    def _by_row(self, env, info):
        """The info of each row, of an env's."""
        infos = [{} for _ in range(self.vec.agents_per_env)]
        infos[0].update(info)
        for row, agent in enumerate(self._agents[env] or ()):
            if isinstance(info.get(agent), dict):
                del infos[0][agent]
                infos[row].update(info[agent])
        return infos

    def _set_rows(self, infos, env, infos_of_env):
        first = env * self.vec.agents_per_env
        infos[first:first + len(infos_of_env)] = infos_of_env

    # ---- the envs' attributes ----------------------------------------------------------------------------------------

    def has_attr(self, attr_name):
        """Whether every env has it."""
        return all(self._apply(sb3_calls.has, attr_name))

    def get_attr(self, attr_name, indices=None):
        """A list with an attribute of the envs.

        Args:
            indices: a row, or a list of rows; by default all.

        Raises:
            AttributeError: an env has none.
        """
        self._check_attribute(attr_name, indices)
        return self._apply(sb3_calls.get, attr_name, indices=indices)

    def set_attr(self, attr_name, value, indices=None):
        """Sets an attribute: in the wrapper that has it, else in the outermost."""
        self._apply(sb3_calls.set_, attr_name, value, indices=indices)

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        """A list with what a method of the envs returns; of an env with several agents it is called once.

        Raises:
            AttributeError: an env has none.
            whatever it raises; the VecEnv is closed then.
        """
        self._check_attribute(method_name, indices)
        return self._apply(sb3_calls.call, method_name, method_args, method_kwargs, indices=indices)

    def env_is_wrapped(self, wrapper_class, indices=None):
        """A list of whether the envs have this wrapper."""
        return self._apply(sb3_calls.is_wrapped, wrapper_class, indices=indices)

    def get_images(self):
        """A list with what every env's `render` returns (one for each env, not each row)."""
        first_rows = range(0, self.num_envs, self.vec.agents_per_env)
        if self.render_mode != "rgb_array":
            warnings.warn(f"The render mode is {self.render_mode}; images need envs made with render_mode='rgb_array'")
            return [None for _ in first_rows]
        return self.env_method("render", indices=first_rows)

    def _check_attribute(self, name, indices):
        found = self._apply(sb3_calls.has, name, indices=indices)
        if not all(found):
            raise AttributeError(f"env {self._envs(indices)[found.index(False)]} has no attribute {name!r}")

    def _apply(self, function, *args, indices=None):
        return _raising(self.vec.apply, function, *args, envs=self._envs(indices))

    def _envs(self, indices):
        """The env of each row."""
        return [int(row) // self.vec.agents_per_env for row in self._get_indices(indices)]


def make_vec_env(env_id, n_envs=1, seed=None, num_workers="auto", *, vec_env_kwargs=None, **kwargs):
    """A VecEnv of monitored envs, as Stable-Baselines3's make_vec_env makes one.

    Args:
        env_id, n_envs, seed: an id, a class or a function; how many; the seed of the first reset (env i: `seed + i`).
        num_workers: as in VecEnv.
        vec_env_kwargs: further arguments of VecEnv.
        kwargs: further arguments of Stable-Baselines3's make_vec_env: wrapper_class, env_kwargs, monitor_dir, …

    >>> import fastvec.sb3
    >>> envs = fastvec.sb3.make_vec_env("CartPole-v1", n_envs=4, seed=1, num_workers=2)
    >>> envs.reset().shape
    (4, 4)
    >>> envs.close()
    """
    vec_env_kwargs = {"num_workers": num_workers, **(vec_env_kwargs or {})}
    return env_util.make_vec_env(env_id, n_envs, seed, vec_env_cls=VecEnv, vec_env_kwargs=vec_env_kwargs, **kwargs)


def _raising(function, *args, **kwargs):
    """Calls it; an env's own exception takes the place of the WorkerError that it caused, which becomes its cause."""
    try:
        return function(*args, **kwargs)
    except WorkerError as error:
        cause, error.__cause__, error.__context__ = error.__cause__, None, None
        if cause is None:
            raise
        raise cause from error


def _copied(views):
    if isinstance(views, dict):
        return {key: _copied(part) for key, part in views.items()}
    if isinstance(views, tuple):
        return tuple(_copied(part) for part in views)
    return views.copy()


def _row(observations, row):
    if isinstance(observations, dict):
        return {key: _row(part, row) for key, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_row(part, row) for part in observations)
    return observations[row].copy()
