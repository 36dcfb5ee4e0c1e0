"""Plays what GPUDrive was told in a recording and says how far the drive world is from what GPUDrive did.

Errors are relative to the recorded number where that is above 1, else absolute; those of positions in an agent's frame are
relative to their distance, since an error of the agent's heading moves what is far away.  Used by test_parity.py and
by benchmarks/parity.py.
"""
import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from abi import INFO, OK, Driver
from fastvec.drive import Drive, DriveConfig
from fastvec_c.drive.pack import pack_rows
from recordings import REWARD, Recording, actions, drive

KINDS = {
    "A": "classic dynamics, collisions ignored",
    "B": "A, collisions stop",
    "C": "A, collisions remove",
    "D": "A, bicycle dynamics, expert actions",
    "E": "A, delta_local dynamics, expert actions",
    "F": "A, state dynamics, expert actions",
    "G": "A, all objects, k-nearest roads",
    "H": "A, all valid, at most 8 controlled",
    "J": "A, radius 20, roads not thinned",
    "K": "A, lidar",
    "L": "A, bird's-eye view",
    "M": "A, reset after step 45",
    "puffer": "PufferGPUDrive, 200 steps",
}
FIRST = 20  # steps
LIMITS = (1e-4, 1e-3)  # of errors: over the first 20 steps, over all
TOUCHING = 1e-3  # metres between boxes whose collision flags may differ,
SHARE = 1e-3  # in at most this share of agent-steps
GRAZES = 1e-3  # at most this share of beams meets a side so flatly that rounding moves the point by more than a millimetre,
GRAZED = 0.02  # but not by more than this
CELLS = 1e-5  # at most this share of cells lies within rounding of an edge
SAME_PLACE = 0.01  # metres within which two road segments may be the same one
COLLISION_BITS = 3  # of info, the first ones
EGO, PARTNERS = 6, 63 * 6


@dataclass
class Findings:
    """What differs in one recording.

    Attributes:
        agent_steps: agents x recorded steps.
        flags: {name: how many differ} of what must be exact; names of what was compared and agrees are there with 0.
        errors: {name: (over the first 20 steps, over all)}.
        collisions: (row, slot, metres to the nearest box) of each differing collision flag.
        roads: how many lists of roads hold other roads; of how many.
        kernel: floats that `pack_rows` gets wrong by a bit; of how many.
        beams: lidar samples that are more than a millimetre off, but on the same thing; of how many.
        cells: of bird's-eye views that differ; of how many.
    """

    recording: Recording
    agent_steps: int = 0
    flags: Counter = field(default_factory=Counter)
    errors: dict = field(default_factory=dict)
    collisions: list = field(default_factory=list)
    roads: list = field(default_factory=lambda: [0, 0])
    kernel: list = field(default_factory=lambda: [0, 0])
    beams: list = field(default_factory=lambda: [0, 0])
    cells: list = field(default_factory=lambda: [0, 0])

    def exact(self, name, ours, theirs, where=True):
        self.flags[name] += int(np.count_nonzero((np.asarray(ours) != theirs) & where))

    def close(self, name, step, ours, theirs, period=None, size=None):
        """`step` counts from the reset; with a period, numbers that differ by it are the same; size: of what is recorded."""
        theirs = np.asarray(theirs, np.float64)
        difference = ours - theirs
        if period is not None:
            difference = (difference + period / 2) % period - period / 2
        error = np.abs(difference) / np.maximum(1, np.abs(theirs) if size is None else size)
        worst = float(np.max(error, initial=0.0)) if np.isfinite(error).all() else np.inf
        first, later = self.errors.get(name, (0.0, 0.0))
        self.errors[name] = (max(first, worst) if step <= FIRST else first, max(later, worst))

    def rows(self, name, step, ours, theirs, place, heading=None, period=None):
        """Rows of an observation, of which columns `place` and `place` + 1 are a position, and one may be an angle."""
        plain = ~np.isin(np.arange(theirs.shape[-1]), (place, place + 1, heading))
        xy = slice(place, place + 2)
        self.close(name, step, ours[..., xy], theirs[..., xy], size=np.hypot(theirs[..., place], theirs[..., place + 1])[..., None])
        self.close(name, step, ours[..., plain], theirs[..., plain])
        if heading is not None:
            self.close(name, step, ours[..., heading], theirs[..., heading], period)

    def broken(self):
        """What is beyond its limit, as texts."""
        said = [f"{n} of {name} differ" for name, n in self.flags.items() if n]
        said += [f"{name} are {error:.2g} off {when}: at most {limit:g}" for name, both in self.errors.items()
                 for error, limit, when in zip(both, LIMITS, ("in the first 20 steps", "in all")) if not error <= limit]
        said += [f"collision flags of slot {slot} differ at row {row}, {gap:.2g} m from touching"
                 for row, slot, gap in self.collisions if not abs(gap) <= TOUCHING]
        if len(self.collisions) > SHARE * self.agent_steps:
            said.append(f"{len(self.collisions)} collision flags differ in {self.agent_steps} agent-steps")
        said += [f"{self.roads[0]} of {self.roads[1]} lists of roads differ"] * (self.roads[0] > 0)
        said += [f"{self.kernel[0]} of {self.kernel[1]} floats packed from raw arrays differ"] * (self.kernel[0] > 0)
        said += [f"{self.beams[0]} of {self.beams[1]} lidar beams are off"] * (self.beams[0] > GRAZES * self.beams[1])
        said += [f"{self.cells[0]} of {self.cells[1]} bird's-eye cells differ"] * (self.cells[0] > CELLS * self.cells[1])
        return [f"{self.recording}: {text}" for text in said]


def compare(recording):
    """`Findings` on one recording."""
    return compare_puffer(recording) if recording.kind == "puffer" else compare_simulator(recording)


# ---- GPUDrive ----------------------------------------------------------------------------------------------------------


def compare_simulator(recording):
    golden, found = recording.load(), Findings(recording)
    env = drive(recording, golden, auto_reset=False)
    driver = Driver(env)
    driver.reset(0)
    compare_scene(found, golden, env.raw(0, ("shape", "controlled_state", "world_means", "map_observation")))
    if any(found.flags.values()):  # of other agents or roads nothing can be compared
        return found
    found.agent_steps = int(golden["shape"][0] * golden["snapshot_is_step"].sum())
    alive = np.ones(len(np.flatnonzero(golden["controlled_state"])), bool)
    step = 0
    for row, is_step in enumerate(golden["snapshot_is_step"]):
        step = step + 1 if is_step else 0
        if is_step:
            found.exact("return code", driver.step(actions(golden, golden["snapshot_action_index"][row], env)), OK)
        elif row:
            env.reset_worlds([0])
            alive[:] = True
        touched = compare_state(found, golden, env.raw(0, STATE), row, step)
        if is_step:
            alive = compare_step(found, golden, driver, env.config, row, step, alive, touched)
        compare_views(found, golden, env, row, step)
        if is_step or not row:
            for k in np.flatnonzero(golden["packed_rows"] == row):
                nearest = env.config.road_obs_algorithm == "k_nearest_roadpoints"
                compare_packed(found, step, driver.observations, golden["packed_obs"][:, k], nearest)
    compare_kernel(found, golden)
    return found


STATE = ("done", "info", "reward", "steps_remaining", "absolute_self_observation", "self_observation")


def compare_scene(found, golden, first):
    found.exact("shape", first["shape"], golden["shape"])
    found.exact("controlled state", np.pad(first["controlled_state"], (0, 64 - len(first["controlled_state"]))), golden["controlled_state"])
    found.exact("world means", first["world_means"], golden["world_means"])
    if not any(found.flags.values()):
        found.rows("map", 0, first["map_observation"], golden["map_observation"], 0, 5, 2 * np.pi)


def compare_state(found, golden, raw, row, step):
    """Returns which agents (N,) have other collision flags."""
    them, pose = golden["self_observation"][row], golden["absolute_self_observation"][row]
    info = golden["info"][row]
    touched = (raw["info"] != info)[:, :COLLISION_BITS].any(axis=1) | (raw["self_observation"][:, 6] != them[:, 6])
    for slot in np.flatnonzero(touched):
        found.collisions.append((row, int(slot), nearest_gap(golden, row, slot)))
    for name in ("done", "reward", "steps_remaining"):
        found.exact(name.replace("_", " "), raw[name], golden[name][row])
    found.exact("info", raw["info"][:, COLLISION_BITS:], info[:, COLLISION_BITS:])
    found.exact("ids", raw["self_observation"][:, 7], them[:, 7])
    found.exact("heights above ground", raw["absolute_self_observation"][:, 2], pose[:, 2])
    found.close("positions", step, raw["absolute_self_observation"][:, :2], pose[:, :2])
    found.close("headings", step, raw["absolute_self_observation"][:, 7], pose[:, 7], 2 * np.pi)
    found.close("speeds", step, raw["self_observation"][:, 0], them[:, 0])
    found.close("goals and sizes", step, raw["absolute_self_observation"][:, 8:], pose[:, 8:])
    found.rows("goals and sizes", step, raw["self_observation"][:, 1:6], them[:, 1:6], 3)
    return touched


def compare_step(found, golden, driver, config, row, step, alive, touched):
    """What the rows say beside observations; returns who is alive after it."""
    controlled = np.flatnonzero(golden["controlled_state"])
    reached, collided = golden["info"][row, controlled, 3], golden["self_observation"][row, controlled, 6]
    ended = (reached > 0) | ((collided > 0) & (config.collision_behavior != "ignore"))
    found.exact("masks", driver.masks, alive)
    found.exact("weighted reward", driver.rewards, golden["weighted_reward"][row, controlled] * alive, ~touched[controlled])
    found.exact("terminations", driver.terminations, alive & ended)
    found.exact("truncations", driver.truncations, alive & ~ended & (step == config.episode_len))
    return alive & ~ended


def compare_views(found, golden, env, row, step):
    """The arrays that only some rows were recorded of."""
    nearest = env.config.road_obs_algorithm == "k_nearest_roadpoints"
    for k in np.flatnonzero(golden["big_rows"] == row):
        raw = env.raw(0, [name for name in ("partner_observations", "agent_roadmap", "lidar") if name in golden])
        partners, roads = golden["partner_observations"][:, k], golden["agent_roadmap"][:, k]
        found.exact("partner ids", raw["partner_observations"][..., 8], partners[..., 8])
        found.rows("raw partners", step, raw["partner_observations"], partners, 1, 3, 2 * np.pi)
        compare_roads(found, "raw roads", step, raw["agent_roadmap"], roads, nearest, 1.0, 2 * np.pi)
        if "lidar" in golden:
            compare_lidar(found, step, raw["lidar"], golden["lidar"][:, k])
    for k in np.flatnonzero(golden.get("bev_rows", np.empty(0)) == row):
        ours, theirs = env.raw(0, ["bev_observation"])["bev_observation"][golden["bev_agents"]], golden["bev_observation"][:, k]
        found.cells[0] += int(np.count_nonzero(ours != theirs))
        found.cells[1] += theirs.size


def compare_lidar(found, step, ours, theirs):
    """Samples (agents, 3, 50, 4): what is hit exactly, where as far as rounding allows."""
    off = np.abs(ours - theirs)[..., [0, 2, 3]].max(axis=-1)
    found.exact("lidar types", ours[..., 1], theirs[..., 1])
    found.exact("lidar samples that are far off", off > GRAZED, False)
    found.beams[0] += int(np.count_nonzero(off > 1e-3))
    found.beams[1] += off.size


def compare_packed(found, step, ours, theirs, nearest):
    """Observation rows (C, 2984); normalised, where 1 is 1000 m."""
    found.rows("observations", step, ours[:, :EGO], theirs[:, :EGO], 3)
    partners = (rows[:, EGO:EGO + PARTNERS].reshape(-1, 63, 6) for rows in (ours, theirs))
    found.rows("observations", step, *partners, 1, 3, 1.0)
    roads = (rows[:, EGO + PARTNERS:].reshape(-1, 200, 13) for rows in (ours, theirs))
    compare_roads(found, "observations", step, *roads, nearest, 1e-3, 1.0)


def compare_roads(found, name, step, ours, theirs, nearest, metre, period):
    """Lists of roads (agents, 200, 9 or 13): as lists, or as sets where GPUDrive has them in heap order."""
    found.roads[1] += len(ours)
    if not nearest:
        moved = (np.abs(ours[..., :2] - theirs[..., :2]) > SAME_PLACE * metre).any(axis=-1)
        found.roads[0] += int((moved | (ours[..., 6:] != theirs[..., 6:]).any(axis=-1)).any(axis=-1).sum())
        return found.rows(name, step, ours, theirs, 0, 5, period)
    for a, b in zip(ours, theirs):
        far = [np.sort(np.hypot(rows[:, 0], rows[:, 1])) for rows in (a, b)]
        apart = np.hypot(a[:, 0, None] - b[:, 0], a[:, 1, None] - b[:, 1]) + (a[:, None, 6:] != b[None, :, 6:]).any(axis=2)
        turn = np.abs((a[:, 5, None] - b[:, 5] + period / 2) % period - period / 2)
        apart += np.maximum(turn, np.abs(a[:, 2, None] - b[:, 2]))  # segments that share a centre
        partner, lonely = apart.argmin(axis=1), apart.min(axis=1) > SAME_PLACE * metre
        # Of several that are equally far, which is nobody's choice, either side may have kept any.
        tied = np.hypot(a[:, 0], a[:, 1]) > far[0][-1] - SAME_PLACE * metre
        found.roads[0] += bool((lonely & ~tied).any() or (np.abs(far[0] - far[1]) > SAME_PLACE * metre).any())
        found.rows(name, step, a[~lonely], b[partner[~lonely]], 0, 5, period)


def compare_kernel(found, golden):
    """The packing kernel, given the recorded raw arrays."""
    controlled = np.flatnonzero(golden["controlled_state"])
    packed = np.empty((len(controlled), 2984), np.float32)
    for k, row in enumerate(golden["packed_rows"]):
        partners, roads, theirs = (np.ascontiguousarray(golden[name][:, k]) for name in ("partner_observations", "agent_roadmap", "packed_obs"))
        pack_rows(golden["self_observation"][row], partners, roads, packed, controlled)
        found.kernel[0] += int(np.count_nonzero(packed.view(np.uint32) != theirs.view(np.uint32)))
        found.kernel[1] += packed.size


# ---- how near to touching ----------------------------------------------------------------------------------------------


def gap(box, others):
    """Metres between an oriented rectangle and each of others; negative by how deep they overlap.

    box: (5,), others: (M, 5): x, y, heading, half length, half width.
    """
    boxes = np.broadcast_to(box, others.shape)
    axes = np.stack([boxes[:, 2], others[:, 2], boxes[:, 2] + np.pi / 2, others[:, 2] + np.pi / 2], axis=1)

    def half_extent(b):
        turn = axes - b[:, 2, None]
        return b[:, 3, None] * np.abs(np.cos(turn)) + b[:, 4, None] * np.abs(np.sin(turn))

    dx, dy = others[:, 0, None] - box[0], others[:, 1, None] - box[1]
    return (np.abs(dx * np.cos(axes) + dy * np.sin(axes)) - half_extent(boxes) - half_extent(others)).max(axis=1)


def nearest_gap(golden, row, slot):
    """The gap, by its absolute value, between an agent and what is nearest to touching it."""
    pose, roads = golden["absolute_self_observation"][row].astype(np.float64), golden["map_observation"].astype(np.float64)
    agents = np.column_stack([pose[:, :2], pose[:, 7], 0.35 * pose[:, 10:12]])
    roads = roads[np.isin(roads[:, 6], (1, 6))]
    others = np.concatenate([np.delete(agents, slot, 0), np.column_stack([roads[:, :2], roads[:, 5], roads[:, 2:4]])])
    return float(np.abs(gap(agents[slot], others)).min(initial=np.inf))


# ---- PufferGPUDrive ----------------------------------------------------------------------------------------------------


def compare_puffer(recording):
    """Rewards, automatic resets with the next episode's first observation, statistics of episodes."""
    golden, found = recording.load(), Findings(recording)
    driver = Driver(Drive(recording.scene_file, 1, DriveConfig(collision_behavior="ignore", **REWARD)))
    driver.reset(0)
    found.exact("controlled agents", driver.abi.num_agents, golden["controlled_agent_mask"].sum())
    if any(found.flags.values()):
        return found
    row_of = {row: k for k, row in enumerate(golden.get("observation_rows", range(golden["observations"].shape[1])))}
    compare_packed(found, 0, driver.observations, golden["observations"][:, row_of[0]], False)
    for t, told in enumerate(json.loads(str(golden["infos"]))):
        result = driver.step(golden["actions"][t])
        if t + 1 in row_of:
            compare_packed(found, t + 1, driver.observations, golden["observations"][:, row_of[t + 1]], False)
        found.exact("weighted reward", driver.rewards, golden["rewards"][t])
        found.exact("masks", driver.masks, golden["masks"][t])
        found.exact("done", driver.terminations | driver.truncations, golden["terminals"][t])
        found.exact("return code", result, INFO if told else OK)
        found.agent_steps += int(golden["masks"][t].sum())
        if told:
            (episode,), (theirs,) = driver.env.take_infos()["episodes"], told
            for ours, name in (("length", "episode_length"), ("num_agents", "total_controlled_agents")):
                found.exact(f"episode {ours}", episode[ours], theirs[name])
            for ours, name in (("mean_return", "mean_episode_reward_per_agent"), ("goal_rate", "perc_goal_achieved"),
                               ("off_road_rate", "perc_off_road"), ("collision_rate", "perc_veh_collisions")):
                found.close(f"episode {ours}", 0, episode[ours], theirs[name])
    return found
