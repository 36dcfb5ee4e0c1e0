from fastvec_c.drive.layout cimport drive_row

cdef extern from "drive/pack.h" nogil:
    enum:
        DRIVE_RAW_SELF, DRIVE_RAW_PARTNER, DRIVE_RAW_ROAD

    ctypedef struct drive_raw:
        const float *self
        const float *weights
        const float *partners
        const float *roads
        const float *lidar
        const float *bev

    # One agent's raw tensors as the float32 row that consists of `parts`.
    void drive_pack_row(const drive_row *parts, const drive_raw *raw, float *out)
