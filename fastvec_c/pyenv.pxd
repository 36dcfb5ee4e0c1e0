# What a worker knows of an env that is stepped with the GIL held: one object that writes its rows of a slot.

cdef class PyEnv:
    cdef public object env  # the user's
    cdef public object observation_spec  # fastvec.Spec, one row
    cdef public object action_spec
    cdef public int num_agents  # rows
    cdef public dict fields  # {name: fastvec.Spec} of further arrays it writes
    cdef readonly bint resets_rows  # a reset finds its rows as they were
    cdef list slots

    # slots[s]: the env's own rows in slot s, by field: "observations" and "actions" [num_agents, *shape], "rewards"
    # float32 [num_agents], "terminations", "truncations" and "masks" bool [num_agents], and every one of `fields`.
    # C-contiguous; kept alive by the PyEnv.  Called once, before the first reset.
    cpdef bind(self, list slots)

    # Begins new episodes; writes the observations of `slot`.  The caller has zeroed its rewards and flags and set its
    # masks, unless `resets_rows`.  Returns a non-empty info dict or None.
    cpdef object reset(self, int slot, object seed, object options)

    # Acts on the actions of `action_slot` and writes every row of `slot`.  Returns a non-empty info dict or None.
    cpdef object step(self, int action_slot, int slot)

    cpdef close(self)

    cdef object checked_info(self, object info, str method)
