"""Pixels of a made-up world at known places."""
import numpy as np
import pytest

pytest.importorskip("PIL", reason="fastvec.drive.render needs pillow: pip install 'fastvec[demo]'")

from PIL import Image, ImageColor

from fastvec.drive import render
from fastvec.drive.record import record_episode, write_gif, write_png

# A straight lane of 100 m along x with an edge 5 m to its left; north of it nothing.
LANE = (0, 0, 50, 0.1, 0.1, 0, render.LANE, 0, 2)
EDGE = (0, 5, 50, 0.1, 0.1, 0, render.EDGE, 1, 15)
FAR_EDGE = (0, 40, 50, 0.1, 0.1, 0, render.EDGE, 2, 15)
CAR = (8.0, 4.0)  # length, width: large enough to find


def world(agents):
    """A raw world; agents: dicts of x, y and perhaps yaw, goal, controlled, hit, reached."""
    absolute = np.zeros((len(agents), 14), np.float32)
    info = np.zeros((len(agents), 5), np.int32)
    for row, bits, a in zip(absolute, info, agents):
        row[:2], row[render.YAW] = (a["x"], a["y"]), a.get("yaw", 0)
        row[render.GOAL] = a.get("goal", (45, 0))
        row[[render.LENGTH, render.WIDTH]] = CAR
        bits[1], bits[render.REACHED] = a.get("hit", 0), a.get("reached", 0)
    return dict(
        absolute_self_observation=absolute, info=info,
        controlled_state=np.array([a.get("controlled", 1) for a in agents], np.int32),
        map_observation=np.array([LANE, EDGE, FAR_EDGE], np.float32),
    )


CONTROLLED = dict(x=-40, y=0)


def colour_at(agents, x, y, start=None, **frame):
    """The colour at a place, of a world that began as `start`."""
    renderer = render.Renderer(world(start or agents), "test")
    pixels = renderer.frame(world(agents), **frame)
    assert pixels.dtype == np.uint8 and pixels.shape == (renderer.height, renderer.width, 3)
    return tuple(pixels[renderer.pixel(x, y)].tolist())


def rgb(name):
    return ImageColor.getrgb(name)


def test_ground_and_asphalt():
    assert colour_at([CONTROLLED], 0, -10) == rgb(render.GROUND)
    assert colour_at([CONTROLLED], 0, 0) == rgb(render.ASPHALT)


def test_road_edge_is_north_of_the_lane():
    renderer = render.Renderer(world([CONTROLLED]), "test")
    pixels = renderer.frame(world([CONTROLLED])).astype(int)
    row, column = renderer.pixel(0, 5)
    darkest = pixels[row - 1:row + 2, column].sum(-1).min()
    assert abs(darkest - sum(rgb(render.KERB))) < 90  # a thin line, softened
    mirrored, column = renderer.pixel(0, -5)
    assert (pixels[mirrored - 1:mirrored + 2, column] == rgb(render.GROUND)).all()


@pytest.mark.parametrize("agent, state", [
    (dict(), "driven"),
    (dict(reached=1), "at goal"),
    (dict(reached=1, hit=1), "at goal"),
    (dict(hit=1), "collided"),
    (dict(controlled=0), "log"),
    (dict(controlled=0, goal=(10, 0)), "parked"),
])
def test_agents_have_the_colour_of_their_state(agent, state):
    agents = [CONTROLLED, dict(x=10, y=0, **agent)]
    assert colour_at(agents, 10, 0) == rgb(render.STATES[state][0])


def test_log_agent_that_arrives_is_not_taken_for_a_parked_one():
    start = [CONTROLLED, dict(x=10, y=0, goal=(20, 0), controlled=0)]
    end = [CONTROLLED, dict(x=20, y=0, goal=(20, 0), controlled=0)]
    assert colour_at(end, 20, 0, start) == rgb(render.STATES["log"][0])


def test_agents_are_oriented_boxes():
    along, across = [CONTROLLED, dict(x=0, y=-10)], [CONTROLLED, dict(x=0, y=-10, yaw=np.pi / 2)]
    driven = rgb(render.STATES["driven"][0])
    assert colour_at(along, -3, -10) == driven and colour_at(along, 0, -13) == rgb(render.GROUND)
    assert colour_at(across, -3, -10) == rgb(render.GROUND) and colour_at(across, 0, -13) == driven


def test_agents_moved_away_are_not_drawn():
    gone = [CONTROLLED, dict(x=-11000, y=-11000)]
    renderer = render.Renderer(world([CONTROLLED]), "test")
    assert (renderer.frame(world([CONTROLLED])) == render.Renderer(world(gone), "test").frame(world(gone))).all()
    assert render.states(world(gone), np.zeros(2, bool)) == ["driven", None]


def test_goals_change_when_they_are_reached():
    open_one = colour_at([dict(x=-40, y=0, goal=(30, 0))], 30, 0)
    reached = colour_at([dict(x=-40, y=0, goal=(30, 0), reached=1)], 30, 0)
    assert open_one == rgb(render.ASPHALT) and reached == rgb(render.REACHED_GOAL)


def test_trails_show_where_an_agent_was():
    past = np.stack([[[x, -10.0]] for x in range(-20, 20, 2)])
    agents = [dict(x=20, y=-10)]
    ground = rgb(render.GROUND)
    assert colour_at(agents, 0, -10) == ground
    assert colour_at(agents, 0, -10, past=past) != ground


def test_scales_are_equal_and_far_outliers_do_not_count():
    far = [CONTROLLED, dict(x=5000, y=0)]
    renderer = render.Renderer(world(far), "test")
    (top, left), (bottom, right) = renderer.pixel(0, 10), renderer.pixel(10, 0)
    assert abs((bottom - top) - (right - left)) <= 1 and right - left > 20
    row, column = renderer.pixel(-40, 0)
    assert 0 <= row < renderer.height and 0 <= column < renderer.width


def test_recorded_episode_and_its_files(tmp_path):
    frames = record_episode(lambda observations: np.full(len(observations), 45), world=3, width=320)  # straight on, no pedal
    assert 10 < len(frames) <= 92
    assert {f.shape for f in frames} == {frames[0].shape} and frames[0].shape[1] == 320
    write_gif(frames, tmp_path / "a.gif")
    write_png(frames[0], tmp_path / "a.png")
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(frames) and gif.size == frames[0].shape[1::-1]
        first = np.array(gif.convert("RGB"))
    fill = rgb(render.STATES["driven"][0])
    assert ((first == fill).all(-1) == (frames[0] == fill).all(-1)).mean() > 0.999  # the fill survives the palette
    assert (first == fill).all(-1).sum() > 20
    assert (np.array(Image.open(tmp_path / "a.png")) == frames[0]).all()


def test_episodes_repeat():
    def drive():
        return record_episode(lambda observations: np.full(len(observations), 84), world=3, width=200)

    assert all((a == b).all() for a, b in zip(drive(), drive(), strict=True))
