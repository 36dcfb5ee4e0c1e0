"""Parity with GPUDrive: every recorded step of every recorded scene, flags exactly, floats within compare.LIMITS."""
import json
from zlib import crc32

import numpy as np
import pytest

import packed
from compare import KINDS, compare, gap
from fastvec_c.drive.pack import pack_rows
from recordings import Recording, cases, find


@pytest.mark.parametrize("recording", cases(KINDS))
def test_recording(recording):
    assert compare(recording).broken() == []


# ---- that it would be seen ---------------------------------------------------------------------------------------------


class Changed(Recording):
    """A recording with something changed in it."""

    def load(self):
        golden = super().load()
        self.change(golden)
        return golden


def add(name, at, value):
    def change(golden):
        golden[name][at] += value
    return change


def swap(name):
    """Exchanges the first two roads that the first agent sees."""
    def change(golden):
        golden[name][0, 0, [0, 1]] = golden[name][0, 0, [1, 0]]
    return change


@pytest.mark.parametrize("kind, change, said", [
    ("A", add("info", (30, 0, 3), 1), "1 of info differ"),
    ("A", add("done", (30, 0), 1), "1 of done differ"),
    ("A", add("reward", (30, 0), 1e-6), "1 of reward differ"),
    ("A", add("weighted_reward", (30, 0), 1e-6), "1 of weighted reward differ"),
    ("A", add("steps_remaining", (30, 0), 1), "1 of steps remaining differ"),
    ("A", add("controlled_state", 0, -1), "1 of controlled state differ"),
    ("A", add("info", (0, 0, 0), 1), "collision flags of slot 0 differ at row 0"),
    ("A", add("absolute_self_observation", (20, 0, 0), 0.01), "positions are"),
    ("A", add("absolute_self_observation", (30, 0, 7), 0.01), "headings are"),
    ("A", add("self_observation", (30, 0, 0), 0.01), "speeds are"),
    ("A", add("agent_roadmap", (0, 3, 5, 1), 0.05), "raw roads are"),
    ("A", add("partner_observations", (0, 3, 0, 3), 0.01), "raw partners are"),
    ("A", add("packed_obs", (0, 3, 700), 0.01), "observations are"),
    ("A", add("packed_obs", (0, 3, 700), 2e-7), "floats packed from raw arrays differ"),
    ("A", swap("agent_roadmap"), "lists of roads differ"),
    ("G", swap("packed_obs"), "observations are"),
    ("G", add("agent_roadmap", (0, 0, 150, 8), 1), "lists of roads differ"),
    ("puffer", add("rewards", (30, 0), 1e-6), "1 of weighted reward differ"),
    ("puffer", add("observations", (0, 3, 700), 0.01), "observations are"),
])
def test_a_difference_is_seen(kind, change, said):
    recording = Changed(scene := "gen_parking_s0" if kind == "puffer" else "gen_junction_s0", kind, packed.GOLDEN / f"{scene}.xz")
    object.__setattr__(recording, "change", change)
    assert said in " ".join(compare(recording).broken())


def test_roads_in_another_order_are_the_same_set():
    recording = Changed("gen_parking_s0", "G", packed.GOLDEN / "gen_parking_s0.xz")
    object.__setattr__(recording, "change", swap("agent_roadmap"))
    assert compare(recording).roads[0] == 0


@pytest.mark.parametrize("other, metres", [
    ((4.5, 0, 0, 2, 1), 0.5),  # behind one another
    ((0, 1.75, 0, 2, 1), -0.25),  # side by side, overlapping
    ((3.1, 0, np.pi / 2, 2, 1), 0.1),  # across
    ((2 + 2**0.5, 0, np.pi / 4, 1, 1), 0.0),  # a corner at the bumper
])
def test_gap_between_boxes(other, metres):
    box, others = np.array([0, 0, 0, 2, 1.0]), np.array([other], float)
    assert gap(box, others) == pytest.approx([metres], abs=1e-9)
    c, s = np.cos(1), np.sin(1)
    turned = lambda b: np.column_stack([b[:, 0] * c - b[:, 1] * s, b[:, 0] * s + b[:, 1] * c, b[:, 2] + 1, b[:, 3:]])
    assert gap(turned(box[None])[0], turned(others)) == pytest.approx([metres], abs=1e-9)


# ---- packed recordings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted(packed.GOLDEN.glob("*.xz")), ids=lambda file: file.stem)
def test_packed_recordings_are_what_was_recorded(file):
    assert len(packed.kinds(file)) >= 9
    for kind in packed.kinds(file):
        arrays = packed.load(file, kind)
        said = json.loads(str(arrays.pop("crc")))
        assert {name: crc32(np.ascontiguousarray(a).tobytes()) for name, a in arrays.items()} == said


def test_each_recording_once():
    found = find(packed.KINDS)
    assert len(found) == len({str(recording) for recording in found}) >= 58


# ---- the packing kernel, which test_recording holds against what was recorded ------------------------------------------


def raw_arrays(n):
    return [np.zeros(shape, np.float32) for shape in ((n, 8), (n, 63, 9), (n, 200, 9), (n, 2984))]


@pytest.mark.parametrize("which, shape, said", [
    (0, (3, 9), r"self_observation has shape \(3, 9\): expected \(3, 8\)"),
    (1, (2, 63, 9), r"partner_observations has shape \(2, 63, 9\): expected \(3, 63, 9\)"),
    (2, (3, 199, 9), r"agent_roadmap has shape \(3, 199, 9\): expected \(3, 200, 9\)"),
    (3, (2, 2984), r"out has shape \(2, 2984\): expected \(3, 2984\)"),
])
def test_packing_wrong_shapes(which, shape, said):
    arrays = raw_arrays(3)
    arrays[which] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=said):
        pack_rows(*arrays)


@pytest.mark.parametrize("slot", [-1, 3])
def test_packing_a_slot_that_is_not_there(slot):
    *raw, out = raw_arrays(3)
    with pytest.raises(ValueError, match=rf"slots\[1\] is {slot}: expected 0 <= slot < 3"):
        pack_rows(*raw, out[:2], [0, slot])


def test_packing_chosen_slots():
    *raw, out = raw_arrays(3)
    raw[0][:, 6] = 0, 10, 20
    pack_rows(*raw, out[:2], [2, 1])
    assert out[:, 5].tolist() == [20, 10, 0]
