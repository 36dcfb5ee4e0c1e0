"""Envs with PufferLib's interface: attributes are the buffers that `reset` and `step` fill, for one agent or many."""
cimport numpy as cnp
from cpython.object cimport PyObject_GetAttr
from cpython.tuple cimport PyTuple_GET_SIZE

from .pyenv cimport PyEnv

import numpy as np

cnp.import_array()

# What PufferLib calls the standard fields.
NAMES = {
    "observations": "observations",
    "rewards": "rewards",
    "terminals": "terminations",
    "truncations": "truncations",
    "masks": "masks",
}


cdef class BufferEnv(PyEnv):
    """One env that fills buffers: those of its rows where it was built with them, else its own, which are then copied.

    Args:
        env: has `reset()` and `reset(seed=...)`, `step(actions)`, `done`, and the attributes of NAMES; while `done`, a step
            resets it.  With `build`, whatever stands for it until then.
        observation_spec, action_spec: fastvec.Spec of one row.
        num_agents: rows.
        fields: {name: Spec} of further buffers.
        resets_itself: `done` is never true, and not looked at: it is a property of native envs, as dear as a short step.
        build: called by `bind` with the buffers, {name: rows}, the actions among them; returns the env.
    """

    def __cinit__(self, env, observation_spec, action_spec, int num_agents, dict fields not None, bint resets_itself=False,
                  build=None, **_):
        self.env = env
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.num_agents = num_agents
        self.fields = fields
        self.resets_itself = resets_itself
        self.build = build
        self.resets_rows = True

    cpdef bind(self, list slots):
        PyEnv.bind(self, slots)
        rows_of = {**NAMES, **{name: name for name in self.fields}}
        self.names = tuple(rows_of)
        self.views = [tuple([fields[name] for name in rows_of.values()]) for fields in slots]
        self.actions = [fields["actions"] for fields in slots]
        if self.build is not None:
            slots[0]["masks"][:] = True
            self.env = self.build({**dict(zip(self.names, self.views[0])), "actions": self.actions[0]})
        self.env_step = self.env.step
        self.env_reset = self.env.reset

    cpdef object reset(self, int slot, object seed, object options):
        if options is not None:
            raise TypeError(f"options={options!r}: reset() of {type(self.env).__name__} takes none; leave it out")
        return self.finish(self.env_reset() if seed is None else self.env_reset(seed=seed), 2, slot, "reset")

    cpdef object step(self, int action_slot, int slot):
        if not self.resets_itself and PyObject_GetAttr(self.env, "done"):
            return self.finish(self.env_reset(), 2, slot, "reset")
        return self.finish(self.env_step(self.actions[action_slot]), 5, slot, "step")

    cdef object finish(self, object result, int size, int slot, str method):
        """Brings the buffers to their rows; the info, or None where it says nothing."""
        cdef tuple views = self.views[slot]
        cdef Py_ssize_t i
        cdef object buffer, info
        if not isinstance(result, tuple) or PyTuple_GET_SIZE(result) != size:
            what = f"a tuple of {len(result)}" if isinstance(result, tuple) else f"{result!r:.100}"
            expected = "(observations, infos)" if size == 2 else "(observations, rewards, terminals, truncations, infos)"
            raise TypeError(f"{method}() of {type(self.env).__name__} returned {what}; expected {expected}")
        if not self.still_in_place(<tuple>result, views):
            self.in_place = True
            for i in range(len(views)):
                buffer = PyObject_GetAttr(self.env, self.names[i])
                if buffer is not views[i]:
                    np.copyto(views[i], buffer, casting="same_kind")
                    self.in_place = False
        info = (<tuple>result)[size - 1]
        return info if says_something(info) else None

    cdef bint still_in_place(self, tuple result, tuple views):
        """Whether a look at what the env returned is enough: looking up all its buffers would cost more than a short step.
        Some envs return scalars in place of the smaller ones."""
        cdef Py_ssize_t i
        if not self.in_place or result[0] is not views[0]:
            return False
        for i in range(1, PyTuple_GET_SIZE(result) - 1):
            if result[i] is not views[i] and cnp.PyArray_Check(result[i]):
                return False
        return True

    cpdef close(self):
        try:
            self.env.close()
        except NotImplementedError:  # what PufferEnv's own does
            pass


cdef bint says_something(object info) except -1:
    if isinstance(info, dict):
        for value in (<dict>info).values():
            if not isinstance(value, dict) or says_something(value):
                return True
        return False
    if isinstance(info, list):
        for value in <list>info:
            if says_something(value):
                return True
        return False
    return info is not None
