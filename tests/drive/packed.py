"""Recordings of the real GPUDrive on our own scenes, packed to a tenth of their size without losing a bit.

    python packed.py FOLDER     packs the recordings FOLDER/*.npz (see the README beside them) into golden/*.xz

What follows from something else in a recording is left out, or stored as the distance from what follows, in units of the
last place: an observed road or partner is an index and three such distances.  Only sums, products and quotients are used
for it, which give the same bits on every machine; `crc` tells whether they did.  One file holds all recordings of a
scene, so that what they share is found by the compressor.

Left out altogether: configuration I, which is no reference, and of PufferGPUDrive's 201 observations all but
PUFFER_ROWS (`observation_rows` says which are there).
"""
import functools
import io
import json
import lzma
import sys
from pathlib import Path
from zlib import crc32

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("A", "B", "C", "D", "E", "F", "G", "H", "J", "K", "L", "M", "puffer")
PUFFER_ROWS = [*range(0, 22), 30, 45, 60, 75, *range(89, 94), 120, 150, *range(180, 185), 200]
ALONG_TIME = ("absolute_self_observation", "self_observation", "reward", "weighted_reward", "done", "info", "steps_remaining",
              "action", "action_index", "rewards", "terminals", "masks", "actions")
X, Y, W, Z, YAW = 0, 1, 3, 6, 7  # columns of absolute_self_observation


# ---- what follows from what ------------------------------------------------------------------------------------------


def in_frame(observer, x, y):
    """Positions in the frame of `observer`, rows of absolute_self_observation: float32, nearly GPUDrive's own."""
    o = observer.astype(np.float64)
    cos, sin = o[..., W] ** 2 - o[..., Z] ** 2, 2 * o[..., W] * o[..., Z]
    dx, dy = x - o[..., X], y - o[..., Y]
    return (dx * cos + dy * sin).astype(np.float32), (dy * cos - dx * sin).astype(np.float32)


def turned(observer, heading):
    turn = heading.astype(np.float64) - observer[..., YAW]
    turn = np.where(turn > np.pi, turn - 2 * np.pi, turn)
    return np.where(turn < -np.pi, turn + 2 * np.pi, turn).astype(np.float32)


def expected_goals(a):
    o = a["absolute_self_observation"]
    return np.stack(in_frame(o, o[..., 8], o[..., 9]), axis=-1)


def observers(a):
    """Rows of absolute_self_observation, (N, K, 1, 14), that belong to the rows of the big arrays."""
    return a["absolute_self_observation"][a["big_rows"]].swapaxes(0, 1)[:, :, None]


def expected_roads(a, index):
    """What observers see of the segments `index`, (N, K, 200): float32 (N, K, 200, 9)."""
    seen = a["map_observation"][index]
    seen[..., 0], seen[..., 1] = in_frame(observers(a), seen[..., 0], seen[..., 1])
    seen[..., 5] = turned(observers(a), seen[..., 5])
    nearest = json.loads(str(a["params"]))["road_obs_algorithm"] == "k_nearest_roadpoints"
    seen[index < 0] = [0, 0, 0, 0, 0, 0, 0, *([0, 0] if nearest else [-1, -1])]
    return seen


def expected_partners(a, slot):
    """What observers see of the agents in slots `slot`, (N, K, 63): float32 (N, K, 63, 9)."""
    k = np.arange(len(a["big_rows"]))[None, :, None]
    them, pose, info = (a[name][a["big_rows"]][k, slot] for name in ("self_observation", "absolute_self_observation", "info"))
    x, y = in_frame(observers(a), pose[..., X], pose[..., Y])
    seen = np.stack([them[..., 0], x, y, turned(observers(a), pose[..., YAW]), *np.moveaxis(them[..., 1:4], -1, 0), info[..., 4],
                     them[..., 7]], axis=-1).astype(np.float32)
    seen[slot < 0] = [0, 0, 0, 0, 0, 0, 0, 0, -1]
    return seen


def normalised(a):
    """packed_obs from the raw arrays: float32 (C, K, 2984), by GPUDrive's formulas."""
    controlled = np.flatnonzero(a["controlled_state"])
    me = a["self_observation"][a["packed_rows"]].swapaxes(0, 1)[controlled]
    partner, road = a["partner_observations"][controlled], a["agent_roadmap"][controlled]
    place = lambda v: 2 * ((v + 1000) / 2000) - 1
    length, width = (lambda v: v * np.float32(0.7) / 30), (lambda v: v * np.float32(0.7) / 15)
    turn = lambda v: v / np.float32(2 * np.pi)
    ego = [me[..., 0] / 100, length(me[..., 1]), width(me[..., 2]), place(me[..., 4]), place(me[..., 5]), me[..., 6]]
    p = [partner[..., 0] / 100, place(partner[..., 1]), place(partner[..., 2]), turn(partner[..., 3]), length(partner[..., 4]),
         width(partner[..., 5])]
    r = [place(road[..., 0]), place(road[..., 1]), *(road[..., c] / 100 for c in (2, 3, 4)), turn(road[..., 5]),
         *(road[..., 6] == kind for kind in range(7))]
    rows = [np.stack(part, axis=-1).astype(np.float32).reshape(*me.shape[:2], -1) for part in (ego, p, r)]
    return np.concatenate(rows, axis=-1)


# ---- numbers as bytes that compress ----------------------------------------------------------------------------------


def ordered(floats):
    """The bits of float32, as integers that grow as the floats do; its own inverse in bits."""
    bits = floats.view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def planes(integers):
    """int32 as four planes of bytes, small magnitudes with empty upper ones."""
    zigzag = ((integers << 1) ^ (integers >> 31)).view(np.uint32)
    return np.stack([(zigzag >> shift).astype(np.uint8) for shift in (24, 16, 8, 0)])


def from_planes(bytes_):
    zigzag = functools.reduce(lambda high, low: high << np.uint32(8) | low, bytes_.astype(np.uint32))
    return (zigzag >> np.uint32(1)).view(np.int32) ^ -(zigzag & np.uint32(1)).view(np.int32)


def distance(array, expected):
    return planes(ordered(np.ascontiguousarray(array)) - ordered(np.ascontiguousarray(expected)))


def at_distance(expected, bytes_):
    bits = ordered(np.ascontiguousarray(expected)) + from_planes(bytes_)
    return ordered(bits.view(np.float32)).view(np.float32)


def changes(array, axis):
    """From each entry along `axis` to the next; the axis comes last, so that what stands still is one run."""
    numbers = ordered(np.ascontiguousarray(array)) if array.dtype == np.float32 else array.astype(np.int32)
    return planes(np.diff(np.moveaxis(numbers, axis, -1), axis=-1, prepend=np.int32(0)))


def from_changes(bytes_, axis, dtype):
    numbers = np.ascontiguousarray(np.moveaxis(np.cumsum(from_planes(bytes_), axis=-1, dtype=np.int32), -1, axis))
    return ordered(numbers.view(np.float32)).view(np.float32) if dtype == np.float32 else numbers.astype(dtype)


# ---- one recording ---------------------------------------------------------------------------------------------------


def time_axis(name):
    """Along which an array changes little, or None."""
    return 0 if name in ALONG_TIME else 1 if name == "observations" else None


def segments_seen(a):
    """Which segment each row of agent_roadmap is, (N, K, 200) int32, -1 where none."""
    same = [2, 3, 4, 6, 7, 8]
    by_content = {}
    for index, row in enumerate(a["map_observation"]):
        by_content.setdefault(row[same].tobytes(), []).append(index)
    seen, o = a["agent_roadmap"], np.broadcast_to(observers(a), (*a["agent_roadmap"].shape[:3], 14))
    found = np.full(seen.shape[:3], -1, np.int32)
    for at in zip(*np.nonzero(seen[..., 6])):
        candidates = np.array(by_content[seen[at][same].tobytes()])
        x, y = in_frame(o[at], *a["map_observation"][candidates, :2].T)
        found[at] = candidates[np.hypot(x - seen[at][0], y - seen[at][1]).argmin()]
    return found


def slots_seen(a):
    """Which agent each row of partner_observations is, (N, K, 63) int32, -1 where none."""
    slot_of = {ident: slot for slot, ident in enumerate(a["self_observation"][0, :, 7])}
    return np.vectorize(lambda ident: slot_of.get(ident, -1), otypes=[np.int32])(a["partner_observations"][..., 8])


def pack(recording):
    """One recording, dict of arrays, as a dict of arrays that compress; the names say how each is stored."""
    a, packed = dict(recording), {}
    packed["crc"] = np.array(json.dumps({name: crc32(np.ascontiguousarray(v).tobytes()) for name, v in a.items()}))
    if "packed_obs" in a:
        del a["packed_obs"]
        goals = a["self_observation"][..., 4:6].copy()
        packed["goals:distance"] = distance(goals, expected_goals(a))
        for name, seen, expected in (("agent_roadmap", segments_seen, expected_roads),
                                     ("partner_observations", slots_seen, expected_partners)):
            index = seen(a)
            packed[f"{name}:index"] = changes(index, 2)
            packed[f"{name}:distance"] = np.moveaxis(distance(a.pop(name), expected(a, index)), -1, 1)
        a["self_observation"] = a["self_observation"].copy()
        a["self_observation"][..., 4:6] = 0
    for name, array in a.items():
        if (axis := time_axis(name)) is not None:
            packed[f"{name}:changes:{array.dtype}"] = changes(array, axis)
        elif array.dtype == np.float32:
            packed[f"{name}:distance"] = distance(array, np.zeros_like(array))
        else:
            packed[name] = array
    return packed


def unpack(packed):
    """The inverse of `pack`."""
    a = {}
    for key, array in packed.items():
        name, *how = key.split(":")
        if how[:1] == ["changes"]:
            a[name] = from_changes(array, time_axis(name), np.dtype(how[1]))
        elif how == ["distance"] and f"{name}:index" not in packed and name != "goals":
            a[name] = at_distance(np.zeros(array.shape[1:], np.float32), array)
        elif not how:
            a[name] = array.copy()  # the file stays in memory
    if "goals:distance" in packed:
        a["self_observation"][..., 4:6] = at_distance(expected_goals(a), packed["goals:distance"])
        for name, expected in (("agent_roadmap", expected_roads), ("partner_observations", expected_partners)):
            index = from_changes(packed[f"{name}:index"], 2, np.int32)
            a[name] = at_distance(expected(a, index), np.moveaxis(packed[f"{name}:distance"], 1, -1))
        a["packed_obs"] = normalised(a)
    return a


# ---- files -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # tests go through one scene's recordings after another
def _content(file):
    with np.load(io.BytesIO(lzma.decompress(Path(file).read_bytes()))) as arrays:
        return dict(arrays)


def kinds(file):
    """Which recordings a packed file holds."""
    return [kind for kind in KINDS if f"{kind}/crc" in _content(file)]


def load(file, kind):
    """One recording of a packed file, dict of arrays; `crc` is JSON, {array: CRC-32 of its bytes as recorded}."""
    return unpack({key.removeprefix(f"{kind}/"): array for key, array in _content(file).items() if key.startswith(f"{kind}/")})


def thinned(recording):
    """A PufferGPUDrive recording with fewer observations."""
    if "observations" not in recording:
        return recording
    rows = np.array(PUFFER_ROWS)
    return dict(recording, observations=np.ascontiguousarray(recording["observations"][:, rows]), observation_rows=rows)


def main(folder):
    files = sorted(folder.glob("*.npz"))
    for scene in sorted({file.stem.split("__")[0] for file in files}):
        named = {kind: folder / f"{scene}__{kind}.npz" for kind in KINDS}
        recordings = {kind: thinned(dict(np.load(file))) for kind, file in named.items() if file.exists()}
        out = io.BytesIO()
        np.savez(out, **{f"{kind}/{key}": array for kind, a in recordings.items() for key, array in pack(a).items()})
        filters = [dict(id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, lc=0, lp=0, pb=0, dict_size=1 << 27)]
        target = GOLDEN / f"{scene}.xz"
        target.write_bytes(lzma.compress(out.getvalue(), filters=filters))
        for kind, recording in recordings.items():
            back = load(target, kind)
            for name, array in recording.items():
                assert back[name].tobytes() == array.tobytes() and back[name].dtype == array.dtype, (scene, kind, name)
        print(f"{target.name}: {len(recordings)} recordings, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
