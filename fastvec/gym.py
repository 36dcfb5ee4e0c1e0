"""fastvec as a gymnasium.vector.VectorEnv."""
from __future__ import annotations

import copy as copying
import multiprocessing
from functools import partial

import numpy as np

try:
    import gymnasium
except ImportError as error:
    raise ImportError("fastvec.gym needs gymnasium 1.0 or later: pip install 'fastvec[gym]'") from error
from gymnasium.error import AlreadyPendingCallError, ClosedEnvironmentError, NoAsyncCallError, ResetNeeded
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import batch_differing_spaces, batch_space

from fastvec_c.errors import ClosedError, FastvecError, RecvTimeout, StateError, WorkerError
from fastvec_c.gym_results import Results

from fastvec.factory import make
from fastvec.hosting import UnlikeEnvs
from fastvec.machine import usable_cpus
from fastvec.odd_spaces import Carried, CarriedResults, CarryingVec, Unbounded, Wrapping, unbounded_box, within
from fastvec.spaces import Spec, UnsupportedSpace

try:
    from gymnasium.vector import AutoresetMode
except ImportError:  # gymnasium 1.0
    AutoresetMode = None

_MODES = {"NextStep": "next_step", "SameStep": "same_step", "Disabled": "disabled"}


class VectorEnv(gymnasium.vector.VectorEnv):
    """Steps gymnasium envs in fastvec's workers; where SyncVectorEnv or AsyncVectorEnv stood.

    Args:
        env_fns: a function for each env; or envs compiled for fastvec, whose Specs become gymnasium spaces.  One agent
            in each.
        num_workers: worker processes, a divisor of the number of envs; 0 keeps the envs in this process; "auto" times an
            env, of which it makes one more, and takes what should be fastest.
        copy: observations are copies; with False they are views on shared memory, which the next step overwrites.
        autoreset_mode: gymnasium.vector.AutoresetMode or its value: "NextStep", "SameStep" or "Disabled".  Envs that
            reset themselves, as compiled ones do, are said to be "SameStep".
        observation_mode: "same": the envs' observation spaces are equal; "different": their bounds may differ; or a tuple,
            the space of all observations and that of a single one.
        start_method, affinity, wait, timeout, on_failure, max_restarts, restart_window, debug: as in `fastvec.make`.

    Observations have the structure of `observation_space`; rewards are float64 arrays of what float32 holds.  Samples of
    spaces without a fixed size (Text, Sequence, Graph, OneOf, your own) go through pipes: much slower than the others.

    Attributes:
        vec: the fastvec.VecEnv underneath.

    Raises:
        RuntimeError: the envs' spaces differ.
        ValueError: an env has several agents, or an argument does not fit.
        whatever a function of `env_fns`, or an env, raised; its cause is a fastvec.WorkerError with the worker's traceback.
        WorkerError: a worker died.
        multiprocessing.TimeoutError: the workers did not answer within the time limit.
    """

    closed = True  # until there is something to close
    _pending = None  # the call under way: "reset", "step" or "call"

    def __init__(self, env_fns, num_workers="auto", *, copy=True, autoreset_mode="NextStep", observation_mode="same",
                 start_method=None, affinity=None, wait="auto", timeout=None,
                 on_failure="raise", max_restarts=10, restart_window=600.0, debug=False):
        mode = getattr(autoreset_mode, "value", autoreset_mode)
        if mode not in _MODES:
            raise ValueError(f"autoreset_mode={autoreset_mode!r}; give one of {list(_MODES)}, or a gymnasium.vector.AutoresetMode")
        _check_observation_mode(observation_mode)
        options = {"autoreset": _MODES[mode], "start_method": start_method, "affinity": affinity, "wait": wait, "timeout": timeout,
                   "on_failure": on_failure, "max_restarts": max_restarts, "restart_window": restart_window, "debug": debug}
        try:
            self.vec, carrying = _make(list(env_fns), num_workers, observation_mode == "same", options)
        except UnlikeEnvs as error:
            raise (self._unlike(observation_mode, error) if error.what == "observation" else RuntimeError(str(error))) from error
        except FastvecError as error:
            self._raise(error)
        self.closed = False
        try:
            self._take_over(mode, observation_mode, copy, carrying)
        except BaseException:
            self.close()
            raise

    def _take_over(self, mode, observation_mode, copy, carrying):
        """The attributes that a gymnasium.vector.VectorEnv has."""
        vec = self.vec
        if vec.agents_per_env > 1:
            raise ValueError(f"env_fns: envs with {vec.agents_per_env} agents; gymnasium's vector envs have one in each: use fastvec.make")
        self.num_envs = vec.num_envs
        self.copy = copy
        mode = mode if vec.autoreset else "SameStep"
        self.autoreset_mode = AutoresetMode(mode) if AutoresetMode else mode
        metadata, self.render_mode = self._apply(_description, envs=[0])[0]
        self.metadata = {**metadata, "autoreset_mode": self.autoreset_mode}
        self._take_spaces(observation_mode)
        if vec.autoreset:
            vec.leave_bounds_to_envs()
        observations = _structured(_as_space(vec.single_observation_space), vec.fields["observations"][0])
        self._engine = vec
        self._results = Results(vec, observations, copy)
        if carrying:
            self._engine = CarryingVec(vec, self.single_observation_space, self.action_space)
            self._results = CarriedResults(self._engine, self._results)
        self._step = self._results.step

    def _take_spaces(self, observation_mode):
        """The spaces, of one env and of all.

        Raises:
            RuntimeError: those of the envs differ.
        """
        declared = self._apply(_spaces, envs=[0])[0]
        observation_space, action_space = (_as_space(space) for space in declared)
        self.single_action_space, self.action_space = action_space, batch_space(action_space, self.num_envs)
        if observation_mode == "same":
            self.single_observation_space, self.observation_space = observation_space, batch_space(observation_space, self.num_envs)
        elif observation_mode == "different":
            spaces = [space for space, _ in self._apply(_spaces)]
            self.single_observation_space, self.observation_space = observation_space, batch_differing_spaces(spaces)
        else:
            self.observation_space, self.single_observation_space = observation_mode
            if not is_space_dtype_shape_equiv(observation_space, self.single_observation_space):
                raise self._unlike(observation_mode, f"those of the envs are like {observation_space}")
        same_observations, same_actions = zip(*self._apply(_has_spaces, *declared), strict=True)
        if observation_mode == "same" and not all(same_observations):
            raise self._unlike(observation_mode, f"that of env {same_observations.index(False)} is not {observation_space}")
        if not all(same_actions):
            raise RuntimeError(
                f"env_fns: the action space of env {same_actions.index(False)} differs from that of the first, {action_space}; "
                "wrap them to the same space"
            )

    def _unlike(self, observation_mode, what):
        if observation_mode == "same":
            return RuntimeError(
                f"{type(self).__name__}(..., observation_mode='same') however the sub-environments observation spaces are not "
                f"equivalent. {what}. If this is intentional, use `observation_mode='different'` instead."
            )
        return RuntimeError(
            f"{type(self).__name__}(..., observation_mode='different' or custom space) however the sub-environments observation "
            f"spaces do not share a common shape and dtype: {what}"
        )

    # ---- resetting ---------------------------------------------------------------------------------------------------

    def reset(self, *, seed=None, options=None):
        """Begins new episodes.

        Args:
            seed: an int: env i gets `seed + i`; or num_envs ints or Nones.  None goes on with the envs' random streams.
            options: a dict for every env's reset.  "reset_mask" in it, bool [num_envs], says which envs are reset; the others
                keep their observations.  Or a list of num_envs dicts or Nones, one for each env.

        Returns:
            (observations, infos)
        """
        self.reset_async(seed, options)
        return self.reset_wait()

    def reset_async(self, seed=None, options=None):
        """Like `reset`, but returns at once; `reset_wait` gives the results.

        Raises:
            AlreadyPendingCallError: another call is under way.
        """
        self._begin("reset")
        if isinstance(seed, (list, tuple)) and len(seed) != self.num_envs:
            raise ValueError(f"seed: a list of {len(seed)}; its length must match num_envs={self.num_envs}")
        if seed is None and self.vec.autoreset:
            seed = [None] * self.num_envs  # what an env_fn seeded goes on
        mask = None
        if isinstance(options, dict) and "reset_mask" in options:
            options = dict(options)
            mask = _checked_mask(options.pop("reset_mask"), self.num_envs)
            if not options and not self.vec.autoreset:
                options = None
        try:
            self.vec.async_reset(seed, options, mask)
        except FastvecError as error:
            self._raise(error)
        self._pending = "reset"

    def reset_wait(self, timeout=None):
        """The results of `reset_async`.

        Args:
            timeout: seconds to wait at most.

        Raises:
            NoAsyncCallError: there was no `reset_async`.
            multiprocessing.TimeoutError: the time has passed; `reset_wait` may be called again.
        """
        infos = self._wait("reset", timeout)
        return self._results.observations(), infos

    # ---- stepping ----------------------------------------------------------------------------------------------------

    def step(self, actions):
        """Steps all envs.

        Args:
            actions: of `action_space`, or a sequence of num_envs actions.

        Returns:
            (observations, rewards float64 [num_envs], terminations, truncations bool [num_envs], infos)

        Raises:
            multiprocessing.TimeoutError: the time limit of this VectorEnv has passed; `step_wait` goes on waiting.
        """
        if self._pending is not None or actions is None:
            self._check_step(actions)
        try:
            results = self._step(actions)
        except Exception as error:
            if isinstance(error, RecvTimeout):
                self._pending = "step"
            self._raise_of_step(error, actions)
        return (*results[:4], self._merged(results[4])) if results[4] else results

    def step_async(self, actions):
        """Like `step`, but returns at once; `step_wait` gives the results.

        Raises:
            AlreadyPendingCallError: another call is under way.
        """
        self._check_step(actions)
        try:
            self._engine.send(actions)
        except Exception as error:
            self._raise_of_step(error, actions)
        self._pending = "step"

    def step_wait(self, timeout=None):
        """The results of `step_async`.

        Args:
            timeout: seconds to wait at most.

        Raises:
            NoAsyncCallError: there was no `step_async`.
            multiprocessing.TimeoutError: the time has passed; `step_wait` may be called again.
        """
        return self._results(self._wait("step", timeout))

    def _merged(self, infos):
        """gymnasium's dict of arrays, of the engine's {env: dict}."""
        merged = {}
        for env in sorted(infos):
            merged = self._add_info(merged, infos[env], env)
        return merged

    # ---- the envs' attributes ----------------------------------------------------------------------------------------

    def call(self, name, *args, **kwargs):
        """A tuple with the attribute `name` of every env, called with the arguments if it can be called."""
        self.call_async(name, *args, **kwargs)
        return self.call_wait()

    def call_async(self, name, *args, **kwargs):
        """Like `call`, for `call_wait` to give the results.  It returns when they are there."""
        self._begin("call")
        if name in ("reset", "step", "close"):
            raise ValueError(f"call({name!r}) would go past the vector env; use its own {name}()")
        self._called = tuple(self._apply(_attribute, name, args, kwargs))
        self._pending = "call"

    def call_wait(self, timeout=None):
        """The results of `call_async`, which are there: `timeout` never passes."""
        self._check_pending("call")
        self._pending = None
        called, self._called = self._called, None
        return called

    def get_attr(self, name):
        """A tuple with the attribute `name` of every env."""
        return self.call(name)

    def set_attr(self, name, values):
        """Sets the attribute `name` of every env.

        Args:
            values: a list or tuple with one for each env, or one value for all.
        """
        self._begin("set_attr")
        if not isinstance(values, (list, tuple)):
            self._apply(_set_attribute, name, values)
            return
        if len(values) != self.num_envs:
            raise ValueError(
                "Values must be a list or tuple with length equal to the number of environments. "
                f"Got `{len(values)}` values for {self.num_envs} environments."
            )
        for env, value in enumerate(values):
            self._apply(_set_attribute, name, value, envs=[env])

    def render(self):
        """A tuple with what every env's `render` returns."""
        return self.call("render")

    @property
    def np_random_seed(self):
        """A tuple with every env's."""
        return self.get_attr("np_random_seed")

    @property
    def np_random(self):
        """A tuple with every env's; with workers, copies."""
        return self.get_attr("np_random")

    def _apply(self, function, *args, envs=None):
        try:
            return self.vec.apply(within, function, *args, envs=envs)
        except FastvecError as error:
            self._raise(error)

    # ---- the end -----------------------------------------------------------------------------------------------------

    def close_extras(self, timeout=None, terminate=False):
        """Ends the workers.

        Args:
            timeout: seconds that the envs may take to close; by default 5.  Workers that take longer are killed.
            terminate: kill them at once.
        """
        if self._pending is not None:
            gymnasium.logger.warn(f"Calling `close` while waiting for a pending call to `{self._pending}` to complete.")
            self._pending = None
        self.vec.close(0.0 if terminate else 5.0 if timeout is None else timeout)

    # ---- order and errors --------------------------------------------------------------------------------------------

    def _begin(self, what):
        if self.closed:
            raise self._closed_error()
        if self._pending is not None:
            call = what if what == "set_attr" else f"{what}_async"
            raise AlreadyPendingCallError(
                f"Calling `{call}` while waiting for a pending call to `{self._pending}` to complete.", self._pending
            )

    def _check_step(self, actions):
        self._begin("step")
        if actions is None:  # to the engine it means: those written in place
            raise TypeError(f"actions=None; give an array or list with an action for each of the {self.num_envs} envs")

    def _check_pending(self, what):
        if self.closed:
            raise self._closed_error()
        if self._pending != what:
            raise NoAsyncCallError(f"Calling `{what}_wait` without any prior call to `{what}_async`.", what)

    def _wait(self, what, timeout):
        """The infos of what is under way."""
        self._check_pending(what)
        try:
            infos = self._engine.recv(timeout).infos
        except FastvecError as error:
            self._raise(error)
        self._pending = None
        return self._merged(infos)

    def _closed_error(self):
        return ClosedEnvironmentError(f"Trying to operate on `{type(self).__name__}`, after a call to `close()`.")

    def _raise_of_step(self, error, actions):
        if isinstance(error, FastvecError):
            self._raise(error)
        if isinstance(error, ValueError) and not hasattr(actions, "__len__"):
            raise TypeError(f"actions={actions!r}; give an array or list with an action for each of the {self.num_envs} envs") from None
        raise error

    def _raise(self, error):
        """Raises what gymnasium's users expect in place of the engine's error."""
        if isinstance(error, RecvTimeout):
            raise multiprocessing.TimeoutError(str(error)) from error
        if isinstance(error, ClosedError):
            raise self._closed_error() from error
        if isinstance(error, StateError):
            raise ResetNeeded(str(error)) from error
        if isinstance(error, WorkerError):
            self._pending = None
            self.closed = True  # the engine has closed itself
            cause, error.__cause__, error.__context__ = error.__cause__, None, None  # it becomes the cause of its cause
            if cause is not None:
                raise cause from error
        raise error


def make_vec(id, num_envs=1, num_workers="auto", *, copy=True, autoreset_mode="NextStep", wrappers=(), vector_kwargs=None, **kwargs):
    """A VectorEnv of registered envs, as gymnasium.make_vec makes one.

    Args:
        id: as in gymnasium.make: a name, or an EnvSpec.
        num_workers, copy, autoreset_mode: as in VectorEnv.
        wrappers: functions that wrap each env.
        vector_kwargs: further arguments of VectorEnv.
        kwargs: of gymnasium.make.

    >>> import fastvec.gym
    >>> envs = fastvec.gym.make_vec("CartPole-v1", num_envs=4, num_workers=2)
    >>> observations, infos = envs.reset(seed=1)
    >>> observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    >>> envs.close()
    """
    options = {"copy": copy, "autoreset_mode": autoreset_mode, **(vector_kwargs or {})}
    envs = VectorEnv([partial(_make_one, id, tuple(wrappers or ()), kwargs)] * num_envs, num_workers, **options)
    spec = copying.deepcopy(id if isinstance(id, gymnasium.envs.registration.EnvSpec) else envs._apply(_spec, envs=[0])[0])
    spec.kwargs = {**spec.kwargs, **kwargs, "num_envs": num_envs}
    envs.spec = spec
    return envs


def register(id):
    """Makes `id` known to gymnasium.make_vec under a second name, where it is vectorized by fastvec.

    gymnasium has no list of vectorization modes to add to; an id with a vector entry point is its way.

    Returns:
        the name, "fastvec/" and `id`.

    >>> import gymnasium, fastvec.gym
    >>> fastvec.gym.register("CartPole-v1")
    'fastvec/CartPole-v1'
    >>> envs = gymnasium.make_vec("fastvec/CartPole-v1", num_envs=4, num_workers=2, autoreset_mode="SameStep")
    >>> envs.close()
    """
    spec = gymnasium.spec(id)
    name = "fastvec/" + spec.id.replace("/", ".")
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=spec.entry_point, vector_entry_point=partial(make_vec, spec.id), kwargs=dict(spec.kwargs),
                           max_episode_steps=spec.max_episode_steps, reward_threshold=spec.reward_threshold)
    return name


# ---- making ------------------------------------------------------------------------------------------------------------


def _make(env_fns, num_workers, equal_bounds, options):
    """(a VecEnv, whether its envs are Carried)"""
    creators = env_fns if equal_bounds else [Wrapping(Unbounded, creator) for creator in env_fns]
    try:
        return make(creators, num_workers, **options), False
    except WorkerError as error:
        if not isinstance(error.__cause__, UnsupportedSpace):
            raise
    if num_workers == "auto":  # their time goes into pipes, not into what can be timed on one
        num_workers = next(n for n in range(min(len(env_fns), max(1, int(usable_cpus()))), 0, -1) if len(env_fns) % n == 0)
    return make([Wrapping(Carried, creator) for creator in env_fns], num_workers, **options), True


def _check_observation_mode(mode):
    spaces = gymnasium.spaces.Space
    if isinstance(mode, tuple) and len(mode) == 2:
        if not all(isinstance(space, spaces) for space in mode):
            raise TypeError(f"Expected both elements of observation_mode to be Spaces, got {type(mode[0])} and {type(mode[1])}")
    elif mode not in ("same", "different"):
        raise ValueError("Invalid `observation_mode`, expected: 'same' or 'different' or tuple of single and batch observation space, "
                         f"actual got {mode}")


def _make_one(id, wrappers, kwargs):
    env = gymnasium.make(id, **kwargs)
    for wrapper in wrappers:
        env = wrapper(env)
    return env


# ---- what is run where the envs live -----------------------------------------------------------------------------------


def _attribute(env, name, args, kwargs):
    value = env.get_wrapper_attr(name) if hasattr(env, "get_wrapper_attr") else getattr(env, name)
    return value(*args, **kwargs) if callable(value) else value


def _set_attribute(env, name, value):
    if hasattr(env, "set_wrapper_attr"):
        env.set_wrapper_attr(name, value)
    else:
        setattr(env, name, value)


def _has_spaces(env, observation_space, action_space):
    return env.observation_space == observation_space, env.action_space == action_space


def _spaces(env):
    return env.observation_space, env.action_space


def _description(env):
    return dict(getattr(env, "metadata", {})), getattr(env, "render_mode", None)


def _spec(env):
    return env.spec


# ---- spaces ------------------------------------------------------------------------------------------------------------


def _as_space(space):
    """A gymnasium space, for a fastvec.Spec too."""
    if not isinstance(space, Spec):
        return space
    if space.dtype.kind in "iu" and space.shape == () and space.low is not None and space.high is not None:
        return gymnasium.spaces.Discrete(int(space.high) - int(space.low) + 1, start=int(space.low))
    box = unbounded_box(space)
    low, high = (np.broadcast_to(widest if bound is None else bound, space.shape).astype(space.dtype)
                 for bound, widest in ((space.low, box.low), (space.high, box.high)))
    return gymnasium.spaces.Box(low, high, space.shape, space.dtype.type)


def _structured(space, rows):
    """Views on rows, in the structure that a batch of `space` has."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: _structured(part, rows[key]) for key, part in space.spaces.items()}
    if isinstance(space, gymnasium.spaces.Tuple):
        return tuple(_structured(part, rows[f"f{i}"]) for i, part in enumerate(space.spaces))
    return rows


def _checked_mask(mask, num_envs):
    """The mask, or None where it is all envs."""
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"`options['reset_mask']` must be a numpy array, got {type(mask)}")
    if mask.shape != (num_envs,):
        raise ValueError(f"`options['reset_mask']` must have shape `({num_envs},)`, got {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"`options['reset_mask']` must have `dtype=np.bool_`, got {mask.dtype}")
    if not mask.any():
        raise ValueError(f"`options['reset_mask']` must contain a boolean array with at least one True value, got reset_mask={mask}")
    return None if mask.all() else mask
