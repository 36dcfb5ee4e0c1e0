"""Counts the instructions of the drive world's parts with valgrind's callgrind; used by drive.py.

The parts are inlined into one another, so that no profiler sees them as functions.  Debug information still tells of
each instruction which source line it came from: a copy of the tree is built with it (and is otherwise the same code),
and lines are counted for the function that they stand in.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

# Which function counts for what; everything else of a world's step is "rest".
PARTS = {
    "dynamics": r"drive_(move|turn|set_velocity|prepare|follow_log|send_away)",
    "collision": r"drive_(collide|can_collide|hit_agent|boxes_overlap)",
    "partners": r"drive_(write_partners|near_agents)",
    "roads": r"drive_(near_roads|see_roads|keep_nearest|mark_by_heap|grid_at|fill_lanes)",
    "writing": r"drive_(write_|put_roads|halves)",
    "angles and formulas": r"drive_(wrap|sincos|normal_|into_frame)",
    "rest": r"",
}


def missing() -> str | None:
    """Why nothing can be counted, or None."""
    return next((f"{tool} is not installed" for tool in ("valgrind", "cc") if shutil.which(tool) is None), None)


def count(root, scenes, worlds, steps) -> dict[str, float]:
    """Instructions per controlled-agent step, {part: number}, resets included."""
    tree = build(root)
    out = tree / "callgrind.out"
    agent_steps = int(checked(
        ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*drive_5world_world_*", f"--callgrind-out-file={out}",
         "--compress-strings=no", "--compress-pos=no", sys.executable, __file__, str(scenes), str(worlds), str(steps)],
        env=dict(os.environ, PYTHONPATH=str(tree))))
    by_part = Counter({part: 0 for part in PARTS})
    for name, instructions in by_function(out, tree).items():
        by_part[next(part for part, pattern in PARTS.items() if re.match(pattern, name))] += instructions
    return {part: n / agent_steps for part, n in by_part.items()}


def build(root):
    """A copy of the tree in which fastvec_c.drive.world has debug information."""
    tree = root / "build" / "instructions"
    tree.mkdir(parents=True, exist_ok=True)
    for name in ("fastvec", "fastvec_c", "build/cython"):
        shutil.copytree(root / name, tree / name, dirs_exist_ok=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(root / name, tree)
    for built in (tree / "fastvec_c" / "drive").glob("world.*.so"):
        built.unlink()
    flags = os.environ.get("FASTVEC_CFLAGS", "") + " -g"
    checked([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=tree, env=dict(os.environ, FASTVEC_CFLAGS=flags))
    return tree


def checked(command, **kwargs) -> str:
    """What a command prints.  Raises RuntimeError, with the end of what it said, where it fails."""
    run = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if run.returncode:
        raise RuntimeError(f"{command[0]} failed ({run.returncode}): {run.stderr[-2000:]}")
    return run.stdout


def by_function(out, tree) -> Counter:
    """Instructions by the name of the drive_ function whose source line they came from, or else of the C function.

    What a line calls that is none of ours (memcpy) counts for the line.
    """
    lines, counted = Functions(tree), Counter()
    where = function = callee = total = None
    called = False
    for line in out.read_text().splitlines():
        if (m := re.match(r"(fl|fi|fe|fn|cfn|cfi|cfl|calls)=(.*)", line)) is not None:
            key, value = m.groups()
            if key in ("fl", "fi", "fe"):
                where = value
            elif key == "fn":
                function = value
            elif key == "cfn":
                callee = value
            elif key == "calls":
                called = True
        elif (m := re.match(r"(\d+) (\d+)$", line)) is not None:
            if is_ours(function) and not (called and is_ours(callee)):
                counted[lines.at(where, int(m[1])) or function] += int(m[2])
            called = False
        elif line.startswith("totals: "):
            total = int(line.split()[1])
    if total != sum(counted.values()):
        raise RuntimeError(f"{out}: {sum(counted.values())} of {total} instructions were attributed")
    return counted


def is_ours(function):
    return "drive" in function


class Functions:
    """Which function of the drive world's headers a line belongs to."""

    def __init__(self, tree):
        self.begin = {}
        for header in (tree / "fastvec_c" / "drive").glob("*.h"):
            found = [(number, m[1]) for number, line in enumerate(header.read_text().splitlines(), 1)
                     if (m := re.match(r"(?:static|DRIVE_PART)\b.*?\b(drive_\w+)\(", line)) is not None]
            self.begin[header.name] = found

    def at(self, file, line) -> str | None:
        before = [name for begin, name in self.begin.get(Path(file).name, ()) if begin <= line]
        return before[-1] if before else None


# ---- the process that is counted ---------------------------------------------------------------------------------------


def main():
    import numpy as np

    import fastvec
    import fastvec.drive
    from drive import CONFIG
    from fastvec.autotune import random_actions

    p = argparse.ArgumentParser()
    p.add_argument("scenes")
    p.add_argument("worlds", type=int)
    p.add_argument("steps", type=int)
    args = p.parse_args()
    rng = np.random.default_rng(0)
    agent_steps = 0
    with fastvec.make(fastvec.drive.creator(args.scenes, args.worlds, CONFIG), 0) as vec:
        vec.reset(seed=0)
        for _ in range(args.steps):
            vec.step(random_actions(vec.action_spec, vec.num_rows, rng))
            agent_steps += int(vec.masks.sum())
    print(agent_steps)


if __name__ == "__main__":
    sys.exit(main())
