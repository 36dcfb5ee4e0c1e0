"""How long a scene takes from its file, JSON or packed, to what worlds host.

The scenes of ../shared/data (or FASTVEC_TEST_DATA) where these are, else the shipped ones; and a large one, which has the
objects and roads of the largest of them several times, side by side.  Files were read before: the disk is not measured.
"""
import json
import sys
import tempfile
from pathlib import Path

from fastvec.drive import DriveConfig, scenes
from fastvec.drive.scenes import compact
from fastvec_c.drive.scene import Scene

import harness

LARGE = 4e6  # bytes of JSON
TARGETS = {"JSON": 50, "packed": 2}  # ms


def main():
    p = harness.parser(__doc__)
    args = p.parse_args()
    report = harness.Report("loading", args)
    waymo = harness.WAYMO_SCENES.is_dir()
    if not waymo:
        report.say(f"{harness.WAYMO_SCENES} is not there: only scenes of our own are loaded")
    files = [Path(file) for file in scenes.find([harness.DATA / "generated" / "scenes", harness.WAYMO_SCENES] if waymo else "shipped")]
    with tempfile.TemporaryDirectory() as folder:
        # JSON in all cases: unpacking takes time, too
        plain = [file if file.suffix == ".json" else written(scene_in(file), Path(folder, file.name).with_suffix("")) for file in files]
        largest = max(plain, key=lambda file: file.stat().st_size)
        plain.append(written(repeated(scene_in(largest)), Path(folder, f"{largest.stem}, repeated.json")))
        rows = [measure(report, file, Path(folder), 3 if args.quick else 15) for file in plain]
    report.table("ms from the file to a scene that worlds can host", ["", "MB of JSON", "MB packed", *TARGETS, "of it to build the scene"], rows)
    if waymo:  # the targets are about scenes like these
        for column, (kind, target) in enumerate(TARGETS.items(), 3):
            slowest = max((row[column] for row in rows), key=lambda sample: sample.median)
            report.target(f"every scene from {kind} in {target} ms", slowest.median < target, str(slowest))
    report.finish()


def measure(report, file, folder, repetitions):
    packed = folder / f"{file.stem}.scenes"
    scenes.pack([str(file)], packed)
    (entry,) = scenes.find(packed)
    raw = scenes.read(entry)
    sides = {"JSON": lambda: milliseconds(lambda: build(str(file))), "packed": lambda: milliseconds(lambda: from_packed(entry)),
             "build": lambda: milliseconds(lambda: Scene(entry, raw, DriveConfig()))}
    return [file.stem, file.stat().st_size / 1e6, packed.stat().st_size / 1e6, *report.rounds.in_turn(sides, repetitions).values()]


def build(entry):
    return Scene(entry, scenes.read(entry), DriveConfig())


def from_packed(entry):
    compact._open.cache_clear()  # or the file is mapped already
    return build(entry)


def milliseconds(call):
    return 1000 * harness.seconds_of(call, 1)


def scene_in(file):
    return json.loads(scenes.json_file._bytes(file))


def written(scene, file):
    file.write_text(json.dumps(scene))
    return file


def repeated(scene):
    """The scene several times, side by side, so that its JSON has at least LARGE bytes."""
    copies = range(1, -(-int(LARGE) // len(json.dumps(scene))))
    return {**scene, **{kind: scene[kind] + [moved(one, k) for k in copies for one in scene[kind]] for kind in ("objects", "roads")}}


def moved(one, k):
    """The k-th copy of an object or a road: elsewhere, and under another id."""
    shift, one = 300.0 * k, {**one, "id": one["id"] + 100_000 * k}
    for key in ("position", "geometry"):
        if key in one:
            one[key] = [{**point, "x": point["x"] + shift} for point in one[key]]
    if "goalPosition" in one:
        one["goalPosition"] = {**one["goalPosition"], "x": one["goalPosition"]["x"] + shift}
    return one


if __name__ == "__main__":
    sys.exit(main())
