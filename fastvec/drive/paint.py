"""How things of the drive world look: roads, agents, goals and trails, drawn by Pillow.  `render` decides what is drawn where."""
from __future__ import annotations

import numpy as np

try:
    from PIL import Image, ImageDraw, ImageFont
except ImportError as error:
    raise ImportError("pictures of the drive world need Pillow: pip install 'fastvec[render]'") from error

# GPUDrive's entity types, and the map-element types of yellow lines.
EDGE, LINE, LANE, CROSSWALK, BUMP, STOP_SIGN, VEHICLE, PEDESTRIAN, CYCLIST = range(1, 10)
YELLOW_LINES = (9, 10, 11, 12, 13)
# Columns of a road segment, in map_observation as in agent_roadmap.
X, Y, HALF_LENGTH, HALF_WIDTH, HEADING, TYPE, MAP_TYPE = 0, 1, 2, 3, 5, 6, 8
AWAY = -10_000.0  # agents that are done wait at (-11000, -11000)

LANE_WIDTH = 4.2  # metres; of the asphalt drawn under a lane's centre line
# Pixels.  What would be smaller is drawn larger, or nobody would see it.
LEAST_LENGTH = {VEHICLE: 12, PEDESTRIAN: 8, CYCLIST: 13}
LEAST_CYCLIST_WIDTH = 10
TITLE_HEIGHT, LEGEND_HEIGHT = 30, 26
LONGEST_RULER = 110

GROUND, BEYOND, ASPHALT, KERB = "#eef0e8", "#dcded5", "#d3d6db", "#8b919b"
WHITE_PAINT, YELLOW_PAINT, BUMP_PAINT, STOP_PAINT = "#fbfbfb", "#e6b93f", "#e3c88d", "#d9483b"
INK, FAINT_INK, BAR = "#23272f", "#6d7480", "#ffffff"
STATES = {  # of an agent: its fill and its outline, in the order of the legend
    "driven": ("#2f6fe4", "#173f8c"),
    "at goal": ("#23a566", "#0f6b3f"),
    "collided": ("#e5412d", "#8e1d10"),
    "log": ("#8d6fc9", "#54408a"),
    "parked": ("#a3a9b3", "#727985"),
}
UPWARDS = ("parked", "log", "at goal", "driven", "collided")  # which agents cover which
TRAIL = ("#c6d4ec", "#a3bfee", "#7fa6ee")  # its oldest third first
OPEN_GOAL, REACHED_GOAL = "#2f6fe4", "#23a566"


class Camera:
    """Maps metres to a picture's pixels: equal scales, y upwards.

    Attributes:
        pixels_per_metre: the scale.
        width, height: of the picture, in pixels.
    """

    def __init__(self, low, high, width, height):
        self.width, self.height = width, height
        self.pixels_per_metre = min(width / (high[0] - low[0]), height / (high[1] - low[1]))
        self._centre = (np.asarray(low, float) + high) / 2

    def pixels(self, points):
        """float [..., 2], metres to pixels from the top left corner."""
        offset = (np.asarray(points, float) - self._centre) * (self.pixels_per_metre, -self.pixels_per_metre)
        return offset + (self.width / 2, self.height / 2)

    def corners(self, centres, headings, half_lengths, half_widths):
        """Four corners of every box, in pixels: the flat lists that Pillow draws fastest, in the order front left, front
        right, rear right, rear left."""
        along = np.stack([np.cos(headings), np.sin(headings)], 1)
        across = np.stack([-along[:, 1], along[:, 0]], 1)
        along, across = along * np.asarray(half_lengths)[:, None], across * np.asarray(half_widths)[:, None]
        corners = np.stack([along + across, along - across, -along - across, -along + across], 1) + np.asarray(centres)[:, None]
        return self.pixels(corners).reshape(-1, 8).tolist()


class Canvas:
    """A picture under a camera, in larger scale than it is shown: scaling it down makes edges smooth.

    Args:
        camera: of the large picture.
        scale: how many times larger it is.
        image: goes on drawing on a copy of this one; by default empty ground.
    """

    def __init__(self, camera, scale, image=None):
        self.camera, self.scale = camera, scale
        self.image = Image.new("RGB", (camera.width, camera.height), GROUND) if image is None else image.copy()
        self._draw = ImageDraw.Draw(self.image)

    def copy(self):
        return Canvas(self.camera, self.scale, self.image)

    def small(self):
        """The picture in the size in which it is shown."""
        return self.image.reduce(self.scale)

    def _metres(self, metres, least):
        """A length in pixels of the large picture, but at least so many shown ones."""
        return max(metres * self.camera.pixels_per_metre, least * self.scale)

    def disc(self, x, y, radius, fill, outline=None, width=1):
        """Around pixel (x, y)."""
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, max(1, round(width)))

    # ---- roads -------------------------------------------------------------------------------------------------------

    def roads(self, segments):
        """Road segments, float [R, 9] in the columns of map_observation."""
        kind, thin = segments[:, TYPE], self._metres(0.25, 0.9)
        self._strokes(segments[kind == LANE], ASPHALT, self._metres(LANE_WIDTH, 0))
        self._crosswalks(segments[kind == CROSSWALK])
        for bump in self._boxes(segments[kind == BUMP]):
            self._draw.polygon(bump, BUMP_PAINT)
        lines = segments[kind == LINE]
        yellow = np.isin(lines[:, MAP_TYPE], YELLOW_LINES)
        self._strokes(lines[~yellow], WHITE_PAINT, thin)
        self._strokes(lines[yellow], YELLOW_PAINT, thin)
        self._strokes(segments[kind == EDGE], KERB, 1.4 * thin)
        for x, y in self.camera.pixels(segments[kind == STOP_SIGN][:, :2]).tolist():
            self.disc(x, y, self._metres(0.9, 2.4), STOP_PAINT, WHITE_PAINT, 0.7 * self.scale)

    def _strokes(self, segments, colour, width):
        """Segments as lines with round ends, so that consecutive ones join."""
        along = np.stack([np.cos(segments[:, HEADING]), np.sin(segments[:, HEADING])], 1) * segments[:, HALF_LENGTH, None]
        ends = np.concatenate([self.camera.pixels(segments[:, :2] + side * along) for side in (-1, 1)], 1).tolist()
        for x0, y0, x1, y1 in ends:
            self._draw.line((x0, y0, x1, y1), colour, max(1, round(width)))
            self.disc(x0, y0, width / 2, colour)
            self.disc(x1, y1, width / 2, colour)

    def _crosswalks(self, boxes):
        """Stripes across the way of those who walk."""
        for box in boxes:
            count = max(1, round(box[HALF_LENGTH]))
            offsets = (np.arange(count) + 0.5) / count * 2 - 1
            along = np.array([np.cos(box[HEADING]), np.sin(box[HEADING])]) * box[HALF_LENGTH]
            stripes = np.repeat(box[None], count, 0)
            stripes[:, :2] += offsets[:, None] * along
            stripes[:, HALF_LENGTH] = 0.25 * 2 * box[HALF_LENGTH] / count
            for stripe in self._boxes(stripes):
                self._draw.polygon(stripe, WHITE_PAINT)

    def _boxes(self, segments):
        return self.camera.corners(segments[:, :2], segments[:, HEADING], segments[:, HALF_LENGTH], segments[:, HALF_WIDTH])

    def points(self, places):
        """A dot on each of float [n, 2]."""
        for x, y in self.camera.pixels(places).tolist():
            self.disc(x, y, 1.1 * self.scale, FAINT_INK)

    # ---- what moves --------------------------------------------------------------------------------------------------

    def goal(self, place, reached):
        """A ring around (x, y), with a dot in it when reached."""
        x, y = self.camera.pixels(place)
        radius, colour = self._metres(1.6, 3.6), REACHED_GOAL if reached else OPEN_GOAL
        self.disc(x, y, radius, None, colour, 1.5 * self.scale)
        if reached:
            self.disc(x, y, radius * 0.4, colour)

    def goal_arrow(self, place):
        """An arrow head at (x, y) that points away from the origin: to a goal farther out."""
        x, y = self.camera.pixels(place)
        ahead = np.array([place[0], -place[1]]) / np.hypot(*place) * 6 * self.scale
        across = np.array([-ahead[1], ahead[0]]) * 0.8
        tip, left, right = ahead, -ahead + across, -ahead - across
        self._draw.polygon([(x + dx, y + dy) for dx, dy in (tip, left, -0.4 * ahead, right)], OPEN_GOAL)

    def trail(self, places):
        """Through float [k, 2], oldest first."""
        points = [tuple(p) for p in self.camera.pixels(places).tolist()]
        third = -(-len(points) // len(TRAIL))
        for k, colour in enumerate(TRAIL):
            part = points[k * third:(k + 1) * third + 1]
            if len(part) > 1:
                self._draw.line(part, colour, round(1.6 * self.scale), joint="curve")

    def cross(self, place):
        """Where an agent collided that is gone."""
        (x, y), arm = self.camera.pixels(place), self._metres(1.1, 3.5)
        for side in (-1, 1):
            self._draw.line((x - arm, y - side * arm, x + arm, y + side * arm), STATES["collided"][0], round(1.6 * self.scale))

    def agents(self, boxes, states, ego=None):
        """Agents in the shape of their type and the colours of their state.

        Args:
            boxes: float [n, 6]: x, y, heading, length, width, entity type (vehicle where it is none of the three).
            states: n of `STATES`.
            ego: which of them, if any, gets a ring.
        """
        kinds = np.where(np.isin(boxes[:, 5], (PEDESTRIAN, CYCLIST)), boxes[:, 5], VEHICLE).astype(int)
        least = np.array([LEAST_LENGTH[kind] for kind in kinds]) * self.scale
        metre = self.camera.pixels_per_metre
        larger = np.maximum(1, least / np.maximum(boxes[:, 3] * metre, 1e-6))
        half_length, half_width = boxes[:, 3] * larger / 2, boxes[:, 4] * larger / 2
        half_width[kinds == CYCLIST] = np.maximum(half_width[kinds == CYCLIST], LEAST_CYCLIST_WIDTH * self.scale / metre / 2)
        ahead = np.stack([np.cos(boxes[:, 2]), np.sin(boxes[:, 2])], 1)
        bodies = self.camera.corners(boxes[:, :2], boxes[:, 2], half_length, half_width)
        screens = self.camera.corners(boxes[:, :2] + ahead * half_length[:, None] * 0.3, boxes[:, 2], half_length * 0.16, half_width * 0.72)
        if ego is not None:
            self.disc(*_middle(bodies[ego]), 1.25 * half_length[ego] * metre + 2 * self.scale, None, INK, 1.2 * self.scale)
        draw_one = {VEHICLE: self._vehicle, PEDESTRIAN: self._pedestrian, CYCLIST: self._cyclist}
        for i in sorted(range(len(states)), key=lambda i: UPWARDS.index(states[i])):
            draw_one[kinds[i]](bodies[i], screens[i], *STATES[states[i]])

    def _vehicle(self, body, screen, fill, outline):
        self._draw.polygon(body, fill, outline, self.scale)
        self._draw.polygon(screen, outline)

    def _pedestrian(self, body, screen, fill, outline):
        """A disc."""
        (x, y), x_ahead, y_ahead = _middle(body), (body[0] + body[2]) / 2, (body[1] + body[3]) / 2
        self.disc(x, y, np.hypot(x_ahead - x, y_ahead - y), fill, outline, self.scale)

    def _cyclist(self, body, screen, fill, outline):
        """A triangle that points ahead."""
        self._draw.polygon(((body[0] + body[2]) / 2, (body[1] + body[3]) / 2, *body[4:]), fill, outline, self.scale)


def _middle(body):
    return (body[0] + body[4]) / 2, (body[1] + body[5]) / 2


class Sheet:
    """The paper around a map: a title above, a legend and a ruler below.

    Args:
        width, height: in pixels.
        title: stands above, on the left.
        pixels_per_metre: for the ruler.
        kinds: entity types in the scene; those who walk or ride are explained then.
    """

    def __init__(self, width, height, title, pixels_per_metre, kinds):
        self.width, self.height, self._title = width, height, title
        self._image = Image.new("RGB", (width, height), BAR)
        draw = ImageDraw.Draw(self._image)
        self._middle = height - LEGEND_HEIGHT / 2
        self._ruler(draw, self._legend(draw, kinds), pixels_per_metre)

    def around(self, canvas, caption):
        """The finished picture, uint8 [height, width, 3].

        Of `caption`, which stands above, on the right, the last parts go where room is short: parts are three spaces
        apart.  What is left is for the title.
        """
        image = self._image.copy()
        image.paste(canvas.small(), (0, TITLE_HEIGHT))
        draw, title = ImageDraw.Draw(image), self._title
        while "   " in caption and draw.textlength(caption, _font(13)) > self.width - 24:
            caption = caption.rpartition("   ")[0]
        room = self.width - 24 - 16 - draw.textlength(caption, _font(13))
        while title and draw.textlength(title, _font(15)) > room:
            title = title[:-2].rstrip(" ,") + "…" if len(title) > 2 else ""
        draw.text((12, TITLE_HEIGHT / 2), title, INK, _font(15), anchor="lm")
        draw.text((self.width - 12, TITLE_HEIGHT / 2), caption, FAINT_INK, _font(13), anchor="rm")
        return np.array(image)

    def _legend(self, draw, kinds):
        """Returns where it ends."""
        x, y = 12, self._middle
        entries = [(name, 14, _swatch(*colours)) for name, colours in STATES.items()] + [("goal", 9, _ring)]
        entries += [(name, width, sign) for kind, name, width, sign in
                    ((PEDESTRIAN, "pedestrian", 9, _dot), (CYCLIST, "cyclist", 13, _triangle)) if kind in kinds]
        for name, width, sign in entries:
            end = x + width + 5 + draw.textlength(name, _font(12))
            if end > self.width - 12:
                return x
            sign(draw, x, y)
            draw.text((x + width + 5, y), name, FAINT_INK, _font(12), anchor="lm")
            x = end + 14
        return x

    def _ruler(self, draw, left, pixels_per_metre):
        """The longest round length that fits to the right of `left`, if any does."""
        right, middle = self.width - 12, self._middle
        for metres in (100, 50, 20, 10, 5):
            length, text = metres * pixels_per_metre, f"{metres} m"
            if length <= LONGEST_RULER and right - length - 6 - draw.textlength(text, _font(12)) >= left:
                draw.line((right - length, middle + 4, right, middle + 4), FAINT_INK, 1)
                for x in (right - length, right):
                    draw.line((x, middle + 1, x, middle + 4), FAINT_INK, 1)
                draw.text((right - length - 6, middle), text, FAINT_INK, _font(12), anchor="rm")
                return


def _swatch(fill, outline):
    return lambda draw, x, y: draw.rounded_rectangle((x, y - 4, x + 14, y + 3), 2, fill, outline)


def _ring(draw, x, y):
    draw.ellipse((x, y - 5, x + 9, y + 4), None, OPEN_GOAL, 2)


def _dot(draw, x, y):
    draw.ellipse((x, y - 5, x + 9, y + 4), BAR, FAINT_INK, 1)


def _triangle(draw, x, y):
    draw.polygon((x, y - 5, x + 13, y, x, y + 5), BAR, FAINT_INK, 1)


_fonts = {}


def _font(size):
    if size not in _fonts:
        _fonts[size] = ImageFont.load_default(size)
    return _fonts[size]
