"""Single-agent envs with gymnasium's interface: `reset` gives (observation, info), `step` a 5-tuple."""
cimport numpy as cnp
from cpython.float cimport PyFloat_AsDouble
from cpython.object cimport PyObject_IsTrue
from cpython.tuple cimport PyTuple_GET_SIZE
from libc.stdlib cimport calloc, free

from .packing cimport Packer
from .packing import packer
from .pyenv cimport PyEnv

from copy import deepcopy

import numpy as np

cnp.import_array()

cdef object NUMPY_BOOL = np.bool_

cdef enum:
    NEXT_STEP
    SAME_STEP
    DISABLED

cdef dict MODES = {"next_step": NEXT_STEP, "same_step": SAME_STEP, "disabled": DISABLED}


cdef class GymEnv(PyEnv):
    """One env with gymnasium's interface, which writes one row.

    Args:
        env: has `reset(*, seed, options) -> (observation, info)`, `step(action) -> (observation, reward, terminated,
            truncated, info)`, `observation_space` and `action_space`.  Its `step` and `reset` are looked up once.
        observation_spec, action_spec: `fastvec.spaces.as_spec` of its spaces.
        autoreset: as in gymnasium's vector envs.
            "next_step": the step after the end of an episode ignores its action and resets; reward 0, both flags False.
            "same_step": the end of an episode resets at once; the info holds "final_obs" and "final_info".
            "disabled": the caller resets; a step before that raises RuntimeError.

    Rewards are stored as float32; observations are cast as `np.copyto(..., casting="same_kind")` would.
    """

    def __cinit__(self, env, observation_spec, action_spec, str autoreset not None):
        if autoreset not in MODES:
            raise ValueError(f"autoreset is {autoreset!r}; expected one of {', '.join(map(repr, MODES))}")
        name = type(getattr(env, "unwrapped", env)).__name__
        self.env = env
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.num_agents = 1
        self.fields = {}
        self.autoreset = autoreset
        self.mode = MODES[autoreset]
        self.env_step = env.step
        self.env_reset = env.reset
        self.observation_packer = packer(
            env.observation_space, observation_spec.dtype, observation_spec.shape, f"observation of {name}"
        )
        self.action_packer = packer(env.action_space, action_spec.dtype, action_spec.shape, f"action of {name}")

    def __dealloc__(self):
        free(self.rows)

    cpdef bind(self, list slots):
        cdef int slot
        PyEnv.bind(self, slots)
        free(self.rows)
        self.rows = <SlotRow *>calloc(len(slots), sizeof(SlotRow))
        if not self.rows:
            raise MemoryError()
        self.num_slots = len(slots)
        for slot, fields in enumerate(slots):
            self.rows[slot].observation = <char *>cnp.PyArray_DATA(fields["observations"])
            self.rows[slot].action = <const char *>cnp.PyArray_DATA(fields["actions"])
            self.rows[slot].reward = <float *>cnp.PyArray_DATA(fields["rewards"])
            self.rows[slot].termination = <unsigned char *>cnp.PyArray_DATA(fields["terminations"])
            self.rows[slot].truncation = <unsigned char *>cnp.PyArray_DATA(fields["truncations"])

    cdef SlotRow *row_of(self, int slot) except NULL:
        if slot < 0 or slot >= self.num_slots:
            raise IndexError(f"slot is {slot}; the env is bound to {self.num_slots} slots")
        return &self.rows[slot]

    cpdef object reset(self, int slot, object seed, object options):
        return self.begin(self.row_of(slot), self.env_reset(seed=seed, options=options))

    cpdef object step(self, int action_slot, int slot):
        cdef SlotRow *row = self.row_of(slot)
        cdef int terminated, truncated
        cdef object result, info
        if self.ended:
            if self.mode == DISABLED:
                raise RuntimeError(
                    f"step() of {type(self.env).__name__} after its episode ended; with autoreset='disabled' reset it "
                    "first, or choose autoreset='next_step'"
                )
            row.reward[0] = 0
            row.termination[0] = False
            row.truncation[0] = False
            return self.begin(row, self.env_reset())
        result = self.env_step(self.action_packer.read(self.row_of(action_slot).action))
        if not isinstance(result, tuple) or PyTuple_GET_SIZE(result) != 5:
            raise step_error(self.env, result)
        row.reward[0] = reward_of(self.env, (<tuple>result)[1])
        terminated = flag_of(self.env, (<tuple>result)[2], "terminated")
        truncated = flag_of(self.env, (<tuple>result)[3], "truncated")
        info = (<tuple>result)[4]
        row.termination[0] = terminated
        row.truncation[0] = truncated
        if terminated or truncated:
            if self.mode == SAME_STEP:
                return self.begin_at_once(row, (<tuple>result)[0], info)
            self.ended = True
        self.observation_packer.write(row.observation, (<tuple>result)[0])
        return self.checked_info(info, "step")

    cdef object begin(self, SlotRow *row, object result):
        """Writes what env.reset returned."""
        if not isinstance(result, tuple) or PyTuple_GET_SIZE(result) != 2:
            raise TypeError(
                f"reset() of {type(self.env).__name__} returned {described(result)}; expected the tuple "
                "(observation, info), as gymnasium has it"
            )
        self.observation_packer.write(row.observation, (<tuple>result)[0])
        self.ended = False
        return self.checked_info((<tuple>result)[1], "reset")

    cdef object begin_at_once(self, SlotRow *row, object final_obs, object final_info):
        """Resets in the step that ended the episode, which is then known from the info only."""
        self.checked_info(final_info, "step")
        # An env that reuses one array for its observations would overwrite this one in its reset.
        infos = {"final_obs": deepcopy(final_obs), "final_info": final_info}
        infos.update(self.begin(row, self.env_reset()) or {})
        return infos


cdef float reward_of(object env, object reward) except? -1:
    try:
        return <float>PyFloat_AsDouble(reward)
    except TypeError:
        raise TypeError(
            f"step() of {type(env).__name__} gave the reward {described(reward)}; expected a number"
        ) from None


cdef int flag_of(object env, object flag, str name) except -1:
    if flag is True or flag is False:
        return flag is True
    if type(flag) is not NUMPY_BOOL and (flag is None or isinstance(flag, (str, dict, list, tuple))):
        raise TypeError(f"step() of {type(env).__name__} gave {name} as {described(flag)}; expected a bool")
    try:
        return PyObject_IsTrue(flag)
    except ValueError:  # an array of several flags
        raise TypeError(f"step() of {type(env).__name__} gave {name} as {described(flag)}; expected one bool") from None


cdef object step_error(object env, object result):
    expected = "expected the tuple (observation, reward, terminated, truncated, info)"
    if isinstance(result, tuple) and PyTuple_GET_SIZE(result) == 4:
        expected += (
            ": four values are the API of the old gym; return terminated and truncated in place of done, or wrap the "
            "env with shimmy"
        )
    return TypeError(f"step() of {type(env).__name__} returned {described(result)}; {expected}")


cdef str described(object value):
    """A value in an error message: its type, and its size or the value itself."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"{value!r:.100} of type {type(value).__name__}"
