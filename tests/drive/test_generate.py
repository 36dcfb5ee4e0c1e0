"""Generated scenes: the shipped ones are among them, and their traffic keeps clear of each other."""
import copy
import gzip
import json

import numpy as np
import pytest

pytest.importorskip("roadgen", reason="generating scenes needs roadgen: pip install 'fastvec[scenes]'")

from fastvec.cli import scenes as cli
from fastvec.drive import generate as generator
from fastvec.drive.generate import KINDS, collisions, generate, name_of
from fastvec.drive.scenes import SHIPPED


def shipped(kind):
    return json.loads(gzip.decompress((SHIPPED / f"{name_of(kind, 0)}.json.gz").read_bytes()))


@pytest.mark.parametrize("kind", KINDS)
def test_seed_0_is_the_shipped_scene(kind):
    assert generate(kind, 0) == shipped(kind)


def test_command_line_knows_the_kinds():
    assert cli.KINDS == tuple(KINDS)


def test_other_seeds_are_other_scenes():
    assert generate("two_lane", 1)["objects"] != generate("two_lane", 2)["objects"]


def test_number_of_vehicles():
    assert len(generate("two_lane", 3, vehicles=6)["objects"]) == 6


def crash(scene):
    """Puts one car into another, for all of the log."""
    driven = (o for o in scene["objects"] if all(o["valid"]) and not o["mark_as_expert"])
    first, second = next(driven), next(driven)
    for key in ("position", "heading", "velocity", "goalPosition"):
        second[key] = copy.deepcopy(first[key])


def test_collisions_are_seen():
    scene = shipped("two_lane")
    assert collisions(scene) == 0
    crash(scene)
    assert collisions(scene) > 0


def test_goals_that_are_not_reached_are_seen():
    scene = shipped("two_lane")
    next(o for o in scene["objects"] if all(o["valid"]) and not o["mark_as_expert"])["goalPosition"]["y"] += 30
    assert collisions(scene) == 1


def test_colliding_scenes_are_made_anew(monkeypatch):
    """With other random numbers, but the same ones every time."""
    made = []

    def first_crashes(rng, kind, seed, vehicles):
        made.append(rng.bit_generator.state["state"]["state"])
        scene = shipped(kind)
        if len(made) % 2:
            crash(scene)
        return scene

    monkeypatch.setattr(generator, "_scene", first_crashes)
    assert generate("two_lane", 0) == generate("two_lane", 0) == shipped("two_lane")
    assert made[:2] == made[2:] and made[0] != made[1]


def test_hopeless_scenes_are_given_up(monkeypatch):
    monkeypatch.setattr(generator, "collisions", lambda scene: 1)
    with pytest.raises(RuntimeError, match="gen_two_lane_s4: none of 20 attempts"):
        generate("two_lane", 4)


@pytest.mark.parametrize("kind", KINDS)
def test_velocities_and_headings_follow_positions(kind):
    for o in generate(kind, 5)["objects"]:
        valid = np.array(o["valid"])
        xy, velocity = (np.array([[p["x"], p["y"]] for p in o[key]])[valid] for key in ("position", "velocity"))
        moved = np.diff(xy, axis=0) / 0.1
        np.testing.assert_allclose(moved, (velocity[1:] + velocity[:-1]) / 2, atol=1.0)
        fast = np.hypot(*moved.T) > 1.0
        off = np.arctan2(moved[:, 1], moved[:, 0]) - np.array(o["heading"])[valid][:-1]
        assert (np.cos(off[fast]) > 0.8).all()
