from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from fastvec_c.drive.layout cimport drive_rules, drive_scene, drive_world
from fastvec_c.drive.rules cimport Rules
from fastvec_c.env cimport fastvec_env

# What is told of a finished episode.
ctypedef struct drive_episode:
    int32_t world, scene, length, num_agents
    float goal_rate, collision_rate, off_road_rate, truncation_rate, mean_return

# Many worlds behind the ABI.  The arrays belong to the Worlds object that holds this struct.
ctypedef struct drive_env:
    fastvec_env abi
    drive_rules rules
    int32_t num_worlds
    uint8_t auto_reset, with_replacement
    int32_t resample_every   # episodes after which a world takes another scene; 0: never
    drive_world *worlds
    const drive_scene **scenes
    int32_t *deck         # world w may host scenes[deck[deck_first[w]]] .. scenes[deck[deck_first[w + 1] - 1]]
    int32_t *deck_first   # [num_worlds + 1]
    int32_t *turn         # [num_worlds]: place in its deck of the scene that a world hosts
    int32_t *scene_of     # [num_worlds]: that scene
    int32_t *episodes_here  # [num_worlds]: begun since it hosts that scene
    int32_t *first_row    # [num_worlds + 1]
    uint64_t *random      # [num_worlds]: state of each world's stream
    drive_episode *episodes  # ring of num_episodes places
    int32_t num_episodes
    int64_t episodes_written, episodes_read
    char[160] message


cdef class Worlds:
    cdef drive_env env
    cdef Rules _rules  # keeps alive what env.rules points to
    cdef readonly list decks, scenes
    cdef dict _keep
    cdef list _told
    cdef void *_zeros(self, str name, size_t nbytes)
    cdef _deal(self, list decks)
