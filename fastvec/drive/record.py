"""Plays one episode of the drive world and keeps it as pictures or as a video.  Needs Pillow and imageio."""
from __future__ import annotations

import importlib.util
from itertools import chain
from numbers import Real
from pathlib import Path

import numpy as np

import fastvec
from fastvec.drive import scenes as scene_files
from fastvec.drive.env import Drive
from fastvec.drive.render import Viewer

VIDEO_SUFFIXES = (".gif", ".mp4")
FASTEST_GIF = 50  # frames per second: players slow down what is faster
LAST_FRAME = 1.5  # seconds that a GIF rests on its last frame
INSTALL = "pip install 'fastvec[render]'"


def record_episode(policy, scenes="shipped", *, world=0, agent=None, config=None, seed=0, width=640, height=None, trail_steps=25):
    """Plays one episode of one world, in this process, and draws every step.

    Args:
        policy: a callable: observations float32 [n, 2984] to actions [n], for the n driven agents.
        scenes: see `fastvec.drive.scenes.find`.
        world: which of the scenes, counted round.
        agent: None for the world seen from above, or 0 <= agent < n for what that agent observes.
        config: a `fastvec.drive.DriveConfig`; its defaults where None.
        seed: of the env.
        width, height: of the frames, in pixels; see `fastvec.drive.render.Renderer` and `AgentRenderer`.
        trail_steps: how many steps the trails last; None: from the beginning.

    Returns:
        frames, a list of uint8 [height, width, 3]: the first state, and one more for each step until every driven agent
        (or the one that observes) is done.

    Raises:
        SceneError, ValueError: see `Drive`.
        IndexError: there is no such agent.
    """
    files = scene_files.find(scenes)
    file = files[world % len(files)]
    drive, viewer = Drive(file, 1, config, auto_reset=False), Viewer(trail_steps)
    with fastvec.make(lambda: drive, 0, seed=seed) as vec:
        vec.reset()
        watched = slice(None) if agent is None else agent
        frames, alive = [viewer.frame(drive, 0, agent, file, width, height)], np.ones(vec.num_rows, bool)
        while alive[watched].any():
            vec.step(policy(vec.observations))
            alive &= ~(vec.terminations | vec.truncations)
            frames.append(viewer.frame(drive, 0, agent, file, width, height))
    return frames


def write_video(frames, path, fps=10):
    """Writes frames as a GIF that plays for ever, or as an MP4 (H.264, plays everywhere), by the suffix of `path`.

    Args:
        frames: uint8 [height, width, 3] of equal shape, at least one; any iterable.  An MP4 is written frame by frame, a
            GIF needs all of them in memory.  Rows and columns that make an MP4's size odd are doubled, as H.264 needs.
        path: ends in .gif or .mp4.
        fps: frames per second; 10 is real time where every step is a frame.  A GIF's are rounded to whole hundredths of
            a second per frame, at most 50.

    Raises:
        ValueError: the suffix, fps or the frames do not fit.
        ImportError: imageio, or for an MP4 imageio-ffmpeg, is missing.
        OSError: the file cannot be written.
    """
    path = Path(path)
    suffix = video_suffix(path)
    _check_fps(fps, suffix)
    missing = missing_for(suffix)
    if missing:
        raise ImportError(f"writing {suffix} needs {' and '.join(missing)}: {INSTALL}")
    frames = _checked(frames)
    if suffix == ".gif":
        _write_gif(frames, path, fps)
    else:
        _write_mp4(frames, path, fps)


def video_suffix(path):
    """".gif" or ".mp4", whichever `path` ends in.  Raises ValueError where it is neither."""
    suffix = Path(path).suffix.lower()
    if suffix not in VIDEO_SUFFIXES:
        raise ValueError(f"path is {str(path)!r}: expected a name that ends in {' or '.join(VIDEO_SUFFIXES)}")
    return suffix


def missing_for(suffix):
    """Packages that writing such a video needs and that are not installed."""
    modules = {"imageio": "imageio", **({"imageio_ffmpeg": "imageio-ffmpeg"} if suffix == ".mp4" else {})}
    return [package for module, package in modules.items() if importlib.util.find_spec(module) is None]


def write_png(frame, path):
    """Writes one frame, uint8 [height, width, 3].  Raises OSError where the file cannot be written."""
    from PIL import Image

    Image.fromarray(frame).save(path, format="PNG", optimize=True)


def _check_fps(fps, suffix):
    most = FASTEST_GIF if suffix == ".gif" else 1000
    if isinstance(fps, bool) or not isinstance(fps, Real) or not 0 < fps <= most:
        raise ValueError(f"fps is {fps!r}: expected a number above 0, for {suffix} at most {most}")


def _checked(frames):
    """The frames, each compared with the first one; that there is a first one is known at once."""
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("frames is empty: give at least one")
    shape = np.shape(first)

    def each():
        for k, frame in enumerate(chain([first], frames)):
            frame = np.asarray(frame)
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
                raise ValueError(f"frames[{k}] is {frame.dtype} {frame.shape}: expected uint8 [height, width, 3], all of one shape")
            yield frame

    return each()


def _write_gif(frames, path, fps):
    import imageio.v3 as imageio

    frames = list(frames)
    durations = [10 * round(100 / fps)] * (len(frames) - 1) + [round(1000 * LAST_FRAME)]
    imageio.imwrite(path, frames, plugin="pillow", duration=durations, loop=0)


def _write_mp4(frames, path, fps):
    import imageio.v2 as imageio

    with imageio.get_writer(path, format="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=1) as writer:
        for frame in frames:
            odd = frame.shape[0] % 2, frame.shape[1] % 2
            writer.append_data(np.pad(frame, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else frame)
