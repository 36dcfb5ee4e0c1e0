"""The immutable scene: which agents there are and who drives them, road segments, and where to look for which."""
import numpy as np

from libc.math cimport INFINITY, atan2, fabsf, floor, sqrt, sqrtf
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastvec_c.drive.layout cimport *

cdef extern from "drive/angle.h" nogil:
    void drive_sincos(float angle, float *sine, float *cosine)

cdef extern from "drive/observe.h" nogil:
    float drive_normal_length(float v)
    float drive_normal_width(float v)
    float drive_normal_road(float v)
    int drive_portable
    uint16_t drive_half(float value)
    void drive_halves(const float *values, int32_t n, uint16_t *out)

CELL_OF_RADIUS = 8     # cells per observation radius: smaller ones list fewer segments in vain, but are more
OBSTACLE_CELL = 4.0    # metres
MAX_CELLS = 250_000    # of one grid: a scene larger than usual gets larger cells
MAX_LISTED = 20_000_000   # entries of one grid: 40 MB; usual ones have some hundred thousand, and 4 million with 10,000 segments

TRACK = 2              # column of the metadata: is to be predicted

# GPUDrive's rules of making a scene, as far as they are not in the configuration.
STATIC_GOAL_DISTANCE = 0.2
cdef enum:
    SHORTEST_THINNED = 11  # points of a polyline
    MOST_POINTS = 1746     # of one after thinning
cdef float FLAT = 0.1      # half width and half height of a segment
cdef float STOP_SIGN_HALF = 0.2, STOP_SIGN_HALF_HEIGHT = 1.0


cdef float through_quaternion(float heading) noexcept nogil:
    # GPUDrive keeps headings as float quaternions; this is what comes back, which matters next to +-pi.
    # atan2 in double, rounded to float: libm's atan2f may differ between machines.
    cdef float w, z
    drive_sincos(heading / 2, &z, &w)
    return <float>atan2(<double>(2 * w * z), <double>(1 - 2 * z * z))


def mean_position(const float[:, :, ::1] position, const uint8_t[:, ::1] valid, const float[:, ::1] points):
    """The running float32 mean over valid logged positions, then road points; GPUDrive's `world_means`."""
    cdef float x = 0, y = 0, n = 0
    cdef Py_ssize_t i, t
    for i in range(position.shape[0]):
        for t in range(position.shape[1]):
            if valid[i, t]:
                n += 1
                x += (position[i, t, 0] - x) / n
                y += (position[i, t, 1] - y) / n
    for i in range(points.shape[0]):
        n += 1
        x += (points[i, 0] - x) / n
        y += (points[i, 1] - y) / n
    return x, y


def thin(const float[:, ::1] points, float threshold):
    """Indices of the points of a polyline that stay, intp.

    For consecutive kept points a, b, c the middle one goes when their triangle is smaller than `threshold` (m^2); the
    next triangle begins at c after that, at b otherwise; passes repeat until one drops nothing (Visvalingam's idea).
    Of what is left the first 1,746 stay.
    """
    index_array = np.empty(points.shape[0], np.intp)
    cdef Py_ssize_t[::1] index = index_array
    return index_array[:_thin(points, 0, points.shape[0], threshold, &index[0])] if points.shape[0] else index_array


cdef Py_ssize_t _thin(const float[:, ::1] points, Py_ssize_t first, Py_ssize_t n, float threshold, Py_ssize_t *index) noexcept nogil:
    # Writes which of the n points from `first` on stay to `index`; returns how many.
    cdef Py_ssize_t k, kept = n, next_kept, a, b, c
    for k in range(n):
        index[k] = first + k
    if n < SHORTEST_THINNED:
        return n
    while True:
        # Compacts in place: what is kept goes to the front, in order.
        k = 0
        next_kept = 0
        while k + 2 < kept:
            a, b, c = index[k], index[k + 1], index[k + 2]
            index[next_kept] = a
            next_kept += 1
            if 0.5 * fabsf((points[a, 0] - points[c, 0]) * (points[b, 1] - points[a, 1])
                           - (points[a, 0] - points[b, 0]) * (points[c, 1] - points[a, 1])) < threshold:
                k += 2
            else:
                k += 1
        while k < kept:
            index[next_kept] = index[k]
            next_kept += 1
            k += 1
        if next_kept == kept:
            return min(kept, MOST_POINTS)
        kept = next_kept


def road_boxes(const float[:, ::1] points, const int64_t[::1] starts, const int32_t[::1] types, const int64_t[::1] ids,
               const int64_t[::1] map_types, float mean_x, float mean_y, float threshold):
    """Road segments as GPUDrive's `map_observation`: float32 (R, 9), at most 10,000 of them.

    Columns: x, y, half length, half width, half height, heading, type, road id, map type.
    """
    cdef Py_ssize_t r, k, kept, first, most = 0, count = 0, length
    for r in range(types.shape[0]):
        length = starts[r + 1] - starts[r]
        most += max(length - 1, 1)  # segments; a sign has one
    boxes = np.empty((min(most, DRIVE_SEGMENTS), 9), np.float32)
    cdef float[:, ::1] box = boxes
    cdef Py_ssize_t[::1] index = np.empty(points.shape[0] + 1, np.intp)
    with nogil:
        for r in range(types.shape[0]):
            first = count
            if types[r] == DRIVE_EDGE or types[r] == DRIVE_LINE or types[r] == DRIVE_LANE:
                kept = _thin(points, starts[r], starts[r + 1] - starts[r], threshold, &index[0])
                for k in range(kept - 1):
                    if count == DRIVE_SEGMENTS:
                        break
                    _between(&box[count, 0], &points[index[k], 0], &points[index[k + 1], 0], mean_x, mean_y)
                    count += 1
            elif types[r] and count < DRIVE_SEGMENTS:
                if types[r] == DRIVE_STOP_SIGN:
                    _sign(&box[count, 0], &points[starts[r], 0], mean_x, mean_y)
                else:
                    _area(&box[count, 0], &points[starts[r], 0], mean_x, mean_y)
                count += 1
            for k in range(first, count):
                box[k, 5] = through_quaternion(box[k, 5])
                box[k, 6], box[k, 7], box[k, 8] = <float>types[r], <float>ids[r], <float>map_types[r]
    return boxes[:count].copy()


cdef void _between(float *box, const float *a, const float *b, float mean_x, float mean_y) noexcept nogil:
    # The segment from a to b.
    cdef float ax = a[0] - mean_x, ay = a[1] - mean_y, bx = b[0] - mean_x, by = b[1] - mean_y, dx = bx - ax, dy = by - ay
    box[0], box[1] = (ax + bx) / 2, (ay + by) / 2
    box[2], box[3], box[4] = sqrtf(dx * dx + dy * dy) / 2, FLAT, FLAT
    box[5] = <float>atan2(<double>dy, <double>dx)


cdef void _area(float *box, const float *corner, float mean_x, float mean_y) noexcept nogil:
    # A crosswalk or speed bump: along the longest of the four sides.  As GPUDrive, which adds and subtracts corners
    # before it subtracts the mean: far from the origin that makes half a millimetre.
    cdef float x = 0, y = 0, dx, dy, length, longest = -1, shortest = INFINITY
    cdef int k, other
    for k in range(4):
        other = 2 * ((k + 1) % 4)
        x += corner[2 * k]
        y += corner[2 * k + 1]
        dx, dy = corner[other] - corner[2 * k], corner[other + 1] - corner[2 * k + 1]
        length = <float>sqrt(<double>dx * dx + <double>dy * dy)
        if length > longest:
            longest = length
            box[5] = <float>atan2(<double>dy, <double>dx)
        shortest = min(shortest, length)
    box[0], box[1], box[2], box[3], box[4] = x / 4 - mean_x, y / 4 - mean_y, longest / 2, shortest / 2, FLAT


cdef void _sign(float *box, const float *at, float mean_x, float mean_y) noexcept nogil:
    box[0], box[1], box[5] = at[0] - mean_x, at[1] - mean_y, 0
    box[2], box[3], box[4] = STOP_SIGN_HALF, STOP_SIGN_HALF, STOP_SIGN_HALF_HEIGHT


cdef build_grid(drive_grid *grid, const float[:, ::1] low, const float[:, ::1] high, double cell, double radius, int32_t enough, list keep, name):
    # Lists, per cell, the items whose bounding rectangle low..high is within `radius` of the cell.  Once a cell has
    # `enough` items that are within the radius of all of it, later ones cannot matter; 0: never enough.
    cdef Py_ssize_t n = low.shape[0], i, total = 0
    cdef int32_t nx, ny, c
    cdef double x0, y0, slack, reach
    if n == 0:
        x0 = y0 = slack = reach = 0
        nx = ny = 0
        cell = 1
    else:
        lo, hi = np.asarray(low).min(axis=0).astype(float), np.asarray(high).max(axis=0).astype(float)
        # float32 positions and cell coordinates are off by less than this
        slack = 1e-2 + 1e-5 * max(abs(lo).max(), abs(hi).max())
        reach = radius + slack
        x0, y0 = lo - reach
        area = float(np.prod(hi - lo + 2 * reach))
        cell = max(cell, (area / MAX_CELLS) ** 0.5)
        nx, ny = (int(v) for v in np.ceil((hi + reach - (x0, y0)) / cell))
    room_array = np.zeros((ny + 1) * (nx + 1), np.int32)
    cdef int32_t[::1] room = room_array
    cdef int32_t[:, ::1] cells = np.empty((n, 4), np.int32)  # of each item: first x, first y, last x, last y
    cdef double listed = 0
    for i in range(n):
        cells[i, 0] = max(<int32_t>floor((low[i, 0] - reach - x0) / cell), 0)
        cells[i, 1] = max(<int32_t>floor((low[i, 1] - reach - y0) / cell), 0)
        cells[i, 2] = min(<int32_t>floor((high[i, 0] + reach - x0) / cell), nx - 1)
        cells[i, 3] = min(<int32_t>floor((high[i, 1] + reach - y0) / cell), ny - 1)
        listed += <double>(cells[i, 2] - cells[i, 0] + 1) * (cells[i, 3] - cells[i, 1] + 1)
        if listed > MAX_LISTED:
            raise ValueError(f"{name}: roads are too many and too long to be looked up: {n} segments over {hi - lo} m")
    _count_covers(cells, room, nx, ny)
    # Every cell gets room for all items whose square of cells it is in, fills what it needs of it, and is then moved up.
    start_array = np.zeros(nx * ny + 1, np.int32)
    cdef int32_t[::1] start = start_array, end
    for c in range(nx * ny):
        start[c] = <int32_t>total
        total += room[c // nx * (nx + 1) + c % nx]
    start[nx * ny] = <int32_t>total
    cdef uint16_t[::1] item = np.empty(max(total, 1), np.uint16)
    end_array = start_array.copy()
    end = end_array
    if n:
        _list_items(low, high, cells, x0, y0, cell, reach, max(radius - slack, 0), enough, nx, ny, &end[0], &item[0])
    item_array = np.empty(max(int((end_array - start_array).sum()), 1), np.uint16)
    cdef uint16_t[::1] packed = item_array
    packed[0] = 0
    total = 0
    for c in range(nx * ny):
        i = end[c] - start[c]
        memcpy(&packed[0] + total, &item[0] + start[c], i * sizeof(uint16_t))
        start[c] = <int32_t>total
        total += i
    start[nx * ny] = <int32_t>total
    keep += [start_array, item_array]
    grid.x0, grid.y0, grid.cells_per_metre = x0, y0, 1 / cell
    grid.nx, grid.ny = nx, ny
    grid.start = &start[0]
    grid.item = &packed[0]


cdef void _count_covers(const int32_t[:, ::1] cells, int32_t[::1] room, int32_t nx, int32_t ny) noexcept nogil:
    # How many of the squares of cells each cell is in; room is (ny + 1, nx + 1) zeros.
    cdef Py_ssize_t i, row = nx + 1
    cdef int32_t cx, cy
    for i in range(cells.shape[0]):
        room[cells[i, 1] * row + cells[i, 0]] += 1
        room[cells[i, 1] * row + cells[i, 2] + 1] -= 1
        room[(cells[i, 3] + 1) * row + cells[i, 0]] -= 1
        room[(cells[i, 3] + 1) * row + cells[i, 2] + 1] += 1
    for cy in range(ny + 1):
        for cx in range(nx):
            room[cy * row + cx + 1] += room[cy * row + cx]
    for cy in range(ny):
        for cx in range(nx + 1):
            room[(cy + 1) * row + cx] += room[cy * row + cx]


cdef int _list_items(const float[:, ::1] low, const float[:, ::1] high, const int32_t[:, ::1] cells, double x0, double y0, double cell,
                     double reach, double inner, int32_t enough, int32_t nx, int32_t ny, int32_t *end, uint16_t *item) except -1:
    # Appends to every cell the items within reach of it.  `inner`: within this of all of the cell they are sure to matter.
    cdef int32_t ax, bx, cx, cy, l, r, c
    cdef Py_ssize_t i
    cdef double dy, fy, d
    cdef double[::1] near = np.empty(nx), far = np.empty(nx)  # squared distances along x to the nearest and farthest point of a column
    cdef int32_t[::1] sure_array = np.zeros(nx * ny, np.int32)
    cdef int32_t *sure = &sure_array[0]
    with nogil:
        for i in range(low.shape[0]):
            ax, bx = cells[i, 0], cells[i, 2]
            for cx in range(ax, bx + 1):
                d = max(max(low[i, 0] - (x0 + (cx + 1) * cell), x0 + cx * cell - high[i, 0]), 0)
                near[cx] = d * d
                d = max(high[i, 0] - (x0 + cx * cell), x0 + (cx + 1) * cell - low[i, 0])
                far[cx] = d * d
            for cy in range(cells[i, 1], cells[i, 3] + 1):
                dy = max(max(low[i, 1] - (y0 + (cy + 1) * cell), y0 + cy * cell - high[i, 1]), 0)
                fy = max(high[i, 1] - (y0 + cy * cell), y0 + (cy + 1) * cell - low[i, 1])
                dy, fy, c = dy * dy, fy * fy, cy * nx
                # Distances fall and then rise along the row, so what is within them is a run of cells.
                l, r = ax, bx
                while l <= r and near[l] + dy > reach * reach:
                    l += 1
                while l <= r and near[r] + dy > reach * reach:
                    r -= 1
                if not enough:
                    for cx in range(l, r + 1):
                        item[end[c + cx]] = <uint16_t>i
                        end[c + cx] += 1
                    continue
                for cx in range(l, r + 1):  # there is room for it where it is not to be listed, too
                    item[end[c + cx]] = <uint16_t>i
                    end[c + cx] += sure[c + cx] < enough
                while l <= r and not far[l] + fy < inner * inner:
                    l += 1
                while l <= r and not far[r] + fy < inner * inner:
                    r -= 1
                for cx in range(l, r + 1):
                    sure[c + cx] += 1
    return 0


def halves(const float[::1] values, bint portable):
    """For tests: float32 (a multiple of eight) to float16, as rows are packed; `portable`: as on any processor."""
    global drive_portable
    out = np.empty(len(values), np.uint16)
    cdef uint16_t[::1] view = out
    if len(values) % 8:
        raise ValueError(f"{len(values)} values: expected a multiple of eight")
    drive_portable = portable
    drive_halves(&values[0], <int32_t>len(values), &view[0])
    drive_portable = False
    return out.view(np.float16)


cdef class Scene:
    """An immutable scene, ready for worlds.

    Args:
        name: what messages and statistics call it.
        raw: a `fastvec.drive.scenes.RawScene`.
        config: a `fastvec.drive.DriveConfig`.
        deleted: ids of objects to leave out.

    Raises:
        ValueError: no agent is left to control, or the roads are beyond measure.
    """

    def __init__(self, name, raw, config, deleted=()):
        memset(&self.data, 0, sizeof(self.data))
        self.name, self.scene_name, self.scenario_id = name, raw.name, raw.scenario_id
        self.deleted = frozenset(deleted)
        self._keep = []
        self.data.mean_x, self.data.mean_y = raw.mean.tolist()
        self._add_agents(raw, config, deleted)
        self.map_observation = road_boxes(raw.points, raw.road_starts, raw.road_types, raw.road_ids, raw.road_map_types,
                                          self.data.mean_x, self.data.mean_y, config.polyline_reduction_threshold)
        self.map_observation.flags.writeable = False
        cdef const float[:, ::1] roads = self.map_observation
        self.data.map_observation = &roads[0, 0] if len(self.map_observation) else NULL
        self._add_segments(config)
        self._add_boxes()
        self._add_names()

    @staticmethod
    def of_simulator(name, config, own, absolute, types, controlled, map_observation):
        """A scene for observations only, of what a GPUDrive simulator exports: no logs, nothing to collide with.

        Args:
            name: of the scene.
            config: a `fastvec.drive.DriveConfig`.
            own: float32 (N, 8), self_observation of its N agents.
            absolute: float32 (N, 14), absolute_self_observation.
            types: int (N,), entity types.
            controlled: bool (N,).
            map_observation: float32 (R, 9).
        """
        cdef Scene self = Scene.__new__(Scene)
        cdef drive_scene *scene = &self.data
        cdef int32_t i
        memset(scene, 0, sizeof(self.data))
        self.name, self.scene_name, self.scenario_id, self.deleted, self._keep = name, "", "", frozenset(), []
        scene.num_agents = <int32_t>len(own)
        for i in range(scene.num_agents):
            scene.length[i], scene.width[i], scene.height[i], scene.id[i] = own[i, 1], own[i, 2], own[i, 3], own[i, 7]
            scene.goal_x[i], scene.goal_y[i], scene.type[i] = absolute[i, 8], absolute[i, 9], <uint8_t>types[i]
            self._set_seen(i, config.norm_obs)
            if controlled[i]:
                scene.is_controlled[i] = 1
                scene.controlled[scene.num_controlled] = i
                scene.num_controlled += 1
        self.map_observation = np.array(map_observation, np.float32)
        self.map_observation.flags.writeable = False
        self._add_segments(config)
        return self

    cdef void _set_seen(self, int32_t i, bint normalised):
        cdef drive_scene *scene = &self.data
        scene.seen_length[i], scene.seen_width[i] = scene.length[i] * DRIVE_AGENT_SCALE, scene.width[i] * DRIVE_AGENT_SCALE
        if normalised:
            scene.seen_length[i], scene.seen_width[i] = drive_normal_length(scene.seen_length[i]), drive_normal_width(scene.seen_width[i])

    cdef _add_agents(self, raw, config, deleted):
        cdef drive_scene *scene = &self.data
        cdef int32_t i, t, o
        cdef const float[:, :, ::1] position = raw.position
        cdef const float[:, :, ::1] velocity = raw.velocity
        cdef const float[:, ::1] heading = raw.heading
        cdef const uint8_t[:, ::1] valid = raw.valid
        cdef const int32_t[:, ::1] metadata = raw.metadata
        cdef const float[:, ::1] sizes = raw.sizes, goals = raw.goals
        cdef const int32_t[::1] types = raw.types
        cdef const int64_t[::1] ids = raw.ids
        cdef const uint8_t[::1] experts = raw.experts
        # In these modes remove_non_vehicles says nothing, as recorded.
        cdef bint normalised = config.norm_obs
        cdef bint everything = config.init_mode in ("all_objects", "womd_tracks_to_predict"), vehicles_only = config.remove_non_vehicles
        log_array = np.zeros((min(len(raw.types), DRIVE_AGENTS), DRIVE_STEPS, sizeof(drive_log_point) // sizeof(float)), np.float32)
        self._keep.append(log_array)
        cdef float[:, :, ::1] log_view = log_array
        scene.log = <drive_log_point *>&log_view[0, 0, 0] if log_array.size else NULL
        cdef drive_log_point *point
        for o in range(position.shape[0]):
            if scene.num_agents == DRIVE_AGENTS:
                break
            if types[o] == 0 or deleted and ids[o] in deleted:
                continue
            if not everything and (not valid[o, 0] or (vehicles_only and types[o] != DRIVE_VEHICLE)):
                continue
            i = scene.num_agents
            scene.num_agents += 1
            for t in range(DRIVE_STEPS):
                point = &scene.log[i * DRIVE_STEPS + t]
                point.x, point.y = position[o, t, 0] - scene.mean_x, position[o, t, 1] - scene.mean_y
                point.vx, point.vy = velocity[o, t, 0], velocity[o, t, 1]
                point.yaw, point.heading = through_quaternion(heading[o, t]), heading[o, t]
                point.valid = valid[o, t]
            scene.type[i], scene.id[i] = <uint8_t>types[o], <float>ids[o]
            scene.length[i], scene.width[i], scene.height[i] = sizes[o, 0], sizes[o, 1], sizes[o, 2]
            self._set_seen(i, normalised)
            scene.goal_x[i], scene.goal_y[i] = goals[o, 0] - scene.mean_x, goals[o, 1] - scene.mean_y
            for t in range(4):
                scene.metadata[i][t] = metadata[o, t]
            scene.is_static[i] = self._is_static(config, i)
            if scene.num_controlled < config.max_controlled_agents and self._may_be_driven(config, i, valid[o, 0] and not experts[o]):
                scene.is_controlled[i] = 1
                scene.controlled[scene.num_controlled] = i
                scene.num_controlled += 1
        if scene.num_controlled == 0:
            raise ValueError(f"{self.name}: no agent to control: of {len(raw.types)} objects {scene.num_agents} become agents under "
                             f"init_mode={config.init_mode!r} and remove_non_vehicles={config.remove_non_vehicles}, and all of those "
                             "are static, experts or invalid at step 0; choose another scene or init_mode")

    cdef bint _is_static(self, config, int32_t i):
        cdef drive_scene *scene = &self.data
        cdef float dx = scene.goal_x[i] - scene.log[i * DRIVE_STEPS].x, dy = scene.goal_y[i] - scene.log[i * DRIVE_STEPS].y
        if config.init_mode == "womd_tracks_to_predict" and scene.metadata[i][TRACK]:
            return False
        return config.init_mode in ("all_non_trivial", "womd_tracks_to_predict") and sqrtf(dx * dx + dy * dy) < STATIC_GOAL_DISTANCE

    cdef bint _may_be_driven(self, config, int32_t i, bint is_there):
        # is_there: valid at step 0, and not an expert that replays its log.
        if config.init_mode == "womd_tracks_to_predict":
            return self.data.metadata[i][TRACK] == 1
        return is_there and not self.data.is_static[i]

    cdef _add_segments(self, config):
        cdef const float[:, ::1] boxes = self.map_observation
        cdef Py_ssize_t n = boxes.shape[0], i, k
        cdef bint normalised = config.norm_obs
        room = max((n + 7) // 8 * 8, 8)
        segments = np.zeros((room, DRIVE_ROAD), np.float32)
        eights = np.zeros(room // 8, [("x", np.float32, 8), ("y", np.float32, 8), ("heading", np.float32, 8), ("size", np.uint32, 8), ("rest", np.uint32, 8)])
        eights["x"] = np.nan
        self._keep += [segments, eights]
        cdef drive_scene *scene = &self.data
        scene.segments = <drive_segment *><size_t>segments.ctypes.data
        scene.eights = <drive_eight *><size_t>eights.ctypes.data
        scene.num_segments = <int32_t>n
        cdef float *row
        cdef drive_eight *eight
        for i in range(n):
            row = scene.segments[i].row
            for k in range(3):
                row[2 + k] = drive_normal_road(boxes[i, 2 + k]) if normalised else boxes[i, 2 + k]
            row[6 + <int>boxes[i, 6]] = 1
            eight, k = &scene.eights[i // 8], i % 8
            eight.x[k], eight.y[k], eight.heading[k] = boxes[i, 0], boxes[i, 1], boxes[i, 5]
            eight.size[k] = drive_half(row[2]) | <uint32_t>drive_half(row[3]) << 16
            eight.rest[k] = drive_half(row[4]) | <uint32_t>boxes[i, 6] << 16
        self._list_eights(config)

    cdef _list_eights(self, config):
        # Neighbours in index order are mostly neighbours on the road, so that few eights are looked at for one or two.
        # Where the order decides, 25 of them are all that anybody can see.
        n = len(self.map_observation)
        centres = np.concatenate([self.map_observation[:, :2], np.repeat(self.map_observation[n - 1:, :2], (8 - n % 8) % 8, axis=0)])
        centres = centres.reshape(-1, 8, 2)
        enough = 0 if config.road_obs_algorithm == "k_nearest_roadpoints" else DRIVE_ROADS // 8
        build_grid(&self.data.segments_near, centres.min(axis=1), centres.max(axis=1), config.obs_radius / CELL_OF_RADIUS, config.obs_radius,
                   enough, self._keep, self.name)

    cdef _add_boxes(self):
        kinds = self.map_observation[:, 6]
        rank = np.where(kinds == DRIVE_EDGE, 2, np.where(kinds == DRIVE_STOP_SIGN, 1, 0))
        cdef const float[:, ::1] boxes = np.ascontiguousarray(self.map_observation[np.argsort(rank, kind="stable")])
        cdef Py_ssize_t n = boxes.shape[0], i
        array = np.zeros((max(n, 1), 8), np.float32)
        self._keep.append(array)
        cdef float[:, ::1] view = array
        cdef drive_box *box = <drive_box *>&view[0, 0]
        self.data.boxes = box
        self.data.num_lines, self.data.num_signs = np.count_nonzero(rank == 0), np.count_nonzero(rank == 1)
        self.data.obstacles = box + self.data.num_lines
        self.data.num_obstacles = <int32_t>n - self.data.num_lines
        extent = np.zeros((n, 2), np.float32)
        cdef float[:, ::1] half = extent
        for i in range(n):
            box[i].x, box[i].y, box[i].half_length, box[i].half_width = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3]
            box[i].reach = sqrtf(boxes[i, 2] * boxes[i, 2] + boxes[i, 3] * boxes[i, 3]) * 1.0001
            box[i].type = <int32_t>boxes[i, 6]
            drive_sincos(boxes[i, 5], &box[i].sin, &box[i].cos)
            half[i, 0] = abs(box[i].cos) * box[i].half_length + abs(box[i].sin) * box[i].half_width
            half[i, 1] = abs(box[i].sin) * box[i].half_length + abs(box[i].cos) * box[i].half_width
        cdef float reach = 0
        for i in range(self.data.num_agents):
            reach = max(reach, sqrtf(self.data.length[i] * self.data.length[i] + self.data.width[i] * self.data.width[i]) * 0.5 * DRIVE_AGENT_SCALE)
        centres, extent = np.asarray(boxes)[self.data.num_lines:, :2], extent[self.data.num_lines:]
        build_grid(&self.data.obstacles_near, centres - extent, centres + extent, OBSTACLE_CELL, reach, 0, self._keep, self.name)

    cdef _add_names(self):
        cdef int32_t k, byte
        for k, byte in enumerate(self.scene_name.encode()[:DRIVE_NAME]):
            self.data.map_name[k] = byte
        for k, byte in enumerate(self.scenario_id.encode()[:DRIVE_NAME]):
            self.data.scenario_id[k] = byte
        for k in range(DRIVE_AGENTS):
            self.data.deleted[k] = -1
        for k, deleted in enumerate(sorted(self.deleted)[:DRIVE_AGENTS]):
            self.data.deleted[k] = <int32_t><uint32_t>(deleted & 0xFFFFFFFF)

    @property
    def num_agents(self):
        return self.data.num_agents

    @property
    def num_controlled(self):
        return self.data.num_controlled
