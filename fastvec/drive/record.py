"""Plays one episode of the drive world and keeps it as pictures.  Needs Pillow."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import fastvec
from fastvec.drive import scenes as scene_files
from fastvec.drive.env import Drive
from fastvec.drive.render import REACHED, Renderer

SECONDS_PER_STEP = 0.1
COLOURS = 128  # of a GIF
LAST_FRAME = 1.5  # seconds that a GIF rests on its last frame


def record_episode(policy, scenes="shipped", *, world=0, config=None, seed=0, width=640, height=None, trail_steps=25):
    """Plays one episode of one world, in this process, and draws every step.

    Args:
        policy: a callable: observations float32 [n, 2984] to actions [n], for the n driven agents.
        scenes: see `fastvec.drive.scenes.find`.
        world: which of the scenes, counted round.
        config: a `fastvec.drive.DriveConfig`; its defaults where None.
        seed: of the env.
        width, height: of the frames, in pixels; see `fastvec.drive.render.Renderer`.
        trail_steps: how many steps the trails last; None: from the beginning.

    Returns:
        frames, a list of uint8 [height, width, 3]: the first state, and one more for each step until every driven agent
        is done.

    Raises:
        SceneError, ValueError: see `Drive`.
    """
    files = scene_files.find(scenes)
    file = files[world % len(files)]
    drive = Drive(file, 1, config, auto_reset=False)
    with fastvec.make(lambda: drive, 0, seed=seed) as vec:
        vec.reset()
        raw = drive.raw(0)
        renderer = Renderer(raw, _title(file), width=width, height=height)
        places, frames, alive = [], [renderer.frame(raw, (), _caption(0, raw))], np.ones(vec.num_rows, bool)
        while alive.any():
            places.append(raw["absolute_self_observation"][:, :2])
            vec.step(policy(vec.observations))
            alive &= ~(vec.terminations | vec.truncations)
            raw = drive.raw(0)
            past = places if trail_steps is None else places[-trail_steps:]
            frames.append(renderer.frame(raw, past, _caption(len(places), raw)))
    return frames


def write_gif(frames, path, fps=12.5):
    """Writes frames, uint8 [height, width, 3] of equal shape, as a GIF that plays for ever.

    One palette for all frames and no dithering: what stands still stays the same bytes, and is not stored again.

    Raises:
        OSError: the file cannot be written.
    """
    palette = _palette([frames[0], frames[len(frames) // 2], frames[-1]])
    images = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    durations = [round(1000 / fps)] * (len(images) - 1) + [round(1000 * LAST_FRAME)]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False)


def _palette(frames):
    """The most frequent colours: those that things are filled with come out exactly, only edges are approximate."""
    packed = np.concatenate(frames).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, counts = np.unique(packed, return_counts=True)
    best = colours[np.argsort(-counts, kind="stable")[:COLOURS]]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.stack([best >> 16, best >> 8 & 255, best & 255], 1).astype(np.uint8).tobytes())
    return palette


def write_png(frame, path):
    """Writes one frame, uint8 [height, width, 3].  Raises OSError where the file cannot be written."""
    Image.fromarray(frame).save(path, format="PNG", optimize=True)


def _title(file):
    """A scene's name as one reads it: gen_two_lane_s0.json.gz is "two lane s0"."""
    name = Path(file).name.split(".json")[0]
    return name.removeprefix("gen_").replace("_", " ")


def _caption(step, raw):
    driven = raw["controlled_state"] > 0
    goals = (raw["info"][driven, REACHED] > 0).sum()
    return f"step {step}   {step * SECONDS_PER_STEP:.1f} s   goals {goals}/{driven.sum()}"
