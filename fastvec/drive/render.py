"""Pictures of one driving world, seen from above, and of what one of its agents observes.  Needs Pillow."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from fastvec.drive.paint import (
    AWAY, BEYOND, FAINT_INK, GROUND, HALF_LENGTH, HEADING, LEGEND_HEIGHT, TITLE_HEIGHT, TYPE, X, Camera, Canvas, Sheet,
)

# Columns of absolute_self_observation, self_observation, partner_observations and info.
YAW, GOAL, LENGTH, WIDTH, ID = 7, slice(8, 10), 10, 11, 13
SPEED, SELF_SIZE, SELF_GOAL = 0, slice(1, 3), slice(4, 6)
PARTNER_PLACE, PARTNER_HEADING, PARTNER_SIZE, PARTNER_TYPE, PARTNER_ID = slice(1, 3), 3, slice(4, 6), 7, 8
HIT, REACHED, KIND = slice(0, 3), 3, 4

WORLD_ARRAYS = ("absolute_self_observation", "controlled_state", "info", "map_observation", "steps_remaining")
AGENT_ARRAYS = ("agent_roadmap", "done", "partner_observations", "self_observation")

SECONDS_PER_STEP = 0.1
MARGIN = 14.0  # metres around what the picture must show
LEAST_SPAN = 60.0  # metres
LEAST_EDGE = 8.0  # metres from an agent to the edge of what it observes
LEAST_SIZE = 160  # pixels
LONGEST_GAP = 10  # steps between two looks at an episode; after more its trails begin anew
MAPS_KEPT = 4  # by a `Viewer`: each is some megabytes


def states(raw, parked) -> list:
    """The state of every agent, one of `paint.STATES`.

    Args:
        raw: of `fastvec.drive.Drive.raw`.
        parked: bool [N], see `parked_agents`.
    """
    collided, result = raw["info"][:, HIT].any(1), []
    for i, controlled in enumerate(raw["controlled_state"] > 0):
        if controlled and raw["info"][i, REACHED]:
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


class History:
    """What a picture shows of the past of one world's episode, as far as somebody looked.

    Args:
        steps: how many looks back the trails go; None: to the beginning.

    Attributes:
        places: list of float32 [N, 2], where the agents were, oldest first, the last look included.
        parked: bool [N], see `parked_agents`.
        crashes: float32 [k, 2]: where agents collided that are gone since.
    """

    def __init__(self, steps=25):
        self._length = None if steps is None else steps + 1
        self.places, self._left = [], 0

    def look(self, raw):
        """Takes note of a world's state, `WORLD_ARRAYS` of `Drive.raw`.  More than once for a state does no harm.

        An episode is taken for a new one when its steps remaining did not fall, or fell by more than `LONGEST_GAP`.
        """
        places, left = raw["absolute_self_observation"][:, :2], int(raw["steps_remaining"][0])
        if self.places and left == self._left and np.array_equal(places, self.places[-1]):
            return
        if not self.places or not 0 < self._left - left <= LONGEST_GAP or len(places) != len(self.places[-1]):
            self._begin(raw)
        self.places.append(places)
        if self._length is not None:
            del self.places[:-self._length]
        self._left = left
        self._find_crashes(places, raw["info"])

    def _begin(self, raw):
        self.places, self.parked = [], parked_agents(raw)
        self._last = np.zeros((len(self.parked), 2), np.float32)  # where each agent was seen last
        self._collided = np.zeros(len(self.parked), bool)  # and whether it had collided there

    def _find_crashes(self, places, info):
        here = places[:, X] > AWAY
        self._last[here] = places[here]
        self._collided[here] = info[here, HIT].any(1) & (info[here, REACHED] == 0)
        self.crashes = self._last[~here & self._collided]

    def trail(self, i):
        """float32 [k, 2], where agent i was, oldest first."""
        path = np.array([places[i] for places in self.places], np.float32)
        return path[path[:, X] > AWAY]


class Renderer:
    """Draws one world, frame after frame; what never changes (roads, bars) is drawn once.

    Args:
        raw: `WORLD_ARRAYS` of `fastvec.drive.Drive.raw`, best at the beginning of an episode: the camera comes from it.
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
        map_height = height - TITLE_HEIGHT - LEGEND_HEIGHT
        camera = Camera(low, high, width * supersample, map_height * supersample)
        self._sheet = Sheet(width, height, title, camera.pixels_per_metre / supersample, raw["info"][:, KIND])
        self._map = Canvas(camera, supersample)
        self._map.roads(raw["map_observation"])

    def pixel(self, x, y):
        """(row, column) of a frame at a position, in metres; whole numbers, perhaps outside of the frame."""
        return _pixel(self._map, x, y)

    def frame(self, raw, history, caption=""):
        """One frame.

        Args:
            raw: `WORLD_ARRAYS` of `Drive.raw`, the same scene as at first.
            history: a `History` of this world that has looked at `raw`: trails of driven agents come from it, and
                crosses where agents vanished in a collision.
            caption: what stands above, on the right.

        Returns:
            uint8 [height, width, 3], RGB.
        """
        canvas, agents, driven = self._map.copy(), raw["absolute_self_observation"], np.flatnonzero(raw["controlled_state"] > 0)
        for i in driven:
            canvas.goal(agents[i, GOAL], raw["info"][i, REACHED])
        for i in driven:
            canvas.trail(history.trail(i))
        for place in history.crashes:
            canvas.cross(place)
        here = agents[:, X] > AWAY
        boxes = np.column_stack([agents[:, [0, 1, YAW, LENGTH, WIDTH]], raw["info"][:, KIND]]).astype(float)
        canvas.agents(boxes[here], [state for state, present in zip(states(raw, history.parked), here) if present])
        return self._sheet.around(canvas, caption)


class AgentRenderer:
    """Draws what one agent observes: itself in the middle, pointing up, its goal, and the partners and road points of its
    observation, and no others.  Roads are drawn as in `Renderer`, with a dot on every point.

    Colours tell a partner's state, and trails where driven ones were: these two the agent does not observe.

    Args:
        raw: `WORLD_ARRAYS` of `fastvec.drive.Drive.raw`; see `Renderer`.
        radius: metres the agent sees; drawn as a circle, unless it is beyond the whole map.
        title, width, height, supersample: see `Renderer`; by default the map is a square.

    Attributes:
        width, height: of the frames, in pixels.
    """

    def __init__(self, raw, radius, title="", *, width=640, height=None, supersample=3):
        self.width, self.height = width, height or width + TITLE_HEIGHT + LEGEND_HEIGHT
        self._radius = radius
        extent = _extent(raw["map_observation"])
        # Nothing to see is farther off than the map is wide; so large radii do not make small pictures.
        self._reach = radius if extent is None else min(radius, max(LEAST_SPAN / 2, float(np.hypot(*(extent[1] - extent[0])))))
        edge = max(1.04 * self._reach, LEAST_EDGE)
        map_height = self.height - TITLE_HEIGHT - LEGEND_HEIGHT
        camera = Camera((-edge, -edge), (edge, edge), width * supersample, map_height * supersample)
        self._sheet = Sheet(width, self.height, title, camera.pixels_per_metre / supersample, raw["info"][:, KIND])
        self._map = Canvas(camera, supersample)
        if self._reach == radius:
            self._map.image.paste(BEYOND, (0, 0, camera.width, camera.height))
            self._map.disc(camera.width / 2, camera.height / 2, radius * camera.pixels_per_metre, GROUND)

    def pixel(self, x, y):
        """(row, column) of a frame at a position in the agent's frame: x ahead, y to its left, in metres."""
        return _pixel(self._map, -y, x)

    def frame(self, raw, slot, history, caption=""):
        """One frame.

        Args:
            raw: `WORLD_ARRAYS` and `AGENT_ARRAYS` of `Drive.raw`, the same scene as at first.
            slot: of the agent, 0 <= slot < N.
            history: a `History` of this world that has looked at `raw`.
            caption: what stands above, on the right.

        Returns:
            uint8 [height, width, 3], RGB.
        """
        canvas = self._map.copy()
        roads = raw["agent_roadmap"][slot].astype(float)
        roads = _turned(roads[roads[:, TYPE] > 0], HEADING)
        canvas.roads(roads)
        canvas.points(roads[:, :2])
        if self._reach == self._radius:
            camera = canvas.camera
            canvas.disc(camera.width / 2, camera.height / 2, self._radius * camera.pixels_per_metre, None, FAINT_INK, canvas.scale)
        self._draw_goal(canvas, raw, slot)
        partners = raw["partner_observations"][slot]
        partners = partners[partners[:, PARTNER_TYPE] > 0].astype(float)
        slots = _slots(raw, partners[:, PARTNER_ID])
        self._draw_trails(canvas, raw, (*slots, slot), slot, history)
        ego = [0, 0, 0, *raw["self_observation"][slot, SELF_SIZE], raw["info"][slot, KIND]]
        boxes = np.column_stack([partners[:, columns] for columns in (PARTNER_PLACE, PARTNER_HEADING, PARTNER_SIZE, PARTNER_TYPE)])
        state_of = states(raw, history.parked)
        canvas.agents(_turned(np.vstack([boxes, ego]), 2), [state_of[i] for i in (*slots, slot)], ego=len(slots))
        return self._sheet.around(canvas, caption)

    def _draw_goal(self, canvas, raw, slot):
        x, y = raw["self_observation"][slot, SELF_GOAL]
        distance = float(np.hypot(x, y))
        if distance <= self._reach:
            canvas.goal((-y, x), raw["info"][slot, REACHED])
        else:
            canvas.goal_arrow(np.array([-y, x]) * (self._reach / distance))

    def _draw_trails(self, canvas, raw, seen, slot, history):
        x, y, yaw = raw["absolute_self_observation"][slot, [0, 1, YAW]]
        right, ahead = np.array([np.sin(yaw), -np.cos(yaw)]), np.array([np.cos(yaw), np.sin(yaw)])
        for i in seen:
            if raw["controlled_state"][i]:
                path = history.trail(i) - (x, y)
                path = path[np.hypot(*path.T) <= self._reach]
                canvas.trail(np.column_stack([path @ right, path @ ahead]))


def _pixel(canvas, x, y):
    column, row = canvas.camera.pixels((x, y)) / canvas.scale
    return int(row) + TITLE_HEIGHT, int(column)


def _turned(rows, heading):
    """Rows that begin with x, y in an agent's frame, turned so that ahead is up."""
    rows = rows.copy()
    rows[:, 0], rows[:, 1] = -rows[:, 1], rows[:, 0].copy()
    rows[:, heading] += np.pi / 2
    return rows


def _slots(raw, ids):
    """The slots of agents with these ids."""
    slot_of = {number: i for i, number in enumerate(raw["absolute_self_observation"][:, ID].tolist())}
    return [slot_of[number] for number in ids.tolist()]


class Viewer:
    """Draws the worlds of a `Drive` whenever somebody asks, and keeps their history from one time to the next.

    Args:
        trail_steps: how many frames of an episode the trails go back; None: to its beginning.
    """

    def __init__(self, trail_steps=25):
        self._trail_steps, self._histories, self._renderers = trail_steps, {}, {}

    def frame(self, drive, world, agent, scene, width, height):
        """One frame.

        Args:
            drive: a `fastvec.drive.Drive`.
            world: its index.
            agent: None for the world seen from above, or the index of a row of this world: what that agent observes.
            scene: path of the scene that the world hosts.
            width, height: in pixels; height may be None, see `Renderer` and `AgentRenderer`.

        Returns:
            uint8 [height, width, 3], RGB.

        Raises:
            IndexError: there is no such world or agent.
            ValueError: the frame would be too small.
        """
        _check_size("width", width)
        if height is not None:
            _check_size("height", height)
        raw = drive.raw(world, WORLD_ARRAYS if agent is None else WORLD_ARRAYS + AGENT_ARRAYS)
        slot = None if agent is None else _slot(raw, world, agent)
        history = self._histories.setdefault(world, History(self._trail_steps))
        history.look(raw)
        step = drive.config.episode_len - int(raw["steps_remaining"][0])
        if slot is None:
            renderer = self._kept((scene, width, height), lambda: Renderer(raw, _title(scene), width=width, height=height))
            return renderer.frame(raw, history, _caption(raw, step))
        renderer = self._kept((scene, width, height, agent), lambda: AgentRenderer(
            raw, drive.config.obs_radius, f"agent {agent} of {_title(scene)}", width=width, height=height))
        return renderer.frame(raw, slot, history, _agent_caption(raw, slot, step))

    def _kept(self, key, make):
        """What `make` returned for this key, kept until others were asked for."""
        renderer = self._renderers.pop(key, None) or make()
        while len(self._renderers) >= MAPS_KEPT:
            del self._renderers[next(iter(self._renderers))]
        self._renderers[key] = renderer
        return renderer


def _check_size(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < LEAST_SIZE:
        raise ValueError(f"{name} is {value!r}: expected a whole number of pixels of at least {LEAST_SIZE}")


def _slot(raw, world, agent):
    """Where the world's row number `agent` is among its agents."""
    rows = np.flatnonzero(raw["controlled_state"] > 0)
    if isinstance(agent, bool) or not isinstance(agent, (int, np.integer)) or not 0 <= agent < len(rows):
        raise IndexError(f"agent is {agent!r}: expected None, or 0 <= agent < {len(rows)}, a controlled agent of world {world}")
    return rows[agent]


def _title(scene):
    """A scene's name as one reads it: gen_two_lane_s0.json.gz is "two lane s0"."""
    name = Path(scene).name.split(".json")[0]
    return name.removeprefix("gen_").replace("_", " ")


def _caption(raw, step):
    driven = raw["controlled_state"] > 0
    goals = (raw["info"][driven, REACHED] > 0).sum()
    return f"step {step}   {step * SECONDS_PER_STEP:.1f} s   goals {goals}/{driven.sum()}"


def _agent_caption(raw, slot, step):
    if raw["done"][slot]:
        return f"step {step}   done"
    ego, partners, roads = raw["self_observation"][slot], raw["partner_observations"][slot], raw["agent_roadmap"][slot]
    seen = f"sees {(partners[:, PARTNER_TYPE] > 0).sum()} agents, {(roads[:, TYPE] > 0).sum()} road points"
    return f"step {step}   {ego[SPEED]:.1f} m/s   goal {np.hypot(*ego[SELF_GOAL]):.0f} m   {seen}"
