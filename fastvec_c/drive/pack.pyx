"""GPUDrive's raw tensors as observation rows."""
import numpy as np

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastvec_c.drive.layout cimport DRIVE_ROW, drive_row


def pack_rows(const float[:, ::1] self_observation, const float[:, :, ::1] partner_observations, const float[:, :, ::1] agent_roadmap,
              float[:, ::1] out, slots=None):
    """Writes what GPUDriveTorchEnv.get_obs(mask) returns, bit for bit; without temporaries and without the GIL.

    Args:
        self_observation: float32 (N, 8), GPUDrive's tensor (flattened, where there are many worlds).
        partner_observations: float32 (N, 63, 9).
        agent_roadmap: float32 (N, 200, 9).
        out: float32 (C, 2984), written: normalised as the policy sees it.
        slots: int (C,), which of the N agents; all of them by default.

    Raises:
        ValueError: a shape or dtype is another, or a slot is out of range.
    """
    cdef Py_ssize_t n = self_observation.shape[0], c = out.shape[0], row
    cdef const int64_t[::1] which = np.arange(n) if slots is None else np.ascontiguousarray(slots, np.int64)
    _check("self_observation", self_observation, (n, DRIVE_RAW_SELF))
    _check("partner_observations", partner_observations, (n, 63, DRIVE_RAW_PARTNER))
    _check("agent_roadmap", agent_roadmap, (n, 200, DRIVE_RAW_ROAD))
    _check("out", out, (len(which), DRIVE_ROW))
    for row in range(c):
        if not 0 <= which[row] < n:
            raise ValueError(f"slots[{row}] is {which[row]}: expected 0 <= slot < {n}")
    cdef drive_row parts
    cdef drive_raw raw
    memset(&parts, 0, sizeof(parts))
    parts.ego = parts.partners = parts.roads = parts.normalised = 1
    memset(&raw, 0, sizeof(raw))
    with nogil:
        for row in range(c):
            raw.self, raw.partners = &self_observation[which[row], 0], &partner_observations[which[row], 0, 0]
            raw.roads = &agent_roadmap[which[row], 0, 0]
            drive_pack_row(&parts, &raw, &out[row, 0])


def _check(name, array, expected):
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}: expected {expected}")
