"""Pixels of made-up worlds at known places, and pictures that real ones give."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for module in ("PIL", "imageio"):
    pytest.importorskip(module, reason=f"fastvec.drive's pictures need {module}: pip install 'fastvec[render]'")

import imageio.v3 as imageio
from PIL import Image, ImageColor

import fastvec
from fastvec.drive import Drive, DriveConfig, creator, paint, render
from fastvec.drive.record import record_episode, write_png, write_video
from fastvec.drive.scenes import SHIPPED

ROOT = Path(__file__).parents[2]
PARKING, JUNCTION, GRID = (SHIPPED / f"gen_{name}_s0.json.gz" for name in ("parking", "junction", "grid"))

# A straight lane of 100 m along x with an edge 5 m to its left; north of it nothing.
LANE = (0, 0, 50, 0.1, 0.1, 0, paint.LANE, 0, 2)
EDGE = (0, 5, 50, 0.1, 0.1, 0, paint.EDGE, 1, 15)
FAR_EDGE = (0, 40, 50, 0.1, 0.1, 0, paint.EDGE, 2, 15)
CAR = (8.0, 4.0)  # length, width: large enough to find


def world(agents, left=91):
    """A raw world; agents: dicts of x, y and perhaps yaw, goal, controlled, hit, reached, kind."""
    absolute = np.zeros((len(agents), 14), np.float32)
    info = np.zeros((len(agents), 5), np.int32)
    for i, (row, bits, a) in enumerate(zip(absolute, info, agents)):
        row[:2], row[render.YAW], row[render.ID] = (a["x"], a["y"]), a.get("yaw", 0), 100 + i
        row[render.GOAL] = a.get("goal", (45, 0))
        row[[render.LENGTH, render.WIDTH]] = CAR
        bits[1], bits[render.REACHED], bits[render.KIND] = a.get("hit", 0), a.get("reached", 0), a.get("kind", paint.VEHICLE)
    return dict(
        absolute_self_observation=absolute, info=info,
        controlled_state=np.array([a.get("controlled", 1) for a in agents], np.int32),
        map_observation=np.array([LANE, EDGE, FAR_EDGE], np.float32),
        steps_remaining=np.full(len(agents), left, np.int32),
    )


def frame_of(*worlds):
    """(renderer, picture of the last of these states), of a world that began as the first."""
    renderer, history = render.Renderer(worlds[0], "test"), render.History()
    for raw in worlds:
        history.look(raw)
    pixels = renderer.frame(worlds[-1], history)
    assert pixels.dtype == np.uint8 and pixels.shape == (renderer.height, renderer.width, 3)
    return renderer, pixels


def colour_at(agents, x, y, start=None):
    """The colour at a place, of a world that began as `start`."""
    renderer, pixels = frame_of(*([world(start)] if start else []), world(agents, 90))
    return tuple(pixels[renderer.pixel(x, y)].tolist())


CONTROLLED = dict(x=-40, y=0)


def rgb(name):
    return ImageColor.getrgb(name)


def test_ground_and_asphalt():
    assert colour_at([CONTROLLED], 0, -10) == rgb(paint.GROUND)
    assert colour_at([CONTROLLED], 0, 0) == rgb(paint.ASPHALT)


def test_road_edge_is_north_of_the_lane():
    renderer, pixels = frame_of(world([CONTROLLED]))
    row, column = renderer.pixel(0, 5)
    darkest = pixels[row - 1:row + 2, column].astype(int).sum(-1).min()
    assert abs(darkest - sum(rgb(paint.KERB))) < 90  # a thin line, softened
    mirrored, column = renderer.pixel(0, -5)
    assert (pixels[mirrored - 1:mirrored + 2, column] == rgb(paint.GROUND)).all()


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
    assert colour_at(agents, 10, 0) == rgb(paint.STATES[state][0])


def test_log_agent_that_arrives_is_not_taken_for_a_parked_one():
    start = [CONTROLLED, dict(x=10, y=0, goal=(20, 0), controlled=0)]
    end = [CONTROLLED, dict(x=20, y=0, goal=(20, 0), controlled=0)]
    assert colour_at(end, 20, 0, start) == rgb(paint.STATES["log"][0])


def test_agents_are_oriented_boxes():
    along, across = [CONTROLLED, dict(x=0, y=-10)], [CONTROLLED, dict(x=0, y=-10, yaw=np.pi / 2)]
    driven = rgb(paint.STATES["driven"][0])
    assert colour_at(along, -3, -10) == driven and colour_at(along, 0, -13) == rgb(paint.GROUND)
    assert colour_at(across, -3, -10) == rgb(paint.GROUND) and colour_at(across, 0, -13) == driven


@pytest.mark.parametrize("kind, corner, beside", [
    (paint.VEHICLE, True, True),  # a box
    (paint.PEDESTRIAN, False, True),  # a disc as wide as the box is long
    (paint.CYCLIST, False, False),  # a triangle
])
def test_types_of_agents_have_their_shapes(kind, corner, beside):
    agents = [CONTROLLED, dict(x=0, y=-20, kind=kind)]
    driven = rgb(paint.STATES["driven"][0])
    assert colour_at(agents, 0, -20) == driven
    assert (colour_at(agents, 3.7, -18.3) == driven) == corner  # near the front left corner
    assert (colour_at(agents, -0.8, -18.5) == driven) == beside  # near the middle of the left side


def test_cyclists_point_ahead():
    behind, ahead = (colour_at([CONTROLLED, dict(x=0, y=-20, yaw=np.pi / 2, kind=paint.CYCLIST)], 1.2, y) for y in (-23, -17.5))
    assert behind == rgb(paint.STATES["driven"][0]) and ahead == rgb(paint.GROUND)


def test_legend_explains_the_types_that_there_are():
    legends = [frame_of(world([CONTROLLED, dict(x=0, y=0, kind=kind)]))[1][-20:, 400:520] for kind in (7, 8, 9)]
    assert [(legend < 200).any() for legend in legends] == [False, True, True]
    assert (legends[1] != legends[2]).any()


def test_long_titles_make_way_for_captions():
    def bar(title, caption):
        raw, history = world([CONTROLLED]), render.History()
        history.look(raw)
        pixels = render.Renderer(raw, title, width=200).frame(raw, history, caption)[:render.TITLE_HEIGHT]
        dark = np.flatnonzero((pixels < 200).any((0, 2)))
        assert dark.min() >= 11 and dark.max() < 190  # nothing is cut off
        return pixels

    assert (bar("a" * 100, "step 1")[:, 145:] == bar("", "step 1")[:, 145:]).all()
    assert (bar("", "step 1   " + 50 * "goal ") == bar("", "step 1")).all()  # captions lose their last parts


def test_agents_moved_away_are_not_drawn():
    gone = [CONTROLLED, dict(x=-11000, y=-11000, controlled=0)]
    _, pixels = frame_of(world(gone))
    assert (pixels == frame_of(world([CONTROLLED]))[1]).all()


def test_a_cross_stays_where_an_agent_vanished_in_a_collision():
    at, gone = dict(x=0, y=-10), dict(x=-11000, y=-11000)
    collided = rgb(paint.STATES["collided"][0])
    renderer, pixels = frame_of(world([CONTROLLED, at], 91), world([CONTROLLED, {**at, "hit": 1}], 90), world([CONTROLLED, gone], 89))
    assert tuple(pixels[renderer.pixel(0, -10)]) == collided
    for end in (dict(), dict(reached=1), dict(reached=1, hit=1)):  # those that left otherwise leave none
        renderer, pixels = frame_of(world([CONTROLLED, at], 91), world([CONTROLLED, {**at, **end}], 90), world([CONTROLLED, gone], 89))
        assert not (pixels[60:-40] == collided).all(-1).any()


def test_goals_change_when_they_are_reached():
    open_one = colour_at([dict(x=-40, y=0, goal=(30, 0))], 30, 0)
    reached = colour_at([dict(x=-40, y=0, goal=(30, 0), reached=1)], 30, 0)
    assert open_one == rgb(paint.ASPHALT) and reached == rgb(paint.REACHED_GOAL)


def drive_by(left=91):
    """States of an agent that drives along y = -10, two metres a step."""
    return [world([dict(x=x, y=-10)], left - k) for k, x in enumerate(range(-20, 21, 2))]


def test_trails_show_where_an_agent_was():
    renderer, pixels = frame_of(*drive_by())
    assert tuple(pixels[renderer.pixel(0, -10)]) in [rgb(colour) for colour in paint.TRAIL]
    _, pixels = frame_of(drive_by()[0], drive_by()[-1])
    assert tuple(pixels[renderer.pixel(0, -10)]) == rgb(paint.GROUND)  # 20 steps were missed: no trail at all


def test_history_notices_new_episodes():
    history = render.History()
    for raw in drive_by()[:5]:
        history.look(raw)
        history.look(raw)  # the same state twice counts once
    assert history.trail(0)[:, 0].tolist() == [-20, -18, -16, -14, -12]
    history.look(world([dict(x=30, y=0)], 91))
    assert history.trail(0).tolist() == [[30, 0]]
    history.look(world([dict(x=31, y=0)], 91))  # another first state
    assert history.trail(0).tolist() == [[31, 0]]
    history.look(world([dict(x=32, y=0), CONTROLLED], 90))  # another scene
    assert len(history.places) == 1


def test_history_goes_back_as_far_as_told():
    history = render.History(steps=3)
    for raw in drive_by():
        history.look(raw)
    assert history.trail(0)[:, 0].tolist() == [14, 16, 18, 20]


def test_scales_are_equal_and_far_outliers_do_not_count():
    renderer = render.Renderer(world([CONTROLLED, dict(x=5000, y=0)]), "test")
    (top, left), (bottom, right) = renderer.pixel(0, 10), renderer.pixel(10, 0)
    assert abs((bottom - top) - (right - left)) <= 1 and right - left > 20
    row, column = renderer.pixel(-40, 0)
    assert 0 <= row < renderer.height and 0 <= column < renderer.width


# ---- what an agent observes ------------------------------------------------------------------------------------------


def observed(agents, partners=(), roads=(), goal=(30, 0)):
    """A world of which agent 0, at (-40, 0), observes these: partners as (slot, x, y, heading), roads as rows."""
    raw = world(agents)
    n = len(agents)
    raw.update(self_observation=np.zeros((n, 8), np.float32), partner_observations=np.zeros((n, 63, 9), np.float32),
               agent_roadmap=np.zeros((n, 200, 9), np.float32), done=np.zeros(n, np.int32))
    raw["self_observation"][0, 1:6] = (*CAR, 1.5, *goal)
    raw["partner_observations"][:, :, render.PARTNER_ID] = -1
    for k, (slot, x, y, heading) in enumerate(partners):
        raw["partner_observations"][0, k] = (0, x, y, heading, *CAR, 1.5, raw["info"][slot, render.KIND], 100 + slot)
    raw["agent_roadmap"][0, :len(roads)] = np.array(roads).reshape(-1, 9)
    return raw


def look_through(raw, *places, radius=50.0):
    """The colours at places in the frame of agent 0: x ahead, y to its left."""
    renderer, history = render.AgentRenderer(raw, radius, "test"), render.History()
    history.look(raw)
    pixels = renderer.frame(raw, 0, history)
    assert pixels.dtype == np.uint8 and pixels.shape == (renderer.height, renderer.width, 3)
    return [tuple(pixels[renderer.pixel(*place)].tolist()) for place in places]


def test_ego_points_up_in_the_middle():
    renderer = render.AgentRenderer(observed([CONTROLLED]), 50.0)
    (row, column), (ahead, _), (_, left) = renderer.pixel(0, 0), renderer.pixel(10, 0), renderer.pixel(0, 10)
    assert column == renderer.width // 2 and ahead < row and left < column
    for yaw in (0.0, 2.0):  # where it points in the world is all the same
        at, front, side = look_through(observed([{**CONTROLLED, "yaw": yaw}]), (-1, 0), (-3, 0), (0, 3))
        assert at == front == rgb(paint.STATES["driven"][0]) and side == rgb(paint.GROUND)
    assert look_through(observed([{**CONTROLLED, "hit": 1}]), (-1, 0)) == [rgb(paint.STATES["collided"][0])]


def test_partners_are_those_of_the_observation():
    agents = [CONTROLLED, dict(x=-20, y=0, hit=1), dict(x=-40, y=20, controlled=0), dict(x=-60, y=0)]
    ahead, left, behind = look_through(observed(agents, [(1, 20, 0, 0), (2, 0, 20, np.pi / 2)]), (20, 0), (0, 20), (-20, 0))
    assert ahead == rgb(paint.STATES["collided"][0]) and left == rgb(paint.STATES["log"][0])
    assert behind == rgb(paint.GROUND)  # it is there, but not observed


def test_partners_have_their_heading_and_type():
    agents, driven = [CONTROLLED, dict(x=-20, y=0)], rgb(paint.STATES["driven"][0])
    along, across = (look_through(observed(agents, [(1, 20, 0, heading)]), (17, 0), (20, 3)) for heading in (0, np.pi / 2))
    assert along == [driven, rgb(paint.GROUND)] and across == [rgb(paint.GROUND), driven]
    agents[1]["kind"] = paint.PEDESTRIAN
    side, corner = look_through(observed(agents, [(1, 20, 0, 0)]), (20, 3), (23.7, 1.7))
    assert side == driven and corner != driven  # a disc


def test_roads_are_the_points_of_the_observation():
    ahead = (20, 0, 5, 0.1, 0.1, np.pi / 2, paint.LANE, 0, 2)  # across the way of the agent
    on, on_too, off, point = look_through(observed([CONTROLLED], roads=[ahead]), (21, 4), (21, -4), (35, 0), (20, 0))
    assert on == on_too == rgb(paint.ASPHALT) and off == rgb(paint.GROUND)  # the lane under (35, 0) is not observed
    assert np.abs(np.subtract(point, rgb(paint.FAINT_INK))).max() < 40


def test_goal_is_a_ring_or_an_arrow_at_the_radius():
    inside, outside = observed([CONTROLLED], goal=(30, 20)), observed([CONTROLLED], goal=(300, 200))
    edge = np.array((3, 2)) / 13**0.5 * 50
    ring, middle = look_through(inside, (31.4, 20), (30, 20))
    assert int(ring[2]) - ring[0] > 80 and middle == rgb(paint.GROUND)
    assert look_through(outside, edge, (31.4, 20)) == [rgb(paint.OPEN_GOAL), rgb(paint.GROUND)]


def test_trails_are_seen_from_where_the_agent_is_now():
    """A partner that passes at its left, from behind to ahead, while the agent looks north."""
    ego, history = dict(x=-40, y=0, yaw=np.pi / 2), render.History()
    for k, y in enumerate(range(-10, 31, 4)):
        history.look(world([ego, dict(x=-50, y=y)], 91 - k))
    trail = [rgb(colour) for colour in paint.TRAIL]
    for partners, shown in (([(1, 30, 10, 0)], True), ([], False)):
        raw = observed([ego, dict(x=-50, y=30)], partners)
        renderer = render.AgentRenderer(raw, 50.0)
        pixels = renderer.frame(raw, 0, history)
        assert (tuple(pixels[renderer.pixel(15, 10)].tolist()) in trail) == shown
        assert tuple(pixels[renderer.pixel(15, -10)].tolist()) == rgb(paint.GROUND)


def test_beyond_the_radius_the_ground_is_another():
    raw = observed([CONTROLLED])
    assert look_through(raw, (34, 34), (37, 37)) == [rgb(paint.GROUND), rgb(paint.BEYOND)]
    assert look_through(raw, (34, 34), (37, 37), radius=1e6) == [rgb(paint.GROUND)] * 2  # sees the whole map


@pytest.mark.parametrize("algorithm", ["linear", "k_nearest_roadpoints"])
def test_pictures_agree_with_observations(algorithm):
    """Every observed partner of a real world has the colour of its state at its place, and every lane point lies on asphalt."""
    config = DriveConfig(road_obs_algorithm=algorithm, remove_non_vehicles=False, collision_behavior="ignore")
    drive = Drive(JUNCTION, 1, config, auto_reset=False)
    with fastvec.make(lambda: drive, 0, seed=0) as vec:
        vec.reset()
        for _ in range(20):
            vec.step(np.full(vec.num_rows, 50))
        raw, history, seen = drive.raw(0), render.History(), 0
    history.look(raw)
    fills = {rgb(fill): name for name, (fill, _) in paint.STATES.items()}
    state_of = dict(zip(raw["absolute_self_observation"][:, render.ID], render.states(raw, history.parked)))
    renderer = render.AgentRenderer(raw, config.obs_radius)
    for slot in (0, 5, 11):
        pixels = renderer.frame(raw, slot, history)
        partners = raw["partner_observations"][slot]
        partners = partners[partners[:, render.PARTNER_ID] >= 0]
        for _, x, y, *_, number in partners:
            row, column = renderer.pixel(x, y)
            covered = (np.hypot(partners[:, 1] - x, partners[:, 2] - y) < 6).sum() > 1 or np.hypot(x, y) < 6
            if not covered and render.TITLE_HEIGHT < row < renderer.height - render.LEGEND_HEIGHT:
                assert fills[tuple(pixels[row, column].tolist())] == state_of[number]
                seen += 1
        lanes = raw["agent_roadmap"][slot]
        for x, y in lanes[lanes[:, render.TYPE] == paint.LANE][:, :2]:
            assert tuple(pixels[renderer.pixel(x, y)].tolist()) != rgb(paint.GROUND)
    assert seen > 10


# ---- Drive.render ----------------------------------------------------------------------------------------------------


def test_drive_renders_its_worlds_and_agents():
    drive = Drive([PARKING, JUNCTION], 2, render_mode="rgb_array")
    with fastvec.make(lambda: drive, 0, seed=0) as vec:
        vec.reset()
        frames = [drive.render(), drive.render(1), drive.render(agent=0), drive.render(1, 3), drive.render(world=1, agent=4)]
    assert {f.shape for f in frames} == {(640, 640, 3)} and {f.dtype for f in frames} == {np.dtype(np.uint8)}
    assert len({f.tobytes() for f in frames}) == len(frames)
    assert drive.render(width=321, height=200).shape == (200, 321, 3)
    assert drive.render_mode in drive.metadata["render_modes"]


def test_without_render_mode_nothing_is_drawn():
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert Drive(PARKING, 1).render() is None


@pytest.mark.parametrize("kwargs, error, message", [
    (dict(world=1), IndexError, "world is 1"),
    (dict(agent=8), IndexError, r"agent is 8: expected None, or 0 <= agent < 8, a controlled agent of world 0"),
    (dict(agent=-1), IndexError, "agent is -1"),
    (dict(agent=True), IndexError, "agent is True"),
    (dict(width=10), ValueError, "width is 10: expected a whole number of pixels of at least 160"),
    (dict(height=640.0), ValueError, "height is 640.0"),
])
def test_bad_arguments_of_render(kwargs, error, message):
    drive = Drive(PARKING, 1, render_mode="rgb_array")
    with pytest.raises(error, match=message):
        drive.render(**kwargs)


def test_unknown_render_mode():
    with pytest.raises(ValueError, match="render_mode is 'human': expected None or 'rgb_array'"):
        Drive(PARKING, 1, render_mode="human")


def test_trainers_see_the_same_pictures():
    make = creator(PARKING, worlds=2, render_mode="rgb_array")
    pictures = []
    for workers in (0, 2):
        with fastvec.make(make, workers, num_envs=2, seed=3) as vec:
            vec.reset()
            for _ in range(5):
                vec.step(np.full(vec.num_rows, 45))
                frames = vec.call("render", world=1)
            pictures.append(frames + vec.call("render", 0, agent=2))
    assert len(pictures[0]) == 4 and all(np.array_equal(a, b) for a, b in zip(*pictures, strict=True))


def test_trails_end_with_their_episode():
    drive = Drive(PARKING, 1, DriveConfig(collision_behavior="ignore"), render_mode="rgb_array")
    trail = [rgb(colour) for colour in paint.TRAIL]
    with fastvec.make(lambda: drive, 0, seed=0) as vec:
        vec.reset()
        first = drive.render()
        for _ in range(10):
            vec.step(np.full(vec.num_rows, 45))
            later = drive.render()
        vec.reset()
        again = drive.render()
    assert max((later == colour).all(-1).sum() for colour in trail) > 10
    assert not any((first == colour).all(-1).any() for colour in trail) and (again == first).all()


def test_scenes_may_change_between_episodes():
    drive = Drive([PARKING, GRID], 1, DriveConfig(episode_len=2), resample_every=1, sample_with_replacement=True, render_mode="rgb_array")
    with fastvec.make(lambda: drive, 0, seed=0) as vec:
        vec.reset()
        maps = set()
        for _ in range(30):
            maps.add(drive.render()[30:-26:3, ::3].tobytes())
            scene = drive._worlds.scene_of(0)
            fresh = Drive(scene.name, 1, DriveConfig(episode_len=2), render_mode="rgb_array")
            assert (drive.render()[:30, :100] == fresh.render()[:30, :100]).all()  # the title
            vec.step(np.full(vec.num_rows, 45))
    assert len(maps) > 3


def test_missing_pillow_is_named():
    script = ("import sys; sys.modules['PIL'] = None; from fastvec.drive import Drive; "
              "Drive(worlds=1); print('made'); Drive(worlds=1, render_mode='rgb_array')")
    result = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                            text=True, timeout=60)
    assert result.stdout == "made\n"
    assert "ImportError: pictures of the drive world need Pillow: pip install 'fastvec[render]'" in result.stderr


# ---- episodes and their files ----------------------------------------------------------------------------------------


def straight_on(observations):
    return np.full(len(observations), 45)  # no pedal, no steering


def test_recorded_episode():
    frames = record_episode(straight_on, world=3, width=320)
    assert 10 < len(frames) <= 92
    assert {f.shape for f in frames} == {frames[0].shape} and frames[0].shape[1] == 320
    watched = record_episode(straight_on, world=3, agent=1, width=320)
    assert 10 < len(watched) <= 92 and watched[0].shape == (376, 320, 3)


def test_episodes_repeat():
    def drive():
        return record_episode(lambda observations: np.full(len(observations), 84), world=3, width=200)

    assert all((a == b).all() for a, b in zip(drive(), drive(), strict=True))


@pytest.fixture(scope="module")
def frames():
    return record_episode(straight_on, PARKING, width=321)[:20]  # an odd width


def test_gif(frames, tmp_path):
    write_video(frames, tmp_path / "a.gif", fps=20)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == len(frames) and gif.size == frames[0].shape[1::-1]
        assert gif.info["duration"] == 50 and gif.info["loop"] == 0
        for k in (0, 7, 19):
            gif.seek(k)
            difference = np.abs(np.array(gif.convert("RGB")).astype(int) - frames[k])
            assert difference.mean() < 0.5 and (difference.max(-1) == 0).mean() > 0.9


def test_mp4(frames, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg: pip install 'fastvec[render]'")
    write_video(iter(frames), tmp_path / "a.MP4", fps=20)
    video = imageio.imread(tmp_path / "a.MP4", plugin="FFMPEG")
    height, width = frames[0].shape[:2]
    assert len(video) == len(frames) and video.shape[1:3] == (height + height % 2, width + width % 2)
    assert imageio.immeta(tmp_path / "a.MP4", plugin="FFMPEG")["fps"] == 20
    assert np.abs(video[7, :height, :width].astype(int) - frames[7]).mean() < 4


def test_png(frames, tmp_path):
    write_png(frames[0], tmp_path / "a.png")
    assert (np.array(Image.open(tmp_path / "a.png")) == frames[0]).all()


SMALL = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize("given, name, fps, message", [
    ([SMALL], "a.avi", 10, "a.avi'.*ends in .gif or .mp4"),
    ([SMALL], "a.gif", 0, "fps is 0: expected a number above 0"),
    ([SMALL], "a.gif", float("nan"), "fps is nan"),
    ([SMALL], "a.gif", 60, "fps is 60: .* for .gif at most 50"),
    ([], "a.gif", 10, "frames is empty"),
    ([SMALL, SMALL[:4]], "a.gif", 10, r"frames\[1\] is uint8 \(4, 8, 3\)"),
    ([SMALL / 2], "a.gif", 10, r"frames\[0\] is float64"),
])
def test_bad_videos(given, name, fps, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_video(given, tmp_path / name, fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_unwritable_videos(name, tmp_path):
    if name == "a.mp4":
        pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg: pip install 'fastvec[render]'")
    with pytest.raises(OSError):
        write_video([SMALL, SMALL], tmp_path / "none" / name)


@pytest.mark.parametrize("module, suffix", [("imageio", ".gif"), ("imageio_ffmpeg", ".mp4")])
def test_missing_video_packages_are_named(module, suffix, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"needs imageio.*pip install 'fastvec\[render\]'"):
        write_video([SMALL], tmp_path / f"a{suffix}")
