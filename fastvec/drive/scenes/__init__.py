"""Scenes: where they are, and how they are read.

A scene is named by its *entry*: the path of a .json or .json.gz file in GPUDrive's format, or `FILE.scenes#NAME`, one of
many in a file that `fastvec scenes pack` wrote (see `fastvec.drive.scenes.compact`).
"""
from __future__ import annotations

import os
from pathlib import Path

from fastvec.drive.scenes import compact
from fastvec.drive.scenes.json_file import SUFFIXES, read_json
from fastvec.drive.scenes.raw import RawScene, SceneError

__all__ = ["SHIPPED", "RawScene", "SceneError", "files_in", "find", "name_of", "pack", "read", "stamp"]

SHIPPED = Path(__file__).parent


def find(scenes):
    """The entries that `scenes` means, as a list of strings with absolute paths.

    Args:
        scenes: "shipped" for the scenes that come with fastvec; an entry; a .scenes file, meaning all scenes in it, in its
            order; a folder, meaning its .json, .json.gz and .scenes files by name; or a list of such.

    Raises:
        SceneError: a path does not exist, a .scenes file is broken, or nothing was found.
    """
    if isinstance(scenes, (str, Path)):
        scenes = [scenes]
    entries = [entry for one in scenes for entry in _find_one(SHIPPED if one == "shipped" else Path(one))]
    if not entries:
        raise SceneError("scenes is an empty list: name at least one file or folder")
    return entries


def files_in(folder):
    """The scene files in a folder, by name.  Raises `SceneError` if there is none."""
    inside = sorted(p for p in Path(folder).iterdir() if p.name.endswith((*SUFFIXES, compact.SUFFIX)))
    if not inside:
        raise SceneError(f"{folder}: the folder holds no .json, .json.gz or {compact.SUFFIX} file")
    return inside


def name_of(entry):
    """A scene's name in messages and in .scenes files: that of its file, without suffix."""
    if compact.is_entry(entry):
        return compact.split(entry)[1]
    name = Path(entry).name
    return next((name.removesuffix(suffix) for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), name)


def pack(entries, file, watch=None):
    """Reads scenes and writes them all to one .scenes file.

    Args:
        entries: those that `find` returns; their names must differ.
        file: its path; see `compact.write`.
        watch: called with each entry once it was read.

    Raises:
        SceneError: a scene is broken; there is no file, then, or still the old one.
        ValueError, OSError: see `compact.write`.
    """
    def scenes():
        for entry in entries:
            raw = read(entry)
            if watch:
                watch(entry)
            yield name_of(entry), raw

    compact.write(file, scenes())


def _find_one(path):
    if path.is_dir():
        return [entry for file in files_in(path) for entry in _find_one(file)]
    if compact.is_entry(path):
        file, name = compact.split(path)
        return [compact.entry(Path(file).resolve(), compact.open_pack(file).checked(name))]
    if not path.exists():
        raise SceneError(f"{path}: no such file or folder; scenes must be 'shipped', a file, a folder or a list of those")
    path = path.resolve()
    if path.name.endswith(compact.SUFFIX):
        return [compact.entry(path, name) for name in compact.open_pack(path).names]
    return [str(path)]


def read(entry, warn=None):
    """The `RawScene` of an entry.

    Args:
        entry: one of those that `find` returns.
        warn: see `read_json`; says nothing on scenes in .scenes files.

    Raises:
        SceneError: names the file and the key, or the scene in the file, and what is wrong with it.
    """
    if compact.is_entry(entry):
        file, name = compact.split(entry)
        return compact.open_pack(file).read(name)
    return read_json(entry, warn)


def stamp(entry):
    """A tuple that is another one once the entry's file was rewritten.  Raises `SceneError` if there is no such file."""
    file = compact.split(entry)[0] if compact.is_entry(entry) else entry
    try:
        status = os.stat(file)
    except OSError as error:
        raise SceneError(f"{file}: cannot be read: {error}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino
