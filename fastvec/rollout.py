"""A rollout: T steps of every row, as they lie in the arena."""
from __future__ import annotations

import numpy as np

from fastvec_c.errors import StateError
from fastvec_c.fields import STANDARD

from fastvec.advantages import as_array, gae
from fastvec.agents import agent_names
from fastvec.spaces import write_sample
from fastvec.torch_views import tensors

_CAME_WITH_THE_NEXT = ("rewards", "terminations", "truncations")  # lie in the slot of the observation that came with them


class Rollout:
    """What `horizon` steps of every row saw, did and got: views on the arena, nothing copied.  Made by `VecEnv.rollout`.

    In step t a row saw observations[t] and took actions[t], with what the trainer kept beside (fields["values"][t], say), which
    gave rewards[t], terminations[t], truncations[t] and next_observations[t].

    Either a policy collects it, `vec.rollout(policy)`, or the caller:

        rollout = vec.rollout()
        for batch in rollout.collect():
            vec.send(actions, {"values": values, "log_probs": log_probs})      # for the rows of this batch

    Every row makes `horizon` steps.  With batches smaller than all (`batch_size`) each worker's rows go at their own pace; who is
    done waits for the others, so that all steps of a rollout are of the policy that it was collected with.  (The last batches
    may then be smaller than `batch_size`.)  What the first batch holds is what the rows had come to: after `reset` the first
    observations, else the last of the step before, with its rewards and flags.

    Whose it is, and until when: yours from the end of `collect` until the next rollout begins, with `double_buffer=True` until the
    next but one does; `reset`, and `step` and `send` outside of a rollout, end it likewise.  What is read here after that is a
    StateError.  Arrays and tensors that were taken before cannot tell: they show what is written there since.  `masks` (as far as
    they are not what the arena has), `infos`, `advantages` and `returns` are the rollout's own and stay.

    Attributes:
        horizon: T.
        number: of the rollout, counted from 0 since the VecEnv was made; None before `collect`.
        infos: [T] of {env index: dict}: infos[t] came with rewards[t].
    """

    def __init__(self, vec):
        self._vec = vec
        self.horizon = vec.horizon
        self.number = None
        self.infos = [{} for _ in range(self.horizon)]
        self._first = None  # slot of the first observations
        self._complete = False
        self._masks = self._advantages = self._returns = None
        self._resets = []  # (step, rows, what they had got) of `reset(env_mask=...)` in the middle
        self._lost = []  # (step, rows) whose worker died in it
        self._names = None  # of each env's agents, where infos call them by name
        self._begun = []  # (step, rows) whose episodes begin with that step's observations, although no reset step follows

    # ---- collecting --------------------------------------------------------------------------------------------------

    def collect(self):
        """Yields a Batch for every one that wants actions: answer it with `vec.send(actions, fields)`.

        To leave the loop early is to give the rollout up.

        Raises:
            StateError: it was collected before; rows are not in hand; a batch was not answered; `reset` (without `env_mask`) or
                another rollout came in between.
            what `recv` raises; the rollout is given up then.
        """
        vec = self._vec
        if self.number is not None:
            raise StateError("collect() of a rollout that was collected before; make another with vec.rollout()")
        if vec.autoreset == "same_step" and vec.agents_per_env > 1 and vec._holds_all:
            self._names = vec.apply(agent_names)  # by which the infos call rows
        self.number = vec._begin_rollout()
        self._first = self.number % (vec.slots // (self.horizon + 1)) * (self.horizon + 1)
        self._begun = [(0, rows) for rows in vec._begun_anew]
        vec._begun_anew = []
        vec._collecting = self
        try:
            while True:
                if vec._collecting is not self:
                    raise StateError("the rollout was given up by a reset(), or by another rollout, in the middle of it")
                last = vec._units_left == 0
                batch = vec.recv()
                if batch.infos:
                    self._note(batch.infos)
                if last:
                    break
                yield batch
            self._restore()
            self._complete = True
        finally:
            if vec._collecting is self:
                vec._collecting = None
                vec._end_rollout()

    def _rows_of(self, env):
        first = env * self._vec.agents_per_env
        return slice(first, first + self._vec.agents_per_env)

    def _note(self, infos):
        """Keeps what envs had to say."""
        for env, info in infos.items():
            t = self._vec._slot_of(env) - self._first - 1
            if t < 0:  # of a reset at the very beginning
                continue
            told = self.infos[t].get(env)
            self.infos[t][env] = {**told, **info} if isinstance(told, dict) and isinstance(info, dict) else info
            if isinstance(info, dict) and ("restarted" in info or "dropped" in info):
                self._lost.append((t, self._rows_of(env)))
                self._begin_anew(t + 1, self._rows_of(env))

    def _begin_anew(self, t, rows):
        if t < self.horizon:
            self._begun.append((t, rows))
        else:
            self._vec._begun_anew.append(rows)

    def _before_reset(self, env_mask):
        """Some envs are about to be reset, all rows being at one step: their reset clears what the step before gave them."""
        slot = self._vec._slot
        t = slot - self._first
        if t == 0:
            return
        rows = np.repeat(env_mask, self._vec.agents_per_env)
        got = {name: self._vec.fields[name][slot].copy() for name in (*_CAME_WITH_THE_NEXT, "masks")}
        self._resets.append((t, rows, got))
        self._begun.append((t, rows))

    def _restore(self):
        """Puts back what resets have cleared.  Where an episode was in full swing, it was cut off."""
        for t, rows, got in reversed(self._resets):
            got["truncations"] |= got["masks"] & ~got["terminations"]
            for name in _CAME_WITH_THE_NEXT:
                self._vec.fields[name][self._first + t, rows] = got[name][rows]

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _slots(self, name, first=0, steps=None):
        """A view on `steps` slots of a field, by default T, from the rollout's slot `first` on."""
        if not self._complete:
            raise StateError("the rollout is not complete: go through collect() to the end, or give vec.rollout() a policy")
        if self.number < self._vec.oldest_rollout:
            raise StateError(f"rollout {self.number} is gone: its slots were given to a later one (or to reset() or step()); copy what "
                             "must last longer, or make(double_buffer=True) to keep it while the next one is collected")
        first += self._first
        return self._vec.fields[name][first:first + (steps or self.horizon)]

    @property
    def observations(self):
        """[T, num_rows, ...]: what the policy saw."""
        return self._slots("observations")

    @property
    def next_observations(self):
        """[T, num_rows, ...]: what came after the actions: the same memory, one slot further.  Where an episode ended this may be
        the first observation of the next one; see `final_observations`."""
        return self._slots("observations", 1)

    @property
    def last_observations(self):
        """[num_rows, ...]: next_observations[-1], whose values `gae` needs.  The next rollout begins with it."""
        return self._slots("observations", self.horizon, 1)[0]

    @property
    def actions(self):
        """[T, num_rows, ...]."""
        return self._slots("actions")

    @property
    def rewards(self):
        """float32 [T, num_rows]."""
        return self._slots("rewards", 1)

    @property
    def terminations(self):
        """bool [T, num_rows]: the episode ended with the action."""
        return self._slots("terminations", 1)

    @property
    def truncations(self):
        """bool [T, num_rows]: the episode was cut off after the action: by its env, by `reset(env_mask=...)`, or because its worker
        died."""
        return self._slots("truncations", 1)

    @property
    def masks(self):
        """bool [T, num_rows]: the steps to learn from.  False where no agent took part (as in the arena's masks), where the step only
        reset the env (autoreset="next_step", and the emulated envs of PufferLib), and where a worker died before it had an outcome."""
        took_part = self._slots("masks", 1)
        if self._masks is None:
            self._masks = self._counting(took_part)
        return self._masks

    def _counting(self, took_part):
        autoreset, resets_late = self._vec.autoreset, self._vec._resets_late
        if autoreset is None and not (resets_late or self._lost or self._resets):
            return took_part
        counting = took_part.copy()
        for t, rows, got in reversed(self._resets):
            counting[t - 1, rows] = got["masks"][rows]
        if autoreset is not None:
            counting &= self._slots("masks")  # of many agents: one that comes only now has not acted
        if resets_late:
            over = self._slots("terminations") | self._slots("truncations")
            for t, rows in self._begun:
                over[t, rows] = False
            counting &= ~over
        for t, rows in self._lost:
            counting[t, rows] = False
        return counting

    @property
    def fields(self):
        """{name: array} of the trainer's fields, [T, num_rows, ...], beside the observations and actions; and of the env's own,
        [T + 1, num_rows, ...], of which [t] came with observations[t], and [t + 1] with rewards[t]."""
        steps = {name: self.horizon if name in self._vec.trainer_fields else self.horizon + 1 for name in self._vec.fields}
        return {name: self._slots(name, 0, n) for name, n in steps.items() if name not in STANDARD}

    @property
    def torch(self) -> RolloutTensors:
        """The same arrays as torch tensors on the same memory: `rollout.torch.observations` and so on, and `rollout.torch.fields`."""
        return RolloutTensors(self)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def gae(self, last_values, gamma=0.99, gae_lambda=0.95, *, values=None, rewards=None, final_values=None):
        """Advantages and returns of every step, by generalized advantage estimation; see `fastvec.gae` for the formula.

        Where an episode was truncated, its last observation's value is taken from `final_values`, else from the next step, where that
        has the last observation (autoreset="next_step" and PufferLib's emulated envs; or "disabled", and the env was not reset before
        the rollout's end).  Else, with "same_step" and other envs that reset themselves, the value of the observation before stands
        for it.

        Args:
            last_values: [num_rows], of `last_observations`.
            gamma, gae_lambda: from 0 to 1.
            values: [T, num_rows], of `observations`; None: the trainer field "values".
            rewards: [T, num_rows], in place of the rollout's own (scaled or clipped, say).
            final_values: [T, num_rows], of the observations that episodes were truncated with (see `final_observations`), NaN
                where unknown; or a number for all: 0 takes truncations for terminations.

        Returns:
            (advantages, returns): float32 [T, num_rows], 0 where masked; they are the attributes of these names from now on.

        Raises:
            ValueError, TypeError: an argument does not fit.
            StateError: the rollout is not complete, or gone.
        """
        if values is None:
            if "values" not in self._vec.trainer_fields:
                raise ValueError("values: there is no trainer field of that name; give them, or declare it in make(trainer_fields=...)")
            values = self._slots("values")
        rewards = self.rewards if rewards is None else rewards
        final_values = self._final_values(values, last_values, final_values)
        self._advantages, self._returns = gae(
            rewards, values, last_values, self.terminations, self.truncations, masks=self.masks, final_values=final_values,
            gamma=gamma, gae_lambda=gae_lambda,
        )
        return self._advantages, self._returns

    def _final_values(self, values, last_values, given):
        """What `fastvec.gae` takes, from what the caller knows and what the rollout does."""
        if not self._vec._resets_late and self._vec.autoreset != "disabled":
            return given
        if given is None and not self._resets:
            return "next"
        shape = self.rewards.shape
        known = np.concatenate([as_array("values", values, shape)[1:], as_array("last_values", last_values, shape[1:])[None]])
        for t, rows, _ in self._resets:  # which put first observations in the place of last ones
            known[t - 1, rows] = np.nan
        if given is None:
            return known
        given = as_array("final_values", given, shape if np.ndim(given) else ())
        return np.where(np.isnan(given), known, given)

    def final_observations(self):
        """The last observations of episodes that were truncated, with autoreset="same_step", where a reset in the same step has put
        the first ones of the next episodes in their place: infos have them ("final_obs").

            steps, rows, observations = rollout.final_observations()
            final_values = np.full((rollout.horizon, vec.num_rows), np.nan, np.float32)
            final_values[steps, rows] = critic(observations)
            rollout.gae(last_values, final_values=final_values)

        Returns:
            (steps, rows, observations): int64 [n], int64 [n], [n, ...], copies.

        Raises:
            StateError: `autoreset` is another; or the rollout is not complete, or gone.
        """
        if self._vec.autoreset != "same_step":
            raise StateError(f"final_observations() with autoreset={self._vec.autoreset!r}: infos have none; gae() knows what is known")
        steps, rows = np.nonzero(self.truncations & self.masks)
        observations = self.next_observations[steps, rows]  # of who left before the others of its env: they are the last ones
        for i, (t, row) in enumerate(zip(steps, rows, strict=True)):
            env, agent = divmod(int(row), self._vec.agents_per_env)
            if "final_obs" not in self.infos[t].get(env, ()):
                continue
            last = self.infos[t][env]["final_obs"]
            if self._names and self._names[env] is not None:
                last = last[self._names[env][agent]]
            write_sample(observations[i, ...], last, self._vec.single_observation_space)
        return steps, rows, observations

    @property
    def advantages(self):
        """float32 [T, num_rows], once `gae` was called."""
        return self._estimated("_advantages")

    @property
    def returns(self):
        """float32 [T, num_rows], advantages + values, once `gae` was called."""
        return self._estimated("_returns")

    def _estimated(self, name):
        if getattr(self, name) is None:
            raise StateError(f"{name[1:]}: call gae(last_values) first")
        return getattr(self, name)

    def __repr__(self):
        state = "complete" if self._complete else "not complete"
        return f"<fastvec.Rollout {self.number}: {self.horizon} steps of {self._vec.num_rows} rows, {state}>"


class RolloutTensors:
    """`rollout.torch`: a Rollout's arrays as tensors that share their memory; whose that is, and until when, is the Rollout's rule.

    Dict and Tuple observations are dicts of tensors by the names of their fields.
    """

    def __init__(self, rollout):
        self._rollout = rollout

    observations = property(lambda self: tensors(self._rollout.observations))
    next_observations = property(lambda self: tensors(self._rollout.next_observations))
    last_observations = property(lambda self: tensors(self._rollout.last_observations))
    actions = property(lambda self: tensors(self._rollout.actions))
    rewards = property(lambda self: tensors(self._rollout.rewards))
    terminations = property(lambda self: tensors(self._rollout.terminations))
    truncations = property(lambda self: tensors(self._rollout.truncations))
    masks = property(lambda self: tensors(self._rollout.masks))
    advantages = property(lambda self: tensors(self._rollout.advantages))
    returns = property(lambda self: tensors(self._rollout.returns))
    fields = property(lambda self: {name: tensors(array) for name, array in self._rollout.fields.items()})
