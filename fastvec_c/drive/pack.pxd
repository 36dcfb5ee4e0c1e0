cdef extern from "drive/pack.h" nogil:
    enum:
        DRIVE_RAW_SELF, DRIVE_RAW_PARTNER, DRIVE_RAW_ROAD

    # One agent's raw tensors, [8], [63][9] and [200][9], as an observation row, [2984].
    void drive_pack_row(const float *self, const float *partners, const float *roads, float *out)
