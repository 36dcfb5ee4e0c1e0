"""`fastvec eval`: how a trained driver fares on scenes, beside the logs and agents that go straight on."""
from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

from fastvec.cli.arguments import seed
from fastvec.cli.errors import CliError

MODULES = {"torch": "torch", "rich": "rich"}
BEHAVIORS = ("ignore", "stop", "remove")
FILMED = 6  # scenes side by side in a video, at most
COLUMNS = 3
ALONE, BESIDE = (640, 640), (248, 186)  # width and height of a scene, in pixels
WIDE = 150  # columns of output that goes to no terminal
SHARES = {"goal": "goal", "collision": "collision", "off_road": "off-road", "failed": "either"}


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("eval", help="how a trained driver fares on scenes, per scene and type of agent",
                                   description="Plays one episode of each scene with a driver that examples/train_drive.py trained, and says which "
                                               "share of its agents reached their goals, collided with others, left the road; and the same of "
                                               "agents on their logged positions, and of agents that go straight on at the speed that they have.")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="what examples/train_drive.py saved")
    parser.add_argument("scenes", nargs="*", default=["shipped"], metavar="SCENES",
                        help="scene files, folders of them, or 'shipped' (the default)")
    parser.add_argument("--collision-behavior", choices=BEHAVIORS, help="what a collision ends (default: as in training)")
    parser.add_argument("--non-vehicles", action="store_true", help="drive pedestrians and cyclists, too")
    parser.add_argument("--sample", action="store_true", help="draw actions, as in training, in place of taking the likeliest")
    parser.add_argument("--seed", type=seed, default=0, help="of the worlds, and of actions that are drawn (default: 0)")
    parser.add_argument("--video", type=Path, metavar="FILE", help=f"where a film of the episodes goes, the first {FILMED} scenes': .gif or .mp4")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Evaluates, prints a table, writes what was asked for.  Returns the exit status 0.  Raises CliError."""
    _need(MODULES, "train")
    _check_outputs(args)
    import torch
    from fastvec.drive import SceneError
    from fastvec.drive.checkpoint import CheckpointError, driver
    from fastvec.drive.scenes import find

    torch.set_num_threads(1)  # batches are small
    try:
        policy, config = driver(args.checkpoint, args.sample, args.seed)
        files = find(args.scenes)
        config = _changed(config, args)
        results = _compare(policy, files, config, args.seed)
    except CheckpointError as error:
        raise CliError(f"CHECKPOINT: {error}") from None
    except (SceneError, OSError) as error:
        raise CliError(f"SCENES: {error}") from None
    _show(results, config)
    try:
        if args.json:
            args.json.write_text(json.dumps(_content(args, config, results), indent=1) + "\n")
        if args.video:
            _film(policy, files[:FILMED], config, args)
    except OSError as error:
        raise CliError(str(error)) from None
    return 0


def _compare(policy, files, config, seed):
    """{who drives: `fastvec.drive.evaluate.rates`}"""
    from fastvec.drive.evaluate import evaluate, keep_velocity, rates, replay_logs

    return {"policy": rates(evaluate(policy, files, config, seed)), "log replay": rates(replay_logs(files, config)),
            "constant velocity": rates(keep_velocity(files, config))}


def _changed(config, args):
    behavior = args.collision_behavior or config.collision_behavior
    return replace(config, collision_behavior=behavior, remove_non_vehicles=config.remove_non_vehicles and not args.non_vehicles)


# ---- checks, before anything is computed -----------------------------------------------------------------------------


def _need(modules, extra):
    missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CliError(f"this needs {' and '.join(missing)}: pip install 'fastvec[{extra}]'")


def _check_outputs(args):
    for name, path in (("--video", args.video), ("--json", args.json)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise CliError(f"{name} {path}: " + ("is a folder" if path.is_dir() else f"there is no folder {path.parent}"))
    if args.video is not None:
        _need({"PIL": "pillow"}, "render")
        from fastvec.drive.record import missing_for, video_suffix

        try:
            missing = missing_for(video_suffix(args.video))
        except ValueError:
            raise CliError(f"--video {args.video}: give a name that ends in .gif or .mp4") from None
        if missing:
            raise CliError(f"--video {args.video}: needs {' and '.join(missing)}: pip install 'fastvec[render]'")


# ---- what comes out --------------------------------------------------------------------------------------------------


def _show(results, config):
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    table = Table("scene", "type", "driver", "agents", *SHARES.values(), box=box.SIMPLE, pad_edge=False)
    for column in table.columns[3:]:
        column.justify = "right"
    for rows in zip(*results.values()):
        for driver, row in zip(results, rows):
            first = driver == "policy"
            table.add_row(row["scene"] if first else "", row["type"] if first else "", driver, f"{row['agents']:,}",
                          *(f"{row[name]:.1%}" for name in SHARES), style="" if first else "dim", end_section=driver == "constant velocity")
    console.print(table)
    console.print(f'shares of agents, over one episode; collision_behavior="{config.collision_behavior}"; either: collided or left the road',
                  soft_wrap=True, highlight=False, markup=False)


def _content(args, config, results):
    rows = [{"driver": driver, **row} for driver, found in results.items() for row in found]
    return {"checkpoint": args.checkpoint.name, "collision_behavior": config.collision_behavior, "sample": args.sample, "seed": args.seed,
            "rates": rows}


def _film(policy, files, config, args):
    """Writes the episodes of some scenes, side by side."""
    import numpy as np
    from fastvec.drive.record import record_episode, write_video

    width, height = ALONE if len(files) == 1 else BESIDE
    films = []
    for file in files:
        policy.reset(args.seed)
        films.append(record_episode(policy, file, config=config, seed=args.seed, width=width, height=height))
    while len(films) > COLUMNS and len(films) % COLUMNS:
        films.append([np.full_like(films[0][0], 255)])
    longest = max(map(len, films))
    films = [film + film[-1:] * (longest - len(film)) for film in films]
    rows = [films[first:first + COLUMNS] for first in range(0, len(films), COLUMNS)]
    write_video((np.concatenate([np.concatenate([film[t] for film in row], 1) for row in rows]) for t in range(longest)), args.video)
    print(f"film of {len(files)} episode{'s' * (len(files) > 1)}: {args.video} ({args.video.stat().st_size / 1024:,.0f} KiB)")
