"""How far the drive world is from GPUDrive, over every recording that is there.

Prints one line for each configuration.  Fails (exit status 1) where a limit is broken.  Recordings: those of our own
scenes in tests/drive/golden, and all of ../shared/data (or FASTVEC_TEST_DATA) where that is.
"""
import sys
from collections import defaultdict
from pathlib import Path

import harness

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "drive"))
from compare import CELLS, FIRST, GRAZED, GRAZES, KINDS, LIMITS, SHARE, TOUCHING, compare  # noqa: E402
from recordings import DATA, find  # noqa: E402

SHOWN = {"positions": ("positions",), "headings": ("headings",), "speeds": ("speeds",),
         "raw tensors": ("raw partners", "raw roads", "goals and sizes", "map", "lidar"), "observations": ("observations",)}


def main():
    p = harness.parser(__doc__)
    args = p.parse_args()
    report = harness.Report("parity", args)
    found = defaultdict(list)
    for recording in find(KINDS):
        found[recording.kind].append(compare(recording))
    if not DATA.is_dir():
        report.say(f"{DATA} is not there: only the recordings of our own scenes are compared")
    report.table("what must be exact, and lists of roads: how many differ", COUNTS,
                 [counts(kind, found[kind]) for kind in KINDS if found[kind]])
    report.table(f"the largest error over the first {FIRST} steps / over all; relative where numbers (of positions in an agent's frame: distances) are above 1",
                 ["", *SHOWN], [errors(kind, found[kind]) for kind in KINDS if found[kind]])
    for kind in set(KINDS) - set(found):
        report.say(f"no recording of configuration {kind}")
    report.say("left out: I (womd_tracks_to_predict), which is no reference: GPUDrive reads what it controls before it is set")
    every = [findings for some in found.values() for findings in some]
    targets(report, every)
    report.finish()
    return int(any(findings.broken() for findings in every))


COUNTS = ["", "recordings", "agent-steps", "flags", "collision flags", "lists of roads", "kernel floats"]


def counts(kind, some):
    return [f"{kind}: {KINDS[kind]}", len(some), sum(f.agent_steps for f in some), sum(sum(f.flags.values()) for f in some),
            sum(len(f.collisions) for f in some), wrong_of(f.roads for f in some), wrong_of(f.kernel for f in some)]


def wrong_of(pairs):
    return "{:,} of {:,}".format(*map(sum, zip(*pairs)))


def errors(kind, some):
    return [kind, *(pair([f.errors[name] for f in some for name in names if name in f.errors]) for names in SHOWN.values())]


def pair(both):
    """The largest of each; None where nothing was compared."""
    return " / ".join(f"{max(column):.1e}" for column in zip(*both)) or None


def targets(report, every):
    """The limits, each with its worst case, and whatever breaks one."""
    flags = sum(sum(f.flags.values()) for f in every)
    report.target("controlled state, done, info, steps remaining and rewards exact", flags == 0, f"{flags:,} differ")
    for k, when in enumerate((f"the first {FIRST} steps", "all steps")):
        worst = max((both[k], name, str(f.recording)) for f in every for name, both in f.errors.items())
        report.target(f"errors over {when} at most {LIMITS[k]:g}", worst[0] <= LIMITS[k], f"{worst[0]:.2g} ({worst[1]} of {worst[2]})")
    differing, steps = [(f.recording, *c) for f in every for c in f.collisions], sum(f.agent_steps for f in every)
    report.target(f"collision flags differ only on boxes within {TOUCHING:g} m of touching, in at most {SHARE:.1%} of agent-steps",
                  all(abs(gap) <= TOUCHING for *_, gap in differing) and len(differing) <= SHARE * steps,
                  "; ".join([f"{len(differing)} of {steps:,}"] + [f"{where}, row {row}, slot {slot}: {gap:.1e} m"
                                                                  for where, row, slot, gap in differing]))
    for what, pairs, share in (
            ("the same roads, in order under linear, as sets under k-nearest", [f.roads for f in every], 0),
            ("recorded raw tensors packed bit for bit", [f.kernel for f in every], 0),
            (f"lidar beams to a millimetre, but {GRAZES:.1%}, which graze a side and are {GRAZED * 100:.0f} cm off at most", [f.beams for f in every], GRAZES),
            (f"bird's-eye cells, but {CELLS:.3%}, which lie within rounding of an edge", [f.cells for f in every], CELLS)):
        wrong, of = map(sum, zip(*pairs))
        report.target(what, wrong <= share * of, f"{wrong_of(pairs)} differ")
    for findings in every:
        for text in findings.broken():
            report.say(f"  {text}")


if __name__ == "__main__":
    sys.exit(main())
