from libc.stdint cimport int32_t, uint8_t, uint64_t

from fastvec_c.drive.layout cimport drive_rules, drive_world
from fastvec_c.drive.rules cimport Rules

# The exported tensors of a simulator's W worlds, 64 slots each.  They belong to the simulator, stay where they are for
# its life, and are written by its step(), reset() and set_maps(); `action` by us, between those.
ctypedef struct exported:
    float *action                     # [W][64][10]
    const float *reward               # [W][64]
    const int32_t *done               # [W][64]
    const int32_t *info               # [W][64][5]
    const float *self_observation     # [W][64][8]
    const float *absolute             # [W][64][14]; rows of padding slots are rubbish
    const float *partners             # [W][64][63][9]
    const float *roads                # [W][64][200][9]
    const float *lidar                # [W][64][600]
    const float *bev                  # [W][64][40000]
    const float *trajectory           # [W][64][1456]
    const int32_t *controlled         # [W][64]
    const int32_t *shape              # [W][2]: agents, road segments
    const int32_t *steps_remaining    # [W][64]

# One row in its present episode.
ctypedef struct row_state:
    int32_t world, slot               # slot -1: the row is not in use
    uint8_t alive, ever_hit_road, ever_hit_agent, ever_reached
    float[3] weights
    float episode_return


cdef class SimulatorRows:
    cdef readonly int num_worlds, num_rows
    cdef exported sim
    cdef Rules rules
    cdef drive_rules mirrored         # the same, without what mirrors cannot show
    cdef bint dense, fast, puffer_flags
    cdef readonly dict arrays         # the views that `sim` points into
    cdef list scenes                  # fast: the Scene of each world
    cdef dict _keep                   # memory of the arrays below
    cdef row_state *rows              # [num_rows]
    cdef int32_t *first_row           # [num_worlds + 1]
    cdef int32_t *live                # [num_worlds]: rows alive
    cdef uint64_t *random             # [num_worlds]: state of each world's stream
    cdef drive_world *mirrors         # [num_worlds]

    cdef void *_zeros(self, str name, size_t nbytes)
    cdef void draw_weights(self, int32_t w) noexcept nogil
    cdef bint has_ended(self, const row_state *row) noexcept nogil
    cdef int32_t steps_taken(self, int32_t w) noexcept nogil
    cdef float reward_of(self, const row_state *row) noexcept nogil
    cdef void judge_row(self, row_state *row, float *reward, uint8_t *termination, uint8_t *truncation) noexcept nogil
    cdef void write_action(self, const row_state *row, const void *actions, int32_t r) noexcept nogil
    cdef void mirror(self, int32_t w) noexcept nogil
    cdef void observe_row(self, row_state *row, char *out) noexcept nogil
