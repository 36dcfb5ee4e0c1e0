from libc.stdint cimport int32_t

from fastvec_c.drive.layout cimport drive_scene


cdef class Scene:
    # Never changes after __init__, so that any number of worlds may read it; `data` points into the arrays kept below.
    cdef drive_scene data
    cdef readonly str name, scene_name, scenario_id
    cdef readonly frozenset deleted       # ids that were left out
    cdef readonly object map_observation  # float32 (R, 9): GPUDrive's map_observation
    cdef list _keep

    cdef _add_agents(self, raw, config, deleted)
    cdef bint _is_static(self, config, int32_t i)
    cdef bint _may_be_driven(self, config, int32_t i, bint is_there)
    cdef void _set_seen(self, int32_t i, bint normalised)
    cdef _add_segments(self, config)
    cdef _list_eights(self, config)
    cdef _add_boxes(self)
    cdef _add_names(self)
