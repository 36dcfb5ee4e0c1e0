"""The base of the envs that workers step through Python."""
import numpy as np

cdef dict STANDARD = {
    "rewards": np.dtype("float32"),
    "terminations": np.dtype("bool"),
    "truncations": np.dtype("bool"),
    "masks": np.dtype("bool"),
}


cdef class PyEnv:
    """An env behind the worker loop's contract; pyenv.pxd documents the methods."""

    cpdef bind(self, list slots):
        for fields in slots:
            self._check_rows(fields)
        self.slots = slots

    def _check_rows(self, fields):
        # Later accesses are raw pointers, so a mistake has to show here.
        self._check_field(fields, "observations", self.observation_spec.shape, self.observation_spec.dtype)
        self._check_field(fields, "actions", self.action_spec.shape, self.action_spec.dtype)
        for name, dtype in STANDARD.items():
            self._check_field(fields, name, (), dtype)
        for name, spec in self.fields.items():
            self._check_field(fields, name, spec.shape, spec.dtype)

    def _check_field(self, fields, name, shape, dtype):
        rows = fields[name]
        expected = (self.num_agents, *shape)
        if rows.shape != expected or rows.dtype != dtype or not rows.flags.c_contiguous:
            raise ValueError(
                f"{name} has shape {rows.shape} and dtype {rows.dtype}; expected C-contiguous {expected} and {dtype}"
            )

    cpdef object reset(self, int slot, object seed, object options):
        raise NotImplementedError

    cpdef object step(self, int action_slot, int slot):
        raise NotImplementedError

    cpdef close(self):
        self.env.close()

    cdef object checked_info(self, object info, str method):
        """The info a worker passes on: a dict with something in it, or None."""
        if not isinstance(info, dict):
            raise TypeError(
                f"{method}() of {type(self.env).__name__} gave an info of type {type(info).__name__}; expected a dict"
            )
        return info if info else None
