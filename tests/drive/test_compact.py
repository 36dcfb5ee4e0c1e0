"""Files of many packed scenes: the same scenes as before, and nothing worse than an error from broken ones."""
import multiprocessing
import os
import pickle
import struct
import zlib

import numpy as np
import pytest

import fastvec
from fastvec.drive import Drive, SceneError, creator
from fastvec.drive.scenes import SHIPPED, compact, find, name_of, pack, read
from fastvec.drive.scenes.raw import layout
from hostile import with_checksums

ENTRIES = find("shipped")
NAMES = [name_of(entry) for entry in ENTRIES]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A file with the shipped scenes."""
    file = tmp_path_factory.mktemp("packed") / "all.scenes"
    pack(ENTRIES, file)
    return file


def test_entries_are_named_after_files(packed):
    assert find(packed) == [f"{packed}#gen_{name}_s0" for name in ("grid", "highway", "junction", "parking", "roundabout", "two_lane")]
    assert find(f"{packed}#gen_parking_s0") == [f"{packed}#gen_parking_s0"]
    assert find([packed.parent, SHIPPED / "gen_grid_s0.json.gz"]) == [*find(packed), ENTRIES[0]]


@pytest.mark.parametrize("k", range(len(ENTRIES)), ids=NAMES)
def test_scenes_are_the_same(packed, k):
    before, after = read(ENTRIES[k]), read(find(packed)[k])
    for name in before.__dataclass_fields__:
        a, b = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(a, b, strict=isinstance(a, np.ndarray))


def test_arrays_are_views_that_cannot_be_written(packed):
    raw = read(find(packed)[0])
    assert not raw.points.flags.owndata and not raw.points.flags.writeable
    assert raw.points.ctypes.data % 64 == raw.position.ctypes.data % 64 == 0


def test_packing_again_gives_the_same_bytes(packed, tmp_path):
    pack(find(packed), tmp_path / "again.scenes")
    assert (tmp_path / "again.scenes").read_bytes() == packed.read_bytes()


def test_worlds_are_the_same(packed):
    """Through workers, which read the file each for itself."""
    config = dict(worlds=3, seed=5, resample_every=1)
    observations = []
    for scenes in (ENTRIES, packed):
        make = pickle.loads(pickle.dumps(creator(scenes, **config)))
        with fastvec.make(make, 2, seed=0) as vec:
            vec.reset()
            for _ in range(100):
                vec.step(np.zeros_like(vec.actions))
            observations.append(vec.observations.copy())
    np.testing.assert_array_equal(*observations)


def test_statistics_name_the_entry(packed):
    with fastvec.make(lambda: Drive(f"{packed}#gen_two_lane_s0", 1), 0) as vec:
        vec.reset()
        infos = [vec.step(np.zeros_like(vec.actions))[-1] for _ in range(91)]
    episodes = [e for info in infos for env in info.values() for e in env["episodes"]]
    assert {e["scene"] for e in episodes} == {f"{packed}#gen_two_lane_s0"}


def test_replaced_file_is_read_again(tmp_path):
    file = tmp_path / "a.scenes"
    pack(ENTRIES[:1], file)
    first = read(find(file)[0])
    pack(ENTRIES[1:3], file)
    assert [name_of(entry) for entry in find(file)] == NAMES[1:3]
    with pytest.raises(SceneError, match="holds no scene 'gen_grid_s0', but 2 others"):
        read(f"{file}#gen_grid_s0")
    np.testing.assert_array_equal(first.points, read(ENTRIES[0]).points)  # the old mapping lives as long as its views


def test_nothing_is_left_of_a_failure(tmp_path):
    file, broken = tmp_path / "a.scenes", tmp_path / "broken.json"
    pack(ENTRIES[:1], file)
    before = file.read_bytes()
    broken.write_text("{}")
    with pytest.raises(SceneError, match="broken.json"):
        pack([ENTRIES[1], str(broken)], file)
    assert file.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["a.scenes", "broken.json"]


@pytest.mark.parametrize("entries, name, said", [
    ([], "a.scenes", "no scene to pack"),
    ([ENTRIES[0], ENTRIES[0]], "a.scenes", "two scenes have the name 'gen_grid_s0'"),
    (ENTRIES[:1], "a.json", "give a name that ends in .scenes"),
])
def test_what_cannot_be_packed(tmp_path, entries, name, said):
    with pytest.raises(ValueError, match=said):
        pack(entries, tmp_path / name)
    assert not list(tmp_path.iterdir())


# ---- broken files ----------------------------------------------------------------------------------------------------


def damaged(packed, tmp_path, change):
    data = bytearray(packed.read_bytes())
    changed = change(data)
    data = data if changed is None else changed
    file = tmp_path / "broken.scenes"
    file.write_bytes(data)
    return file


def header_field(place, value):
    def change(data):
        fields = list(compact._HEADER.unpack_from(data))
        fields[place] = value
        head = compact._HEADER.pack(*fields[:-1], 0)[:-4]
        data[:compact._HEADER.size] = head + struct.pack("=I", zlib.crc32(head))
    return change


@pytest.mark.parametrize("change, said", [
    (lambda data: bytearray(b""), "is cut short: 0 bytes"),
    (lambda data: data[:40], "is cut short: 40 bytes"),
    (lambda data: data[:-1], r"is cut short: \d+ of \d+ bytes"),
    (lambda data: data + b"\0", r"is broken: \d+ bytes instead of \d+"),
    (lambda data: data.__setitem__(0, 0), "is no file of packed scenes"),
    (header_field(1, 7), "has version 7, but this fastvec reads version 1"),
    (header_field(2, 0x04030201), "other byte order"),
    (header_field(3, 0), "the index is not in the file"),
    (header_field(3, 2**31), "the index is not in the file"),
    (header_field(4, 2**63), "the index is not in the file"),
    (header_field(4, 64), "wrong checksum of the index"),
    (lambda data: data.__setitem__(slice(16, 20), b"\7\0\0\0"), "wrong checksum of the header"),
    (lambda data: data.__setitem__(-1, data[-1] ^ 1), "wrong checksum of the index"),
])
def test_broken_file(packed, tmp_path, change, said):
    with pytest.raises(SceneError, match=said) as error:
        find(damaged(packed, tmp_path, change))
    assert str(error.value).startswith(str(tmp_path / "broken.scenes"))


def index_field(field, value):
    def change(data):
        _, _, _, count, offset, _, _, _ = compact._HEADER.unpack_from(data)
        index = np.frombuffer(data, compact._INDEX, count, offset).copy()
        index[field][0] = value
        data[offset:offset + index.nbytes] = index.tobytes()
        with_checksums(data)
    return change


@pytest.mark.parametrize("field, value", [("offset", 2**63), ("offset", 0), ("offset", 65), ("nbytes", 2**63), ("nbytes", 0), ("nbytes", 10**9)])
def test_index_that_points_elsewhere(packed, tmp_path, field, value):
    with pytest.raises(SceneError, match="the index names bytes that are not in the file"):
        find(damaged(packed, tmp_path, index_field(field, value)))


@pytest.mark.parametrize("value", [0, 5, 2**40])
def test_index_with_strange_names(packed, tmp_path, value):
    def change(data):
        index_field("name_end", value)(data)
    try:
        names = [name_of(entry) for entry in find(damaged(packed, tmp_path, change))]
    except SceneError as error:
        assert "the index has no proper names" in str(error)
    else:
        assert len(set(names)) == 6  # cut elsewhere


def test_flipped_bit_in_a_scene(packed, tmp_path):
    offset = int(compact.open_pack(packed)._index["offset"][2])
    file = damaged(packed, tmp_path, lambda data: data.__setitem__(offset + 5000, data[offset + 5000] ^ 4))
    entries = find(file)
    read(entries[1])
    with pytest.raises(SceneError, match="broken.scenes#gen_junction_s0: is broken: wrong checksum"):
        Drive(file, 6)


@pytest.mark.parametrize("field, index, value, said", [
    ("position", (0, 0, 0), np.nan, "position holds NaN"),
    ("points", (3, 1), np.inf, "points holds NaN, or a number beyond 1e"),
    ("heading", (1, 1), 1e30, "heading holds"),
    ("mean", (0,), np.nan, "mean holds"),
    ("sizes", (2, 0), 0.0, "sizes holds"),
    ("sizes", (2, 2), np.nan, "sizes holds"),
    ("types", (1,), 77, "types holds an unknown one"),
    ("types", (1,), -1, "types holds an unknown one"),
    ("road_types", (1,), 7, "road_types holds an unknown one"),
    ("road_types", (1,), -7, "road_types holds an unknown one"),
    ("valid", (1, 2), 2, "something else than 0 and 1"),
    ("experts", (1,), 9, "something else than 0 and 1"),
    ("road_starts", (0,), 1, "does not divide the points"),
    ("road_starts", (3,), -5, "does not divide the points"),
    ("road_starts", (3,), 2**62, "does not divide the points"),
    ("road_starts", (-1,), 3, "does not divide the points"),
])
def test_hostile_values_with_right_checksums(packed, tmp_path, field, index, value, said):
    def change(data):
        begin = int(compact.open_pack(packed)._index["offset"][2])
        numbers = compact._HEAD.unpack_from(data, begin)
        at = begin + compact._HEAD.size
        for name, (dtype, shape) in layout(*numbers[:3]).items():
            at += -(at - begin) % 64
            array = np.ndarray(shape, dtype, data, at)
            if name == field:
                array[index] = value
            at += array.nbytes
        del array
        with_checksums(data)
    with pytest.raises(SceneError, match=said) as error:
        read(find(damaged(packed, tmp_path, change))[2])
    assert "broken.scenes#gen_junction_s0" in str(error.value)


@pytest.mark.parametrize("k, value", [(0, 0), (0, 5), (0, 2**63), (1, 957), (2, 2**60), (3, 2**63), (4, 1)])
def test_hostile_numbers_with_right_checksums(packed, tmp_path, k, value):
    def change(data):
        begin = int(compact.open_pack(packed)._index["offset"][2])
        numbers = list(compact._HEAD.unpack_from(data, begin))
        numbers[k] = value
        data[begin:begin + compact._HEAD.size] = compact._HEAD.pack(*numbers)
        with_checksums(data)
    with pytest.raises(SceneError, match="numbers of objects, roads and points are wrong"):
        read(find(damaged(packed, tmp_path, change))[2])


def test_deleted_file(packed, tmp_path):
    entry = find(damaged(packed, tmp_path, lambda data: None))[0]
    os.unlink(tmp_path / "broken.scenes")
    with pytest.raises(SceneError, match="broken.scenes: cannot be read"):
        Drive(entry, 1)


def _mapped(file, queue):
    read(find(file)[0])
    with open("/proc/self/smaps") as smaps:
        queue.put(any(str(file) in line and " r--s " in line for line in smaps))


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="needs Linux")
def test_processes_map_the_file_shared(packed):
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_mapped, args=(packed, queue))
    process.start()
    assert queue.get() is True
    process.join()
