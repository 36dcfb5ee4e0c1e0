"""Many scenes in one file that is mapped into memory: read in a millisecond each, in memory once for all processes.

The file, in the byte order of the machine that wrote it:

    header   magic "fvscenes", version, a mark that tells the byte order, number of scenes, offset of the index, size of the
             file, checksums (CRC-32) of the index and of the header itself
    scenes   one block each: a head with the numbers of objects, roads and points and the lengths of two texts; the arrays of
             `RawScene` in the order of `layout`, each at a multiple of 64 bytes; the texts in UTF-8.  Where an array is follows
             from the numbers.
    index    of each scene: offset, size and checksum of its block, end of its name; then the names in UTF-8

A file is written beside its place and then renamed, so a reader never sees half of one, and who has mapped an old one
keeps it.
"""
from __future__ import annotations

import functools
import mmap
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from fastvec.drive.scenes.raw import MOST_OBJECTS, MOST_ROADS, RawScene, SceneError, flaw, layout

SUFFIX = ".scenes"
VERSION = 1

_MAGIC = b"fvscenes"
_BYTE_ORDER = 0x01020304
_HEADER = struct.Struct("=8sIIQQQII")  # magic, version, byte order, scenes, offset of the index, size, two checksums
_HEAD = struct.Struct("=QQQQQ")  # of a block: objects, roads, points, bytes of the name, of the scenario's id
_INDEX = np.dtype([("offset", np.uint64), ("nbytes", np.uint64), ("name_end", np.uint64), ("checksum", np.uint32), ("unused", np.uint32)])
_ALIGNED = 64


def is_entry(path):
    """Does the path name a scene within a file?"""
    return SUFFIX + "#" in str(path)


def entry(file, name):
    """The name of a scene within a file."""
    return f"{file}#{name}"


def split(entry):
    """(file, name of the scene in it)."""
    file, _, name = str(entry).partition(SUFFIX + "#")
    return file + SUFFIX, name


# ---- reading ---------------------------------------------------------------------------------------------------------


def open_pack(file):
    """The `Pack` in a .scenes file; mapped once in a process, as long as the file is the same.  Raises `SceneError`."""
    try:
        status = os.stat(file)
        return _open(os.fspath(file), (status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        raise SceneError(f"{file}: cannot be read: {error}") from error


@functools.lru_cache(maxsize=16)
def _open(file, stamp):
    return Pack(file)


class Pack:
    """The scenes of one file.

    Attributes:
        file: its path.
        names: of the scenes, in the file's order.

    Raises:
        SceneError: the file is none of these, cut short, or broken.
    """

    def __init__(self, file):
        self.file = str(file)
        with open(file, "rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size < _HEADER.size:
                self._fail(f"is cut short: {size} bytes")
            self._map = mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ)
        count, offset = self._header(size)
        self._index, self.names = self._read_index(count, offset)
        self._number = {name: k for k, name in enumerate(self.names)}

    def checked(self, name):
        """The name, if there is a scene of that name.  Raises `SceneError`."""
        if name not in self._number:
            raise SceneError(f"{self.file}: holds no scene {name!r}, but {len(self.names)} others")
        return name

    def read(self, name):
        """The `RawScene` of that name; its arrays are read-only views of the file.  Raises `SceneError`."""
        row = self._index[self._number[self.checked(name)]]
        block = memoryview(self._map)[int(row["offset"]):int(row["offset"]) + int(row["nbytes"])]
        if zlib.crc32(block) != row["checksum"]:
            self._fail("is broken: wrong checksum", name)
        numbers = _HEAD.unpack_from(block)
        objects, roads, points = numbers[:3]
        if objects > MOST_OBJECTS or roads > MOST_ROADS or max(numbers) > len(block) or _block_size(*numbers) != len(block):
            self._fail("is broken: its numbers of objects, roads and points are wrong", name)
        arrays, end = {}, _HEAD.size
        for field, (dtype, shape) in layout(objects, roads, points).items():
            begin = _aligned(end)
            arrays[field] = np.ndarray(shape, dtype, block, begin)
            end = begin + arrays[field].nbytes
        middle = end + numbers[3]
        raw = RawScene(**arrays, name=_text(block[end:middle]), scenario_id=_text(block[middle:middle + numbers[4]]))
        problem = flaw(raw)
        if problem:
            self._fail(f"is broken: {problem}", name)
        return raw

    def _header(self, size):
        magic, version, byte_order, count, offset, whole, _, checksum = _HEADER.unpack_from(self._map)
        if magic != _MAGIC:
            self._fail("is no file of packed scenes")
        if byte_order != _BYTE_ORDER:
            self._fail("is broken, or was packed on a machine of the other byte order: pack the scenes again here")
        if version != VERSION:
            self._fail(f"has version {version}, but this fastvec reads version {VERSION}: pack the scenes again")
        if checksum != zlib.crc32(self._map[:_HEADER.size - 4]):
            self._fail("is broken: wrong checksum of the header")
        if whole != size:
            self._fail(f"is cut short: {size} of {whole} bytes" if size < whole else f"is broken: {size} bytes instead of {whole}")
        if not 0 < count <= size or not _HEADER.size <= offset <= size - count * _INDEX.itemsize:
            self._fail("is broken: the index is not in the file")
        return count, offset

    def _read_index(self, count, offset):
        bytes_ = self._map[offset:]
        if zlib.crc32(bytes_) != _HEADER.unpack_from(self._map)[6]:
            self._fail("is broken: wrong checksum of the index")
        index, text = np.frombuffer(bytes_, _INDEX, count), bytes_[count * _INDEX.itemsize:]
        ends = index["name_end"]
        last = offset - np.minimum(index["nbytes"], offset)
        if (index["nbytes"] < _HEAD.size).any() or (index["nbytes"] > offset).any() or (index["offset"] < _HEADER.size).any() \
                or (index["offset"] > last).any() or (index["offset"] % _ALIGNED).any():
            self._fail("is broken: the index names bytes that are not in the file")
        if ends[-1] != len(text) or (ends[1:] < ends[:-1]).any():
            self._fail("is broken: the index has no proper names")
        names = [_text(text[a:b]) for a, b in zip([0, *ends[:-1].tolist()], ends.tolist())]
        if len(set(names)) != len(names):
            self._fail("is broken: two scenes have the same name")
        return index, names

    def _fail(self, problem, name=None):
        raise SceneError(f"{self.file if name is None else entry(self.file, name)}: {problem}")


def _text(data):
    return bytes(data).decode("utf-8", "replace")


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(file, scenes):
    """Writes scenes to a file, which appears under its name when it is complete.

    Args:
        file: its path, which ends in .scenes.
        scenes: (name, `RawScene`) pairs, in order; may be a generator.

    Returns:
        how many there are.

    Raises:
        ValueError: the path does not end in .scenes, two names are the same, or there is no scene.
        OSError: it cannot be written.
    """
    file = Path(file)
    if file.suffix != SUFFIX:
        raise ValueError(f"{file}: give a name that ends in {SUFFIX}")
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(unfinished, "wb") as out:
            count = _write(out, scenes)
            out.flush()
            os.fsync(out.fileno())
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _write(out, scenes):
    rows, names, name_end = [], {}, 0
    _pad(out, _HEADER.size)
    for name, raw in scenes:
        if name in names:
            raise ValueError(f"two scenes have the name {name!r}: rename one of the files")
        names[name] = name.encode()
        name_end += len(names[name])
        _pad(out, -out.tell() % _ALIGNED)
        block = _block(raw)
        rows.append((out.tell(), len(block), name_end, zlib.crc32(block), 0))
        out.write(block)
    if not rows:
        raise ValueError("there is no scene to pack")
    _pad(out, -out.tell() % _ALIGNED)
    offset, index = out.tell(), np.array(rows, _INDEX).tobytes() + b"".join(names.values())
    out.write(index)
    header = _HEADER.pack(_MAGIC, VERSION, _BYTE_ORDER, len(rows), offset, out.tell(), zlib.crc32(index), 0)[:-4]
    out.seek(0)
    out.write(header + struct.pack("=I", zlib.crc32(header)))
    return len(rows)


def _block(raw):
    """A scene's bytes."""
    texts = raw.name.encode(), raw.scenario_id.encode()
    block = bytearray(_HEAD.pack(len(raw.types), len(raw.road_types), len(raw.points), *map(len, texts)))
    for field, (dtype, shape) in layout(len(raw.types), len(raw.road_types), len(raw.points)).items():
        block += bytes(-len(block) % _ALIGNED)
        block += np.ascontiguousarray(getattr(raw, field), dtype).reshape(shape).tobytes()
    return bytes(block + texts[0] + texts[1])


def _block_size(objects, roads, points, *texts):
    end = _HEAD.size
    for dtype, shape in layout(objects, roads, points).values():
        end = _aligned(end) + int(np.prod(shape)) * np.dtype(dtype).itemsize
    return end + sum(texts)


def _aligned(offset):
    return offset + -offset % _ALIGNED


def _pad(out, nbytes):
    out.write(bytes(nbytes))
