from libc.stdint cimport int32_t

from fastvec_c.drive.layout cimport drive_scene


cdef class Scene:
    # Never changes after __init__, so that any number of worlds may read it; `data` points into the arrays kept below.
    cdef drive_scene data
    cdef readonly str name
    cdef readonly object map_observation  # float32 (R, 9): GPUDrive's map_observation
    cdef list _keep

    cdef _add_agents(self, raw, config)
    cdef _add_segments(self, double radius, int32_t enough)
    cdef _add_obstacles(self)
