"""`fastvec scenes`: generate scenes, check them, pack many into one file."""
from __future__ import annotations

import importlib.util
import json
from contextlib import contextmanager
from pathlib import Path

from fastvec.cli.arguments import count, seed
from fastvec.cli.errors import CliError

FEWEST_VEHICLES = 5  # what a scene needs: some are experts, come late, are to be predicted
KINDS = ("junction", "roundabout", "highway", "two_lane", "grid", "parking")  # fastvec.drive.generate knows, but needs roadgen
SHOWN = 5  # warnings about one scene
WIDE = 150  # columns of output that goes to no terminal
OBJECT_COLUMNS = {"vehicle": "vehicles", "pedestrian": "on foot", "cyclist": "cyclists", "other": "other"}
ROAD_COLUMNS = {"road_edge": "edges", "road_line": "lines", "lane": "lanes", "crosswalk": "crossings", "speed_bump": "bumps", "stop_sign": "signs"}


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("scenes", help="generate, check and pack scenes for the drive world",
                                   description="Scenes for the drive world, in GPUDrive's format: generate some, check them, pack many into one file.")
    commands = parser.add_subparsers(dest="scenes_command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_check(commands)
    _add_pack(commands)


# ---- generate --------------------------------------------------------------------------------------------------------


def _add_generate(commands):
    parser = commands.add_parser("generate", help="write scenes with simulated traffic, free of recorded data",
                                 description="Writes scenes as JSON: a road network, and traffic on it that replays without collisions and reaches its goals. "
                                             "A scene depends on its kind and seed only.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--count", type=count, default=1, metavar="N", help="scenes of each kind (default: 1)")
    parser.add_argument("--seed", type=seed, default=0, help="of the first scene of each kind; those that follow have the seeds that follow (default: 0)")
    parser.add_argument("--vehicles", type=_vehicles, metavar="N", help="vehicles on the road, as far as there is room (default: what suits the kind)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where they go; it is made where it is missing")
    parser.set_defaults(run=generate)


def _vehicles(text):
    return max(count(text), FEWEST_VEHICLES)


def generate(args) -> int:
    """Writes the scenes.  Returns the exit status 0.  Raises CliError."""
    _need("rich", "roadgen")
    from fastvec.drive import generate as generator

    names = [(kind, number) for kind in dict.fromkeys(args.kinds) for number in range(args.seed, args.seed + args.count)]
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        with _progress("generating", len(names)) as advance:
            for kind, number in names:
                scene = generator.generate(kind, number, args.vehicles)
                (args.output / f"{generator.name_of(kind, number)}.json").write_text(json.dumps(scene, separators=(",", ":")))
                advance()
    except (OSError, RuntimeError) as error:
        raise CliError(str(error)) from None
    print(f"{_plural(len(names), 'scene')} in {args.output}")
    return 0


# ---- check -----------------------------------------------------------------------------------------------------------


def _add_check(commands):
    parser = commands.add_parser("check", help="say what is in scenes and what is wrong with them",
                                 description="Reads scenes and builds worlds on them; says what is in them, how many agents a policy would drive, and what is "
                                             "wrong.  Exits with 1 if a scene cannot be used.")
    _add_paths(parser)
    parser.add_argument("--init-mode", default="all_non_trivial", choices=("all_non_trivial", "all_valid", "all_objects", "womd_tracks_to_predict"),
                        help="which objects become agents (default: all_non_trivial)")
    parser.add_argument("--non-vehicles", action="store_true", help="keep pedestrians and cyclists, as remove_non_vehicles=False does")
    parser.add_argument("--max-controlled-agents", type=count, default=64, metavar="N", help="of one world (default: 64)")
    parser.add_argument("--polyline-reduction-threshold", type=float, default=0.1, metavar="M2", help="how much roads are thinned (default: 0.1)")
    parser.set_defaults(run=check)


def check(args) -> int:
    """Prints a table and what is wrong.  Returns the exit status: 1 if a scene cannot be used, else 0.  Raises CliError."""
    _need("rich")
    from fastvec.drive import DriveConfig
    from fastvec.drive.check import Report
    from fastvec.drive.check import check as check_scene
    from fastvec.drive.env import forget_scenes

    try:
        config = DriveConfig(init_mode=args.init_mode, remove_non_vehicles=not args.non_vehicles, max_controlled_agents=args.max_controlled_agents,
                             polyline_reduction_threshold=args.polyline_reduction_threshold)
    except ValueError as error:
        raise CliError(str(error)) from None
    entries, missing = _find_all(args.paths)
    reports = [Report(path, error=error) for path, error in missing]
    with _progress("checking", len(entries)) as advance:
        for entry in entries:
            reports.append(check_scene(entry, config))
            forget_scenes()
            advance()
    return _show(reports)


def _find_all(paths):
    """(entries, [(path, why it is none)])"""
    from fastvec.drive.scenes import SceneError, files_in, find

    entries, missing = [], []
    for path in paths:
        try:
            for file in files_in(path) if Path(path).is_dir() else [path]:
                try:
                    entries += find(str(file))
                except SceneError as error:
                    missing.append((str(file), str(error)))
        except (SceneError, OSError) as error:
            missing.append((str(path), str(error)))
    return entries, missing


def _show(reports):
    console = _console()
    if any(report.error is None for report in reports):
        console.print(_table(reports))
    for report in reports:
        for warning in report.warnings[:SHOWN]:
            _say(console, f"{report.entry}: warning: {warning}")
        if len(report.warnings) > SHOWN:
            _say(console, f"{report.entry}: {_plural(len(report.warnings) - SHOWN, 'more warning')}")
        if report.error:
            _say(console, f"error: {report.error}")
    broken = sum(report.error is not None for report in reports)
    _say(console, f"{_plural(len(reports), 'scene')}, {broken} cannot be used, {sum(bool(r.warnings) for r in reports)} with warnings")
    return 1 if broken else 0


def _table(reports):
    from fastvec.drive.scenes import name_of
    from rich import box
    from rich.table import Table

    table = Table("scene", *OBJECT_COLUMNS.values(), *ROAD_COLUMNS.values(), "segments", "agents", "driven", box=box.SIMPLE, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for report in reports:
        if report.error is None:
            numbers = [*(report.objects[kind] for kind in OBJECT_COLUMNS), *(report.roads[kind] for kind in ROAD_COLUMNS),
                       report.segments, report.agents, report.driven]
            table.add_row(name_of(report.entry), *(f"{number:,}" for number in numbers))
    return table


# ---- pack ------------------------------------------------------------------------------------------------------------


def _add_pack(commands):
    parser = commands.add_parser("pack", help="write many scenes into one file that loads fast",
                                 description="Writes scenes into one file that is mapped into memory: a scene loads in a millisecond, and all workers share "
                                             "what was read.  The file serves wherever scenes are given.")
    _add_paths(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="its name ends in .scenes; an old one is replaced when the new one is complete")
    parser.add_argument("--skip-broken", action="store_true", help="leave out scenes that cannot be read, and say which")
    parser.set_defaults(run=pack)


def pack(args) -> int:
    """Writes the file.  Returns the exit status 0.  Raises CliError."""
    _need("rich")
    from fastvec.drive import scenes

    if any(Path(path).is_dir() and args.output.resolve().parent == Path(path).resolve() for path in args.paths):
        raise CliError(f"--output {args.output}: lies in the folder that is packed, where its scenes would be found twice")
    try:
        entries = scenes.find(args.paths)
        skipped = _broken(entries) if args.skip_broken else {}
        entries = [entry for entry in entries if entry not in skipped]
        with _progress("packing", len(entries)) as advance:
            scenes.pack(entries, args.output, lambda entry: advance())
    except (ValueError, OSError) as error:
        raise CliError(str(error)) from None
    for error in skipped.values():
        print(f"skipped: {error}")
    print(f"{_plural(len(entries), 'scene')} in {args.output}, {args.output.stat().st_size / 2**20:,.1f} MiB")
    return 0


def _broken(entries):
    """{entry: why it cannot be read}"""
    from fastvec.drive.scenes import SceneError, read

    broken = {}
    with _progress("reading", len(entries)) as advance:
        for entry in entries:
            try:
                read(entry)
            except SceneError as error:
                broken[entry] = str(error)
            advance()
    return broken


# ---- what they share -------------------------------------------------------------------------------------------------


def _add_paths(parser):
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a scene file, a .scenes file, FILE.scenes#NAME, a folder of such files, or 'shipped'")


def _need(*modules):
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CliError(f"this needs {' and '.join(missing)}: pip install 'fastvec[scenes]'")


def _console(stderr=False):
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


@contextmanager
def _progress(what, total):
    """A bar on a terminal, nothing elsewhere; gives a function to call after each one of `total`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _say(console, text):
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _plural(number, noun):
    return f"{number:,} {noun}{'s' * (number != 1)}"
