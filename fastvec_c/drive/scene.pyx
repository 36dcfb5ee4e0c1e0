"""The immutable scene: which agents there are and who drives them, road segments, and where to look for which."""
import numpy as np

from libc.math cimport atan2, floor, sqrtf
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from fastvec_c.drive.layout cimport *

cdef extern from "drive/angle.h" nogil:
    void drive_sincos(float angle, float *sine, float *cosine)

cdef extern from "drive/observe.h" nogil:
    float drive_normal_length(float v)
    float drive_normal_width(float v)
    float drive_normal_road(float v)

CELL_OF_RADIUS = 8     # cells per observation radius: smaller ones list fewer segments in vain, but are more
OBSTACLE_CELL = 4.0    # metres
MAX_CELLS = 250_000    # of one grid: a scene larger than usual gets larger cells
MAX_LISTED = 100_000_000  # entries of one grid: 200 MB; usual ones have some hundred thousand

TRACK = 2              # column of the metadata: is to be predicted

# GPUDrive's rules of making a scene, as far as they are not in the configuration.
STATIC_GOAL_DISTANCE = 0.2
SHORTEST_THINNED = 11
FLAT = 0.1             # half width and half height of a segment
STOP_SIGN_HALF, STOP_SIGN_HALF_HEIGHT = 0.2, 1.0


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
    """Indices of the points of a polyline that stay.

    For consecutive kept points a, b, c the middle one goes when their triangle is smaller than `threshold` (m^2); the
    next triangle begins at c after that, at b otherwise; passes repeat until one drops nothing (Visvalingam's idea).
    """
    cdef Py_ssize_t n = points.shape[0], k, kept, next_kept
    index_array = np.arange(n, dtype=np.intp)
    if n < SHORTEST_THINNED:
        return index_array
    cdef Py_ssize_t[::1] index = index_array
    cdef Py_ssize_t a, b, c
    kept = n
    while True:
        # Compacts in place: what is kept goes to the front, in order.
        k = 0
        next_kept = 0
        while k + 2 < kept:
            a, b, c = index[k], index[k + 1], index[k + 2]
            index[next_kept] = a
            next_kept += 1
            if 0.5 * abs((points[a, 0] - points[c, 0]) * (points[b, 1] - points[a, 1])
                         - (points[a, 0] - points[b, 0]) * (points[c, 1] - points[a, 1])) < threshold:
                k += 2
            else:
                k += 1
        while k < kept:
            index[next_kept] = index[k]
            next_kept += 1
            k += 1
        if next_kept == kept:
            return index_array[:kept]
        kept = next_kept


def road_boxes(points, starts, types, ids, map_types, float mean_x, float mean_y, float threshold):
    """Road segments as GPUDrive's `map_observation`: float32 (R, 9), at most 10,000 of them.

    Columns: x, y, half length, half width, half height, heading, type, road id, map type.
    """
    parts, count = [], 0
    mean = np.array([mean_x, mean_y], np.float32)
    for r, kind in enumerate(types):
        if kind == 0 or count >= DRIVE_SEGMENTS:
            continue
        p = points[starts[r]:starts[r + 1]]
        if kind in (DRIVE_EDGE, DRIVE_LINE, DRIVE_LANE):
            p = p[np.asarray(thin(p, threshold))]
            a, b = p[:len(p) - 1] - mean, p[1:] - mean
            d = b - a
            box = np.empty((len(d), 9), np.float32)
            box[:, :2] = (a + b) / np.float32(2)
            box[:, 2] = np.sqrt(d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) / np.float32(2)
            box[:, 3:5] = FLAT
            box[:, 5] = [atan2(y, x) for x, y in d.tolist()]
        elif kind in (DRIVE_CROSSWALK, DRIVE_BUMP):
            p = p[:4] - mean
            sides = np.roll(p, -1, axis=0) - p
            lengths = np.sqrt(sides[:, 0] * sides[:, 0] + sides[:, 1] * sides[:, 1])
            x, y = sides[lengths.argmax()].tolist()
            box = np.array([[*p.mean(axis=0, dtype=np.float32), lengths.max() / 2, lengths.min() / 2, FLAT, atan2(y, x), 0, 0, 0]], np.float32)
        else:
            box = np.array([[*(p[0] - mean), STOP_SIGN_HALF, STOP_SIGN_HALF, STOP_SIGN_HALF_HEIGHT, 0, 0, 0, 0]], np.float32)
        box[:, 6:] = kind, ids[r], map_types[r]
        parts.append(box)
        count += len(box)
    boxes = np.concatenate(parts)[:DRIVE_SEGMENTS] if parts else np.zeros((0, 9), np.float32)
    cdef float[:, ::1] view = boxes
    cdef Py_ssize_t i
    for i in range(view.shape[0]):
        view[i, 5] = through_quaternion(view[i, 5])
    return boxes


cdef build_grid(drive_grid *grid, const float[:, ::1] low, const float[:, ::1] high, double cell, double radius, int32_t enough, list keep, name):
    # Lists, per cell, the items whose bounding rectangle low..high is within `radius` of the cell.  Once a cell has
    # `enough` items that are within the radius of all of it, later ones cannot matter; 0: never enough.
    cdef Py_ssize_t n = low.shape[0], i, total
    cdef int32_t nx, ny, cx, cy, ax, ay, bx, by, c, run
    cdef double x0, y0, slack, dx, dy, fx, fy, reach
    cdef int32_t[::1] start, sure
    cdef uint16_t[::1] item
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
        listed = np.prod((np.asarray(high, float) - low + 2 * reach) / cell + 1, axis=1).sum()
        if listed > MAX_LISTED:
            raise ValueError(f"{name}: roads are too many and too long to be looked up: {n} segments over {hi - lo} m")
    start_array = np.zeros(nx * ny + 1, np.int32)
    start = start_array
    sure_array = np.zeros(nx * ny, np.int32)
    sure = sure_array
    cdef int32_t fill_pass
    item_array = np.zeros(1, np.uint16)
    item = item_array
    for fill_pass in range(2):
        if fill_pass:
            total = 0
            for c in range(nx * ny):
                run = start[c]
                start[c] = total
                total += run
            start[nx * ny] = total
            item_array = np.zeros(max(total, 1), np.uint16)
            item = item_array
            sure_array[:] = 0
        for i in range(n):
            ax = max(<int32_t>floor((low[i, 0] - reach - x0) / cell), 0)
            ay = max(<int32_t>floor((low[i, 1] - reach - y0) / cell), 0)
            bx = min(<int32_t>floor((high[i, 0] + reach - x0) / cell), nx - 1)
            by = min(<int32_t>floor((high[i, 1] + reach - y0) / cell), ny - 1)
            for cy in range(ay, by + 1):
                dy = max(max(low[i, 1] - (y0 + (cy + 1) * cell), y0 + cy * cell - high[i, 1]), 0)
                fy = max(high[i, 1] - (y0 + cy * cell), y0 + (cy + 1) * cell - low[i, 1])
                for cx in range(ax, bx + 1):
                    c = cy * nx + cx
                    dx = max(max(low[i, 0] - (x0 + (cx + 1) * cell), x0 + cx * cell - high[i, 0]), 0)
                    if dx * dx + dy * dy > reach * reach or (enough and sure[c] >= enough):
                        continue
                    fx = max(high[i, 0] - (x0 + cx * cell), x0 + (cx + 1) * cell - low[i, 0])
                    if fx * fx + fy * fy < (radius - slack) * (radius - slack) and radius > slack:
                        sure[c] += 1
                    if fill_pass:
                        item[start[c]] = <uint16_t>i
                    start[c] += 1
    # The filling moved every start to the end of its cell, which is where the next one begins.
    for c in range(nx * ny, 0, -1):
        start[c] = start[c - 1]
    start[0] = 0
    keep += [start_array, item_array]
    grid.x0, grid.y0, grid.cells_per_metre = x0, y0, 1 / cell
    grid.nx, grid.ny = nx, ny
    grid.start = &start[0]
    grid.item = &item[0]


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
        mean = mean_position(raw.position, raw.valid, raw.points)
        self.data.mean_x, self.data.mean_y = mean
        self._add_agents(raw, config, deleted)
        self.map_observation = road_boxes(raw.points, raw.road_starts, raw.road_types, raw.road_ids, raw.road_map_types,
                                          self.data.mean_x, self.data.mean_y, config.polyline_reduction_threshold)
        self.map_observation.flags.writeable = False
        cdef const float[:, ::1] roads = self.map_observation
        self.data.map_observation = &roads[0, 0] if len(self.map_observation) else NULL
        self._add_segments(config.obs_radius, 0 if config.road_obs_algorithm == "k_nearest_roadpoints" else DRIVE_ROADS)
        self._add_boxes()
        self._add_names()

    cdef _add_agents(self, raw, config, deleted):
        cdef drive_scene *scene = &self.data
        cdef int32_t i, t, o
        cdef const float[:, :, ::1] position = raw.position
        cdef const float[:, :, ::1] velocity = raw.velocity
        cdef const float[:, ::1] heading = raw.heading
        cdef const uint8_t[:, ::1] valid = raw.valid
        cdef const int32_t[:, ::1] metadata = raw.metadata
        # In these modes remove_non_vehicles says nothing, as recorded.
        everything = config.init_mode in ("all_objects", "womd_tracks_to_predict")
        log_array = np.zeros((min(len(raw.types), DRIVE_AGENTS), DRIVE_STEPS, sizeof(drive_log_point) // sizeof(float)), np.float32)
        self._keep.append(log_array)
        cdef float[:, :, ::1] log_view = log_array
        scene.log = <drive_log_point *>&log_view[0, 0, 0] if log_array.size else NULL
        cdef drive_log_point *point
        for o in raw.order:
            if scene.num_agents == DRIVE_AGENTS:
                break
            if raw.types[o] == 0 or raw.ids[o] in deleted:
                continue
            if not everything and (not valid[o, 0] or (config.remove_non_vehicles and raw.types[o] != DRIVE_VEHICLE)):
                continue
            i = scene.num_agents
            scene.num_agents += 1
            for t in range(DRIVE_STEPS):
                point = &scene.log[i * DRIVE_STEPS + t]
                point.x, point.y = position[o, t, 0] - scene.mean_x, position[o, t, 1] - scene.mean_y
                point.vx, point.vy = velocity[o, t, 0], velocity[o, t, 1]
                point.yaw, point.heading = through_quaternion(heading[o, t]), heading[o, t]
                point.valid = valid[o, t]
            scene.type[i], scene.id[i] = raw.types[o], raw.ids[o]
            scene.length[i], scene.width[i], scene.height[i] = raw.sizes[o]
            scene.seen_length[i] = drive_normal_length(scene.length[i])
            scene.seen_width[i] = drive_normal_width(scene.width[i])
            scene.goal_x[i], scene.goal_y[i] = raw.goals[o, 0] - scene.mean_x, raw.goals[o, 1] - scene.mean_y
            gx, gy = scene.goal_x[i] - scene.log[i * DRIVE_STEPS].x, scene.goal_y[i] - scene.log[i * DRIVE_STEPS].y
            for t in range(4):
                scene.metadata[i][t] = metadata[o, t]
            scene.is_static[i] = self._is_static(config, i)
            if scene.num_controlled < config.max_controlled_agents and self._may_be_driven(config, i, valid[o, 0] and not raw.experts[o]):
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

    cdef _add_segments(self, double radius, int32_t enough):
        cdef const float[:, ::1] boxes = self.map_observation
        cdef Py_ssize_t n = boxes.shape[0], i, k
        array = np.zeros((max(n, 1), 16), np.float32)
        self._keep.append(array)
        cdef float[:, ::1] view = array
        cdef drive_segment *segment = <drive_segment *>&view[0, 0]
        self.data.segments = segment
        self.data.num_segments = <int32_t>n
        for i in range(n):
            for k in range(3):
                segment[i].row[2 + k] = drive_normal_road(boxes[i, 2 + k])
            segment[i].row[6 + <int>boxes[i, 6]] = 1
            segment[i].x, segment[i].y, segment[i].heading = boxes[i, 0], boxes[i, 1], boxes[i, 5]
        centres = np.ascontiguousarray(self.map_observation[:, :2])
        build_grid(&self.data.segments_near, centres, centres, radius / CELL_OF_RADIUS, radius, enough, self._keep, self.name)

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
