"""Pictures of one driving world, seen from above.  Needs Pillow."""
from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# GPUDrive's entity types of road segments, and the map-element types of yellow lines.
EDGE, LINE, LANE, CROSSWALK, BUMP, STOP_SIGN = 1, 2, 3, 4, 5, 6
YELLOW_LINES = (9, 10, 11, 12, 13)
# Columns of map_observation, of absolute_self_observation, of info.
X, Y, HALF_LENGTH, HALF_WIDTH, HEADING, TYPE, MAP_TYPE = 0, 1, 2, 3, 5, 6, 8
YAW, GOAL, LENGTH, WIDTH = 7, slice(8, 10), 10, 11
HIT, REACHED = slice(0, 3), 3

AWAY = -10_000.0  # agents that are done wait at (-11000, -11000)
LANE_WIDTH = 4.2  # metres; of the asphalt drawn under a lane's centre line
MARGIN = 14.0  # metres around what the picture must show
LEAST_SPAN = 60.0  # metres
LEAST_LENGTH = 12  # pixels: smaller cars are drawn larger, or nobody would see them

GROUND, ASPHALT, KERB = "#eef0e8", "#d3d6db", "#8b919b"
WHITE_PAINT, YELLOW_PAINT, BUMP_PAINT, STOP_PAINT = "#fbfbfb", "#e6b93f", "#e3c88d", "#d9483b"
INK, FAINT_INK, BAR = "#23272f", "#6d7480", "#ffffff"
STATES = {  # of an agent: its fill and its outline, in the order of the legend
    "driven": ("#2f6fe4", "#173f8c"),
    "at goal": ("#23a566", "#0f6b3f"),
    "collided": ("#e5412d", "#8e1d10"),
    "log": ("#8d6fc9", "#54408a"),
    "parked": ("#a3a9b3", "#727985"),
}
TRAIL = ("#c6d4ec", "#a3bfee", "#7fa6ee")  # its oldest third first
OPEN_GOAL, REACHED_GOAL = "#2f6fe4", "#23a566"
TITLE_HEIGHT, LEGEND_HEIGHT = 30, 26


def states(raw, parked) -> list:
    """The state of every agent, one of `STATES`, or None for agents that were moved away.

    Args:
        raw: of `fastvec.drive.Drive.raw`.
        parked: bool [N], see `parked_agents`.
    """
    here = raw["absolute_self_observation"][:, X] > AWAY
    collided = raw["info"][:, HIT].any(1)
    result = []
    for i, controlled in enumerate(raw["controlled_state"] > 0):
        if not here[i]:
            result.append(None)
        elif controlled and raw["info"][i, REACHED]:
            result.append("at goal")
        elif collided[i]:
            result.append("collided")
        else:
            result.append("driven" if controlled else "parked" if parked[i] else "log")
    return result


def parked_agents(raw):
    """bool [N]: agents that nobody drives and whose goal is where they stand.  Meant for an episode's first state."""
    agents = raw["absolute_self_observation"]
    at_goal = np.hypot(*(agents[:, GOAL] - agents[:, :2]).T) < 0.2
    return at_goal & (raw["controlled_state"] == 0)


class Camera:
    """Maps the world's metres to a picture's pixels: equal scales, y upwards.

    Attributes:
        pixels_per_metre: the scale.
        width, height: of the picture, in pixels.
    """

    def __init__(self, low, high, width, height):
        self.width, self.height = width, height
        self.pixels_per_metre = min(width / (high[0] - low[0]), height / (high[1] - low[1]))
        self._centre = (np.asarray(low, float) + high) / 2

    def pixels(self, points):
        """float [..., 2], metres in the scene's frame to pixels from the top left corner."""
        offset = (np.asarray(points, float) - self._centre) * (self.pixels_per_metre, -self.pixels_per_metre)
        return offset + (self.width / 2, self.height / 2)


def view(raw):
    """What a picture should show: (low, high), metres, two corners around the driven agents and their goals.

    Empty land beyond the roads is left out, and so is whatever lies far from everything else.
    """
    driven = raw["absolute_self_observation"][raw["controlled_state"] > 0]
    points = np.concatenate([driven[driven[:, X] > AWAY, :2], driven[:, GOAL]]).astype(float)
    low, high = points.min(0) - MARGIN, points.max(0) + MARGIN
    roads = _extent(raw["map_observation"].astype(float))
    if roads is not None:
        inside = ((points >= roads[0] - MARGIN) & (points <= roads[1] + MARGIN)).all(1)
        points = points[inside] if inside.any() else points
        # Four metres beyond the roads are enough, unless somebody is there.
        low = np.maximum(points.min(0) - MARGIN, np.minimum(roads[0], points.min(0)) - 4)
        high = np.minimum(points.max(0) + MARGIN, np.maximum(roads[1], points.max(0)) + 4)
    short = np.maximum(0, (LEAST_SPAN - (high - low)) / 2)
    return low - short, high + short


def _extent(segments):
    """(low, high) corners around all road segments; None if there are none."""
    if not len(segments):
        return None
    reach = np.abs(np.stack([np.cos(segments[:, HEADING]), np.sin(segments[:, HEADING])], 1)) * segments[:, HALF_LENGTH, None]
    return (segments[:, :2] - reach).min(0), (segments[:, :2] + reach).max(0)


class Renderer:
    """Draws one world, frame after frame; what never changes (roads, bars) is drawn once.

    Args:
        raw: of `fastvec.drive.Drive.raw`, at the beginning of an episode: the camera and who is parked come from it.
        title: what stands above, on the left.
        width: of the frames, in pixels.
        height: of the frames; by default what the scene needs, its map between 0.3 and 1 times the width.
        supersample: drawn this many times larger and scaled down, for smooth edges.

    Attributes:
        width, height: of the frames, in pixels.
    """

    def __init__(self, raw, title="", *, width=640, height=None, supersample=3):
        low, high = view(raw)
        if height is None:
            aspect = (high[1] - low[1]) / (high[0] - low[0])
            height = round(width * min(max(aspect, 0.3), 1.0)) + TITLE_HEIGHT + LEGEND_HEIGHT
        self.width, self.height = width, height
        self._title, self._scale = title, supersample
        map_height = height - TITLE_HEIGHT - LEGEND_HEIGHT
        self._camera = Camera(low, high, width * supersample, map_height * supersample)
        self._parked = parked_agents(raw)
        self._background = self._draw_roads(raw["map_observation"])
        self._bars = self._draw_bars()

    def pixel(self, x, y):
        """(row, column) of a frame at a position, in metres; whole numbers, perhaps outside of the frame."""
        column, row = self._camera.pixels((x, y)) / self._scale
        return int(row) + TITLE_HEIGHT, int(column)

    def frame(self, raw, past=(), caption=""):
        """One frame.

        Args:
            raw: of `Drive.raw`, the same scene as at first.
            past: float [k, N, 2], where the agents were, oldest first; drawn as the trails of driven ones.
            caption: what stands above, on the right.

        Returns:
            uint8 [height, width, 3], RGB.
        """
        canvas = self._background.copy()
        draw = ImageDraw.Draw(canvas)
        self._draw_goals(draw, raw)
        self._draw_trails(draw, raw, past)
        self._draw_agents(draw, raw)
        frame = self._bars.copy()
        frame.paste(canvas.reduce(self._scale), (0, TITLE_HEIGHT))
        if caption:
            ImageDraw.Draw(frame).text((self.width - 12, TITLE_HEIGHT / 2), caption, FAINT_INK, _font(13), anchor="rm")
        return np.array(frame)

    # ---- what never changes ------------------------------------------------------------------------------------------

    def _draw_roads(self, segments):
        image = Image.new("RGB", (self._camera.width, self._camera.height), GROUND)
        draw = ImageDraw.Draw(image)
        kind, metre = segments[:, TYPE], self._camera.pixels_per_metre
        thin = max(0.25 * metre, 0.9 * self._scale)
        self._strokes(draw, segments[kind == LANE], ASPHALT, LANE_WIDTH * metre)
        self._crosswalks(draw, segments[kind == CROSSWALK])
        for bump in self._corners(segments[kind == BUMP]):
            draw.polygon(bump, BUMP_PAINT)
        lines = segments[kind == LINE]
        yellow = np.isin(lines[:, MAP_TYPE], YELLOW_LINES)
        self._strokes(draw, lines[~yellow], WHITE_PAINT, thin)
        self._strokes(draw, lines[yellow], YELLOW_PAINT, thin)
        self._strokes(draw, segments[kind == EDGE], KERB, 1.4 * thin)
        for x, y in self._camera.pixels(segments[kind == STOP_SIGN][:, :2]):
            _disc(draw, x, y, max(0.9 * metre, 2.4 * self._scale), STOP_PAINT, WHITE_PAINT, 0.7 * self._scale)
        return image

    def _strokes(self, draw, segments, colour, width):
        """Segments as thick lines with round ends, so that consecutive ones join."""
        along = np.stack([np.cos(segments[:, HEADING]), np.sin(segments[:, HEADING])], 1) * segments[:, HALF_LENGTH, None]
        starts, ends = (self._camera.pixels(segments[:, :2] + side * along) for side in (-1, 1))
        for start, end in zip(starts, ends):
            draw.line((*start, *end), colour, max(1, round(width)))
            _disc(draw, *start, width / 2, colour)
            _disc(draw, *end, width / 2, colour)

    def _crosswalks(self, draw, boxes):
        """Stripes across the way of those who walk."""
        for box in boxes:
            count = max(1, round(box[HALF_LENGTH]))
            offsets = (np.arange(count) + 0.5) / count * 2 - 1
            along = np.array([np.cos(box[HEADING]), np.sin(box[HEADING])]) * box[HALF_LENGTH]
            stripes = np.repeat(box[None], count, 0)
            stripes[:, :2] += offsets[:, None] * along
            stripes[:, HALF_LENGTH] = 0.25 * 2 * box[HALF_LENGTH] / count
            for stripe in self._corners(stripes):
                draw.polygon(stripe, WHITE_PAINT)

    def _corners(self, boxes):
        return _corners(self._camera, boxes[:, :2], boxes[:, HEADING], boxes[:, HALF_LENGTH], boxes[:, HALF_WIDTH])

    def _draw_bars(self):
        image = Image.new("RGB", (self.width, self.height), BAR)
        draw = ImageDraw.Draw(image)
        draw.text((12, TITLE_HEIGHT / 2), self._title, INK, _font(15), anchor="lm")
        middle, x = self.height - LEGEND_HEIGHT / 2, 12
        for name, (fill, outline) in STATES.items():
            draw.rounded_rectangle((x, middle - 4, x + 14, middle + 3), 2, fill, outline)
            draw.text((x + 19, middle), name, FAINT_INK, _font(12), anchor="lm")
            x += 19 + draw.textlength(name, _font(12)) + 14
        draw.ellipse((x, middle - 5, x + 9, middle + 4), None, OPEN_GOAL, 2)
        draw.text((x + 14, middle), "goal", FAINT_INK, _font(12), anchor="lm")
        self._draw_ruler(draw, middle, x + 50)
        return image

    def _draw_ruler(self, draw, middle, left):
        """A scale, if there is room for it to the right of `left`."""
        metres = 20
        right, length = self.width - 12, metres * self._camera.pixels_per_metre / self._scale
        if right - length - 45 < left:
            return
        draw.line((right - length, middle + 4, right, middle + 4), FAINT_INK, 1)
        for x in (right - length, right):
            draw.line((x, middle + 1, x, middle + 4), FAINT_INK, 1)
        draw.text((right - length - 6, middle), f"{metres} m", FAINT_INK, _font(12), anchor="rm")

    # ---- what moves --------------------------------------------------------------------------------------------------

    def _draw_goals(self, draw, raw):
        controlled = raw["controlled_state"] > 0
        radius = max(1.6 * self._camera.pixels_per_metre, 3.6 * self._scale)
        goals = self._camera.pixels(raw["absolute_self_observation"][:, GOAL])
        for (x, y), reached in zip(goals[controlled], raw["info"][controlled, REACHED]):
            colour = REACHED_GOAL if reached else OPEN_GOAL
            _disc(draw, x, y, radius, None, colour, 1.5 * self._scale)
            _disc(draw, x, y, radius * 0.4, colour if reached else None)

    def _draw_trails(self, draw, raw, past):
        if not len(past):
            return
        path = np.concatenate([np.asarray(past), raw["absolute_self_observation"][None, :, :2]])
        pixels = self._camera.pixels(path)
        for i in np.flatnonzero(raw["controlled_state"] > 0):
            points = [tuple(p) for p in pixels[path[:, i, X] > AWAY, i]]
            third = -(-len(points) // len(TRAIL))
            for k, colour in enumerate(TRAIL):
                part = points[k * third:(k + 1) * third + 1]
                if len(part) > 1:
                    draw.line(part, colour, round(1.6 * self._scale), joint="curve")

    def _draw_agents(self, draw, raw):
        agents = raw["absolute_self_observation"].astype(float)
        larger = np.maximum(1, LEAST_LENGTH * self._scale / (agents[:, LENGTH] * self._camera.pixels_per_metre))
        half_length, half_width = agents[:, LENGTH] * larger / 2, agents[:, WIDTH] * larger / 2
        ahead = np.stack([np.cos(agents[:, YAW]), np.sin(agents[:, YAW])], 1)
        bodies = _corners(self._camera, agents[:, :2], agents[:, YAW], half_length, half_width)
        windscreens = _corners(self._camera, agents[:, :2] + ahead * half_length[:, None] * 0.3, agents[:, YAW],
                               half_length * 0.16, half_width * 0.72)
        state_of = states(raw, self._parked)
        for state in ("parked", "log", "at goal", "driven", "collided"):
            fill, outline = STATES[state]
            for i in (i for i, s in enumerate(state_of) if s == state):
                draw.polygon(bodies[i], fill, outline, self._scale)
                draw.polygon(windscreens[i], outline)


def _corners(camera, centres, headings, half_lengths, half_widths):
    """The four corners of every box, in pixels, as the flat lists that Pillow draws fastest."""
    along = np.stack([np.cos(headings), np.sin(headings)], 1)
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    along, across = along * np.asarray(half_lengths)[:, None], across * np.asarray(half_widths)[:, None]
    corners = np.stack([along + across, along - across, -along - across, -along + across], 1) + np.asarray(centres)[:, None]
    return camera.pixels(corners).reshape(-1, 8).tolist()


def _disc(draw, x, y, radius, fill, outline=None, width=1):
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, max(1, round(width)))


_fonts = {}


def _font(size):
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]
