"""Drives a compiled env through its capsule, as a worker would, with ctypes."""
import ctypes as C

import numpy as np

OK, INFO, ERROR = 0, 1, -1


class Rows(C.Structure):
    _fields_ = [(name, C.c_void_p) for name in ("actions", "observations", "rewards", "terminations", "truncations", "masks")]
    _fields_ += [("extra", C.c_void_p * 8)]


class Env(C.Structure):
    _fields_ = [
        ("abi", C.c_uint32), ("num_agents", C.c_uint32), ("observation_nbytes", C.c_size_t), ("action_nbytes", C.c_size_t),
        ("self", C.c_void_p),
        ("reset", C.CFUNCTYPE(C.c_int, C.c_void_p, C.POINTER(Rows), C.POINTER(C.c_uint64))),
        ("step", C.CFUNCTYPE(C.c_int, C.c_void_p, C.POINTER(Rows))),
        ("error", C.CFUNCTYPE(C.c_char_p, C.c_void_p)),
    ]


class Driver:
    """Owns the rows that a Drive env writes; everything is filled with rubbish first, so that unwritten rows show."""

    def __init__(self, env):
        get = C.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = C.c_void_p, [C.py_object, C.c_char_p]
        self.env = env
        self.abi = Env.from_address(get(env.__fastvec_env__(), b"fastvec.env.v1"))
        n = self.abi.num_agents
        self.actions = np.zeros((n, *env.action_space.shape), env.action_space.dtype)
        self.observations = np.empty((n, *env.observation_space.shape), env.observation_space.dtype)
        self.spoil()
        self.rewards = np.zeros(n, np.float32)
        self.terminations, self.truncations, self.masks = (np.zeros(n, np.uint8) for _ in range(3))
        self.rows = Rows(*(a.ctypes.data for a in (self.actions, self.observations, self.rewards, self.terminations, self.truncations, self.masks)))

    def spoil(self):
        self.observations.view(np.uint8)[:] = 255  # NaN, where it is float32 or float16

    def reset(self, seed=None):
        self.rewards[:], self.terminations[:], self.truncations[:], self.masks[:] = 0, 0, 0, 1
        return self.abi.reset(self.abi.self, C.byref(self.rows), None if seed is None else C.byref(C.c_uint64(seed)))

    def step(self, actions):
        self.actions[:] = actions
        self.spoil()
        self.rewards[:], self.terminations[:], self.truncations[:], self.masks[:] = np.nan, 99, 99, 99
        return self.abi.step(self.abi.self, C.byref(self.rows))

    def error(self):
        return self.abi.error(self.abi.self).decode()
