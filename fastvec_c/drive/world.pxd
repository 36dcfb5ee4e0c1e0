from libc.stdint cimport int32_t, uint8_t, uint64_t

from fastvec_c.drive.layout cimport drive_rules, drive_scene, drive_world

# What a step leaves for the rows of one world, beside their observations.
ctypedef struct world_rows:
    float *rewards
    uint8_t *terminations
    uint8_t *truncations
    uint8_t *masks

# Begins an episode in `scene`; `random`: the state of the world's stream.
cdef void world_reset(drive_world *world, const drive_scene *scene, const drive_rules *rules, uint64_t *random) noexcept nogil

# One step; actions: int64 or float32 rows, as the rules say, one for each controlled agent.  Returns the first row
# whose action is out of range or, where the rules want that checked, not finite, having done nothing, or -1.
cdef int32_t world_step(drive_world *world, const drive_rules *rules, const void *actions, world_rows *rows) noexcept nogil

# Writes the observation rows of the controlled agents, rules.row.nbytes each.
cdef void world_observe(const drive_world *world, const drive_rules *rules, char *out) noexcept nogil
