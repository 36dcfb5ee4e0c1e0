"""Compiled envs: the C ABI of include/fastvec_env.h."""
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid


cdef class CompiledEnv:
    """A Python object whose `__fastvec_env__()` hands over a `fastvec_env` struct.

    Args:
        env: the object.
        observation_spec, action_spec: fastvec.Spec of one row of each.
        fields: {name: fastvec.Spec} of the env's own fields.

    Raises:
        TypeError: the capsule is not one of FASTVEC_ENV_CAPSULE.
        ValueError: the struct contradicts the object, or was built for another ABI.
    """

    def __init__(self, env, observation_spec, action_spec, dict fields):
        kind = type(env).__name__
        capsule = env.__fastvec_env__()
        if not PyCapsule_IsValid(capsule, FASTVEC_ENV_CAPSULE):
            raise TypeError(
                f"{kind}.__fastvec_env__() returned {capsule!r}; "
                f"return a PyCapsule named {FASTVEC_ENV_CAPSULE.decode()!r} around a fastvec_env"
            )
        self.c = <fastvec_env *>PyCapsule_GetPointer(capsule, FASTVEC_ENV_CAPSULE)
        self.env = env
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.fields = fields
        self.num_agents = self.c.num_agents
        self._check(kind)

    def _check(self, kind):
        if self.c.abi != FASTVEC_ENV_ABI:
            raise ValueError(
                f"{kind}: built for env ABI {self.c.abi}, this fastvec has {FASTVEC_ENV_ABI}; rebuild it against "
                "the fastvec_env.h in fastvec_c.get_include()"
            )
        if self.num_agents < 1 or self.num_agents != self.env.num_agents:
            raise ValueError(
                f"{kind}: num_agents is {self.env.num_agents}, but {self.num_agents} in its fastvec_env; "
                "make both the same, at least 1"
            )
        if len(self.fields) > FASTVEC_MAX_EXTRA:
            raise ValueError(f"{kind}: {len(self.fields)} fields; at most {FASTVEC_MAX_EXTRA} are possible")
        for name, spec, nbytes in (
            ("observation", self.observation_spec, self.c.observation_nbytes),
            ("action", self.action_spec, self.c.action_nbytes),
        ):
            if spec.nbytes != nbytes:
                raise ValueError(
                    f"{kind}: {name}_nbytes is {nbytes} in its fastvec_env, but one row of {name}_space "
                    f"({spec}) takes {spec.nbytes} bytes; make them agree"
                )

    def close(self):
        if hasattr(self.env, "close"):
            self.env.close()

    cdef raise_error(self):
        cdef const char *message = NULL
        if self.c.error != NULL:
            message = self.c.error(self.c.self)
        raise RuntimeError(message.decode("utf-8", "replace") if message != NULL else "the env gave no message")
