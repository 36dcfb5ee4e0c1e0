"""Envs that write their rows in place: fastvec.Env."""
from cpython.object cimport PyObject_GetAttr, PyObject_SetAttr

from .pyenv cimport PyEnv

cdef tuple STANDARD = ("observations", "rewards", "terminations", "truncations", "masks")


cdef class RowsEnv(PyEnv):
    """A `fastvec.Env`, whose row attributes are views on the slot that it writes.

    Args:
        env: the fastvec.Env.  Its `step` and `reset` are looked up once.
        observation_spec, action_spec: `fastvec.spaces.as_spec` of its spaces.
        num_agents: rows.
        fields: {name: Spec} of the further arrays it writes.
    """

    def __cinit__(self, env, observation_spec, action_spec, int num_agents, dict fields not None):
        self.env = env
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.num_agents = num_agents
        self.fields = fields
        self.names = STANDARD + tuple(fields)
        self.current = -1
        self.env_step = env.step
        self.env_reset = env.reset

    cpdef bind(self, list slots):
        PyEnv.bind(self, slots)
        self.views = [tuple([fields[name] for name in self.names]) for fields in slots]
        self.actions = [fields["actions"] for fields in slots]
        self.current = -1

    cpdef object reset(self, int slot, object seed, object options):
        self.show(slot)
        return self.finish(self.env_reset(seed=seed, options=options), slot, "reset")

    cpdef object step(self, int action_slot, int slot):
        self.show(slot)
        if action_slot < 0 or action_slot >= len(self.actions):
            raise IndexError(f"action_slot is {action_slot}; the env is bound to {len(self.actions)} slots")
        return self.finish(self.env_step(self.actions[action_slot]), slot, "step")

    cdef int show(self, int slot) except -1:
        """Points the object's row attributes at `slot`."""
        cdef tuple views
        cdef Py_ssize_t i
        if slot == self.current:
            return 0
        if self.views is None or slot < 0 or slot >= len(self.views):
            raise IndexError(f"slot is {slot}; the env is bound to {len(self.views or ())} slots")
        views = self.views[slot]
        for i in range(len(views)):
            PyObject_SetAttr(self.env, self.names[i], views[i])
        self.current = slot
        return 0

    cdef object finish(self, object info, int slot, str method):
        cdef tuple views = self.views[slot]
        cdef Py_ssize_t i
        # `self.observations = …` in place of `self.observations[:] = …` would lose every row without a word.
        for i in range(len(views)):
            if PyObject_GetAttr(self.env, self.names[i]) is not views[i]:
                name = self.names[i]
                raise RuntimeError(
                    f"{method}() of {type(self.env).__name__} replaced self.{name}; rows are written in place: "
                    f"self.{name}[:] = …"
                )
        if info is None:
            return None
        if isinstance(info, tuple):
            raise TypeError(
                f"{method}() of {type(self.env).__name__} returned a tuple of {len(info)}; a fastvec.Env writes its rows "
                "in place and returns None or an info dict (for gymnasium's tuples, derive from gymnasium.Env)"
            )
        return self.checked_info(info, method)
