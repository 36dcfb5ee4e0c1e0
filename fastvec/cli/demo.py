"""`fastvec demo`: the main job in one command: workers host drive worlds, a torch policy drives them."""
from __future__ import annotations

import importlib.util
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

from fastvec.cli.arguments import count, count_or_auto, seconds, seed
from fastvec.cli.errors import INTERRUPTED, CliError
from fastvec.machine import usable_cpus

SECONDS = 10.0
LEAST_WORKERS, MOST_WORKERS = 2, 32  # of "auto"
WORLDS = 16  # in all, at least, where the user names no number
MODULES = {"torch": "torch", "rich": "rich", "PIL": "pillow", "imageio": "imageio"}
SUFFIXES = (".gif", ".mp4", ".png")
POLICIES = {
    "torch": "an untrained network with a hand-set goal-seeking prior (it knows no roads)",
    "random": "uniformly random actions",
}


def add_parser(subparsers):
    """Adds the command to fastvec's parser."""
    parser = subparsers.add_parser("demo", help="drive worlds in worker processes, a torch policy, and a picture of an episode",
                                   description="Worker processes host driving worlds; a policy chooses all actions in one batch per step. "
                                               "Shows the rate, where the time goes and how the agents fare, and draws one episode.")
    parser.add_argument("--scenes", default="shipped", metavar="PATH", help="a GPUDrive scene file or a folder of them (default: those that come with fastvec)")
    parser.add_argument("--workers", type=count_or_auto, default="auto", metavar="N", help="worker processes (default: auto, one a CPU, at least 2)")
    parser.add_argument("--worlds", type=count, metavar="N", help=f"worlds of each worker (default: at least {WORLDS} in all)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=seconds, metavar="S", help=f"how long to run (default: {SECONDS:g})")
    length.add_argument("--steps", type=count, metavar="N", help="how many steps to make instead")
    parser.add_argument("--policy", choices=POLICIES, default="torch", help="; ".join(f"{k}: {v}" for k, v in POLICIES.items()) + " (default: torch)")
    parser.add_argument("--seed", type=seed, default=0, help="of the worlds and of the policy (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("demo.gif"), metavar="FILE",
                        help="where the picture of an episode of the first scene goes: .gif (default: demo.gif), .mp4 or .png")
    parser.set_defaults(run=run)


def run(args) -> int:
    """Runs the demo.  Returns the exit status: 0, or 130 where Ctrl-C ended it early.  Raises CliError."""
    _check_modules(args.policy)
    _check_output(args.output)
    workers, worlds = sizes(args.workers, args.worlds)
    files = _load_scenes(args.scenes, workers * worlds)
    with _stop_on_interrupt() as interrupted:
        _measure(args, files, workers, worlds, interrupted)
    if interrupted.is_set():
        return INTERRUPTED
    _draw(args, files)
    return 0


def sizes(workers, worlds):
    """(worker processes, worlds of each) from what the user gave: numbers, or "auto" and None."""
    if workers == "auto":
        workers = min(max(LEAST_WORKERS, int(usable_cpus())), MOST_WORKERS)
    return workers, worlds or -(-WORLDS // workers)


# ---- checks, before anything is started ------------------------------------------------------------------------------


def _check_modules(policy):
    missing = [package for module, package in MODULES.items()
               if importlib.util.find_spec(module) is None and (module != "torch" or policy == "torch")]
    if missing:
        raise CliError(f"the demo needs {' and '.join(missing)}: pip install 'fastvec[demo]'")


def _check_output(output):
    if output.suffix.lower() not in SUFFIXES:
        raise CliError(f"--output {output}: give a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if output.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise CliError(f"--output {output}: .mp4 needs imageio-ffmpeg: pip install 'fastvec[render]'")
    if output.is_dir() or not output.parent.is_dir():
        raise CliError(f"--output {output}: " + ("is a folder" if output.is_dir() else f"there is no folder {output.parent}"))


def _load_scenes(scenes, num_worlds) -> list:
    """The scene files, those in use parsed: errors show up here, and workers that are forked share what was read."""
    from fastvec.drive import Drive, SceneError
    from fastvec.drive.scenes import find

    try:
        files = find(scenes)
        Drive(files, min(num_worlds, len(files)))
    except (SceneError, OSError) as error:
        raise CliError(f"--scenes: {error}") from None
    return files


@contextmanager
def _stop_on_interrupt():
    """An event that the first Ctrl-C sets, so that the rollout ends between two steps; the second one interrupts."""
    event = threading.Event()

    def on_interrupt(*_):
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


# ---- the two parts ---------------------------------------------------------------------------------------------------


def _measure(args, files, workers, worlds, interrupted):
    """Runs the rollout, showing it, and prints the summary."""
    import fastvec
    from fastvec.cli import summary
    from fastvec.cli.progress import Progress
    from fastvec.cli.rollout import rollout
    from fastvec.drive import creator
    from rich.console import Console

    console = Console()
    length = None if args.steps else args.seconds or SECONDS
    with _start(creator(scenes=files, worlds=worlds, collision_behavior="ignore"), workers, args.seed) as vec:
        policy = _policy(args.policy, args.seed)  # after the fork: torch is nothing that workers need
        _say(console, f"{workers} workers x {worlds} worlds, {len(files)} scene{'s' * (len(files) != 1)}, {vec.num_rows} rows")
        _say(console, f"policy: {POLICIES[args.policy]}")
        with Progress(console, workers * worlds, length, args.steps) as progress:
            try:
                tally = rollout(vec, policy, length, args.steps, interrupted.is_set, progress)
            except fastvec.FastvecError as error:
                raise CliError(str(error)) from None
        memory = summary.memory(vec)
    if interrupted.is_set():
        _say(console, "ended early by Ctrl-C")
    console.print(summary.totals(tally, workers * worlds, memory))
    console.print(summary.workers(tally))


def _start(creator, workers, seed):
    """fastvec.make, for which the user's numbers may be too large."""
    import fastvec

    try:
        return fastvec.make(creator, workers, seed=seed)
    except fastvec.WorkerError as error:
        reason = str(error).splitlines()[0].rstrip(":")  # the rest is the worker's traceback
        raise CliError(f"{workers} workers could not start: {reason}; are --workers or --worlds too large?") from None
    except (ValueError, MemoryError, OSError) as error:
        raise CliError(f"{workers} workers could not start: {error}") from None


def _draw(args, files):
    """Plays one episode of the first scene with the same policy, and writes its picture."""
    from fastvec.drive import DriveConfig
    from fastvec.drive.record import record_episode, write_png, write_video
    from rich.console import Console

    still = args.output.suffix.lower() == ".png"
    frames = record_episode(_policy(args.policy, args.seed), files[:1], config=DriveConfig(collision_behavior="ignore"), seed=args.seed,
                            trail_steps=None if still else 25)
    try:
        if still:
            write_png(frames[-1], args.output)
        else:
            write_video(frames, args.output)
    except OSError as error:
        raise CliError(f"--output: {error}") from None
    what = "its last state, with all trails" if still else f"{len(frames)} frames"
    _say(Console(), f"picture of one episode: {args.output} ({what}, {args.output.stat().st_size / 1024:,.0f} KiB)")


def _policy(name, seed):
    """The policy of that name: observations to actions."""
    if name == "random":
        import numpy as np

        random = np.random.default_rng(seed)
        return lambda observations: random.integers(0, 91, len(observations))
    import torch
    from fastvec.drive.policy import DemoPolicy

    # Half of the CPUs: the batches are small, and threads that wait for each other beside busy workers cost more.
    torch.set_num_threads(min(4, max(1, int(usable_cpus()) // 2)))
    return DemoPolicy(seed)


def _say(console, text):
    console.print(text, soft_wrap=True, highlight=False, markup=False)
