"""GPUDrive's tensors of drive's worlds: array by array against the recordings, and as memory."""
import numpy as np
import pytest

from abi import OK, Driver
from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import find
from fastvec_c.drive.tensors import TENSORS
from recordings import actions, cases, drive

TOLERANCE = 1e-3
SHIPPED = find("shipped")
FLAGS = ("done", "info", "reward", "steps_remaining")
PARKED, RANGE = 1e4, 200.0  # farther out than this, agents stand that are out of the episode or not in it yet


def read(env, name):
    """World 0's block of a tensor."""
    return getattr(env.sim, f"{name}_tensor")().to_numpy()[0]


def assert_close(ours, theirs, what, angles=(), tolerance=TOLERANCE):
    """To a tolerance, and to a millionth beyond a kilometre; columns in `angles` modulo a turn."""
    difference = np.abs(np.asarray(ours, np.float64) - theirs)
    for column in angles:
        difference[..., column] = np.minimum(difference[..., column], np.abs(2 * np.pi - difference[..., column]))
    difference /= np.maximum(1, np.abs(theirs, dtype=np.float64) / 1e3)
    worst = np.unravel_index(difference.argmax(), difference.shape)
    assert difference[worst] <= tolerance, f"{what}: {ours[worst]} is not {theirs[worst]} at {worst}"


def assert_same_roads(ours, theirs, what):
    """Under k-nearest GPUDrive has heap order, and one of several equally far roads is any of them: compares distances."""
    far = [np.sort(np.where(rows[..., 6] > 0, np.hypot(rows[..., 0], rows[..., 1]), np.inf)) for rows in (ours, theirs)]
    assert_close(*(np.nan_to_num(f, posinf=-1) for f in far), what)
    np.testing.assert_array_equal(ours[ours[..., 6] == 0], 0)
    np.testing.assert_array_equal(np.sort((ours[..., 6] == 0).sum(-1)), np.sort((theirs[..., 6] == 0).sum(-1)))


def replay(recording):
    """Yields (row, golden, env) for each recorded row, resets included."""
    golden = recording.load()
    env = drive(recording, golden, auto_reset=False)
    driver = Driver(env)
    driver.reset(0)
    for row, stepped in enumerate(golden["snapshot_is_step"]):
        if stepped:
            assert driver.step(actions(golden, golden["snapshot_action_index"][row], env)) == OK
        elif row:
            env.reset_worlds([0])
        yield row, golden, env


def assert_constants(env, golden):
    n, roads = golden["shape"]
    for name in ("shape", "controlled_state", "response_type", "metadata", "world_means"):
        np.testing.assert_array_equal(read(env, name).reshape(golden[name].shape), golden[name], err_msg=name)
    assert_close(read(env, "map_observation")[:roads], golden["map_observation"], "map_observation")
    assert (read(env, "map_observation")[roads:] == [0, 0, 0, 0, 0, 0, 0, -1, -1]).all()
    assert_close(read(env, "expert_trajectory")[:n], golden["expert_trajectory"], "expert_trajectory")
    np.testing.assert_array_equal(read(env, "action")[:n], golden["initial_action"])
    assert_close(read(env, "absolute_self_observation")[:n], golden["absolute_self_observation_reset"], "first absolute_self_observation")
    for name in ("self_observation", "done", "info", "steps_remaining"):
        theirs = golden[f"padding_{name}"]
        np.testing.assert_array_equal(read(env, name)[n:].reshape(theirs.shape), theirs, err_msg=f"padding of {name}")


def assert_row(env, golden, row):
    n = golden["shape"][0]
    for name in FLAGS:
        np.testing.assert_array_equal(read(env, name)[:n].reshape(golden[name][row].shape), golden[name][row], err_msg=f"{name} at row {row}")
    ours, theirs = read(env, "self_observation")[:n].copy(), golden["self_observation"][row].copy()
    for array in (ours, theirs):  # a goal that is far away moves by more when a yaw is off
        array[:, 4:6] /= np.maximum(1, np.hypot(*golden["self_observation"][row][:, 4:6].T) / 100)[:, None]
    assert_close(ours, theirs, f"self_observation at row {row}")
    theirs = golden["absolute_self_observation"][row]
    assert_close(read(env, "absolute_self_observation")[:n], theirs, f"absolute_self_observation at row {row}", angles=[7])
    if golden["snapshot_is_step"][row]:
        drove = (golden["controlled_state"][:n] == 1) & (theirs[:, 0] > -PARKED)
        fed = golden["action"][golden["snapshot_action_index"][row]]
        np.testing.assert_allclose(read(env, "action")[:n][drove], fed[drove], atol=1e-6)


# `womd_tracks_to_predict` (I) is no reference; see the README of the recordings.
@pytest.mark.parametrize("recording", cases("ABCDEFGHJM"))
def test_recorded_tensors(recording):
    for row, golden, env in replay(recording):
        n, nearest = golden["shape"][0], env.config.road_obs_algorithm != "linear"
        if row == 0:
            assert_constants(env, golden)
        assert_row(env, golden, row)
        for k in np.flatnonzero(golden["big_rows"] == row):
            # Pedestrians, which are driven in G, turn so fast that their partners are off by a little more.
            assert_close(read(env, "partner_observations")[:n], golden["partner_observations"][:, k], f"partners at row {row}", [3],
                         2 * TOLERANCE if nearest else TOLERANCE)
            ours, theirs = read(env, "agent_roadmap")[:n], golden["agent_roadmap"][:, k]
            if nearest:
                assert_same_roads(ours, theirs, f"roads at row {row}")
            else:
                assert_close(ours, theirs, f"roads at row {row}", angles=[5])


@pytest.mark.parametrize("recording", cases("K"))
def test_recorded_lidar(recording):
    """What is hit: exactly.  How far: to a millimetre, but for the few beams that graze a box, to 2 cm."""
    far = []
    for row, golden, env in replay(recording):
        for k in np.flatnonzero(golden["big_rows"] == row):
            ours, theirs = read(env, "lidar")[:golden["shape"][0]], golden["lidar"][:, k]
            np.testing.assert_array_equal(ours[..., 1], theirs[..., 1], err_msg=f"types at row {row}")
            far.append(np.abs(ours - theirs)[..., [0, 2, 3]])
    far = np.concatenate(far)
    assert far.max() < 0.02
    assert (far > TOLERANCE).any(-1).mean() < 1e-3


@pytest.mark.parametrize("recording", cases("L"))
def test_recorded_birds_eye_view(recording):
    different = cells = 0
    for row, golden, env in replay(recording):
        for k in np.flatnonzero(golden["bev_rows"] == row):
            ours, theirs = read(env, "bev_observation")[golden["bev_agents"], :, :, 0], golden["bev_observation"][:, k]
            different += (ours != theirs).sum()
            cells += theirs.size
    assert different <= 1e-5 * cells  # centres within rounding of an edge


# ---- without recordings: the quick ways against plain ones -------------------------------------------------------------


def later(scene, steps=30, **config):
    """A world of a scene after some random steps, heads tilted at random."""
    env = Drive(scene, 1, DriveConfig(action_type="continuous", **config), auto_reset=False)
    driver = Driver(env)
    driver.reset(0)
    rng = np.random.default_rng(1)
    for _ in range(steps):
        driver.step(rng.uniform([-4, -0.3, -2], [4, 0.3, 2], (env.num_agents, 3)))
    return env


def slow_lidar(raw, i):
    """GPUDrive's lidar of agent i: every beam against every box."""
    agents, roads = raw["absolute_self_observation"].astype(float), raw["map_observation"].astype(float)
    x, y, yaw = agents[i, [0, 1, 7]]
    others = np.delete(np.column_stack([agents[:, :2], 0.35 * agents[:, 10:12], agents[:, 7], raw["info"][:, 4]]), i, 0)
    boxes = np.concatenate([others, roads[:, [0, 1, 2, 3, 5, 6]]])
    angle = np.pi / 3 * (2 * np.arange(50) / 50 - 1) + raw["action"][i, 2] * raw["controlled_state"][i]
    frame = np.exp(-1j * boxes[:, 4])
    origin, beam = (x + 1j * y - boxes[:, 0] - 1j * boxes[:, 1]) * frame, np.exp(1j * (yaw + angle))[:, None] * frame
    with np.errstate(divide="ignore", invalid="ignore"):  # beams along a side
        along, across = [(np.stack([-half, half])[:, None] - o) / b for half, o, b in
                         ((boxes[:, 2], origin.real, beam.real), (boxes[:, 3], origin.imag, beam.imag))]
    enters, leaves = np.maximum(along.min(0), across.min(0)), np.minimum(along.max(0), across.max(0))
    depth = np.where((enters >= 0) & (enters <= leaves) & (enters <= RANGE), enters, np.inf)
    out = np.zeros((3, 50, 4))
    for fan, kinds in enumerate([(6, 7, 8, 9), (1, 6, 7, 8, 9), (2, 3, 4, 5, 6)]):
        seen = np.where(np.isin(boxes[:, 5], kinds), depth, np.inf)
        nearest = seen.argmin(1)
        t = seen.min(1)
        t, kind = np.where(np.isfinite(t), [t, boxes[nearest, 5]], 0)
        out[fan] = np.stack([t, kind, t * np.cos(angle), t * np.sin(angle)], 1)
    return out


@pytest.mark.parametrize("scene", SHIPPED, ids=lambda path: path.split("/")[-1].split(".")[0])
def test_lidar_finds_what_a_slow_one_finds(scene):
    raw = later(scene, remove_non_vehicles=False).raw(0, ["absolute_self_observation", "map_observation", "info", "action", "controlled_state", "lidar"])
    assert raw["lidar"].any() and np.abs(raw["action"][:, 2]).max() > 1
    for i in range(len(raw["lidar"])):
        if raw["absolute_self_observation"][i, 0] < -PARKED:
            assert not raw["lidar"][i].any()
            continue
        slow = slow_lidar(raw, i)
        same = raw["lidar"][i, ..., 1] == slow[..., 1]
        assert (~same).sum() <= 1, f"agent {i}"  # rounding decides about a beam that meets a corner
        np.testing.assert_allclose(raw["lidar"][i][same], slow[same], atol=0.05)


def slow_view(raw, i, radius):
    """GPUDrive's bird's-eye view of agent i: every cell against every rectangle."""
    cell = np.float32(2 * radius / 200)
    x, y = np.meshgrid(np.arange(200) * cell - radius, np.arange(200) * cell - radius)
    roads, partners = raw["agent_roadmap"][i], raw["partner_observations"][i]
    rectangles = np.concatenate([
        np.column_stack([roads[:, [0, 1, 5, 2]], np.maximum(roads[:, 3], cell), roads[:, 6]])[roads[:, 6] > 0],
        partners[:, [1, 2, 3, 4, 5, 7]][partners[:, 7] > 0]])
    out, doubtful = np.zeros((200, 200)), np.zeros((200, 200), bool)
    for cx, cy, heading, length, width, kind in rectangles.astype(float):
        c, s = np.cos(heading), np.sin(heading)
        over = np.maximum(np.abs((x - cx) * c + (y - cy) * s) - length / 2, np.abs((y - cy) * c - (x - cx) * s) - width / 2) - 1e-3
        out[over <= 0] = kind
        doubtful |= np.abs(over) < 1e-4
    return out, doubtful


@pytest.mark.parametrize("radius", [7.0, 50.0, 300.0])
@pytest.mark.parametrize("scene", SHIPPED[:3], ids=lambda path: path.split("/")[-1].split(".")[0])
def test_view_shows_what_a_slow_one_shows(scene, radius):
    raw = later(scene, obs_radius=radius).raw(0, ["agent_roadmap", "partner_observations", "bev_observation"])
    for i in range(len(raw["bev_observation"])):
        slow, doubtful = slow_view(raw, i, radius)
        assert doubtful.mean() < 0.01
        np.testing.assert_array_equal(raw["bev_observation"][i][~doubtful], slow[~doubtful], err_msg=f"agent {i}")


def test_no_number_is_too_wild():
    """NaN and infinities, which continuous actions may bring, are seen by nobody."""
    env = Drive(SHIPPED[0], 1, DriveConfig(action_type="continuous", dynamics_model="state", collision_behavior="ignore"), auto_reset=False)
    driver = Driver(env)
    driver.reset(0)
    for value in (np.nan, np.inf, 3e38):
        driver.step(np.full((env.num_agents, 10), value, np.float32))
        raw = env.raw(0, ["lidar", "bev_observation", "controlled_state"])
        assert not raw["lidar"][raw["controlled_state"] == 1].any()
        assert raw["bev_observation"].max() <= 9


# ---- as memory ---------------------------------------------------------------------------------------------------------


def test_every_tensor_has_gpudrives_shape_and_padding():
    env = Drive(SHIPPED[2:4], 2)
    for name, (shape, dtype) in TENSORS.items():
        array = getattr(env.sim, f"{name}_tensor")().to_numpy()
        assert (array.shape, array.dtype) == ((2, *shape), dtype), name
    n, roads = read(env, "shape")
    id_is_last = dict(self_observation=7, absolute_self_observation=13, partner_observations=8)
    for name, column in id_is_last.items():
        padding = read(env, name)[n:]
        assert (padding[..., column] == -1).all() and not padding[..., :column].any(), name
    roadmap = read(env, "agent_roadmap")[n:]
    assert (roadmap[..., 7:] == -1).all() and not roadmap[..., :7].any()
    for name, value in dict(action=0, reward=0, done=1, info=0, controlled_state=0, response_type=2, expert_trajectory=0,
                            steps_remaining=0, metadata=-1, lidar=0, bev_observation=0).items():
        assert (read(env, name)[n:] == value).all() and len(read(env, name)[:n]), name


def test_a_view_keeps_its_address_and_shows_what_the_last_call_wrote():
    env = Drive(SHIPPED[2], 1)
    driver = Driver(env)
    driver.reset(0)
    held = env.sim.self_observation_tensor().to_numpy()
    before = held.copy()
    driver.step(np.full(env.num_agents, 90))
    np.testing.assert_array_equal(held, before)
    again = env.sim.self_observation_tensor()
    assert again.to_numpy() is held and not np.array_equal(held, before)
    env.set_scenes(SHIPPED[3])
    held[:] = 5
    env.sim.self_observation_tensor()
    assert held[0, 0, 7] == env.raw(0, ["self_observation"])["self_observation"][0, 7] != 5
    assert (held[0, -1] == [0] * 7 + [-1]).all()


def test_nothing_is_kept_that_nobody_asked_for():
    env = Drive(SHIPPED[2], 1)
    env.sim.done_tensor()
    assert list(env.sim._tensors) == ["done"]
    assert not {"lidar", "bev_observation"} & set(env.raw(0))


def test_numpy_and_torch_share_the_memory():
    torch = pytest.importorskip("torch")
    tensor = Drive(SHIPPED[2], 1).sim.done_tensor()  # outlives its env
    array = tensor.to_numpy()
    for other in (np.asarray(tensor), np.from_dlpack(tensor)):
        assert np.shares_memory(other, array)
    for other in (tensor.to_torch(), torch.from_dlpack(tensor)):
        assert other.data_ptr() == array.ctypes.data and tuple(other.shape) == array.shape
    assert np.array(tensor, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError):
        np.asarray(tensor, dtype=np.float32, copy=False)


def test_raw_is_the_tensors_without_padding():
    env = later(SHIPPED[2])
    raw, (n, roads) = env.raw(0, [*TENSORS]), read(env, "shape")
    for name in set(TENSORS) - {"map_name", "scenario_id", "deleted_agents"}:
        theirs = read(env, name)
        theirs = theirs[:roads] if name == "map_observation" else theirs if name in ("shape", "world_means") else theirs[:n]
        np.testing.assert_array_equal(raw[name], theirs.reshape(raw[name].shape), err_msg=name)
    assert raw["bev_observation"].shape == (n, 200, 200) and raw["done"].shape == (n,)


def test_names_and_deleted_agents():
    env = Drive(SHIPPED[2], 1)
    raw = env.raw(0)
    for name in ("map_name", "scenario_id"):
        characters = read(env, name)
        assert raw[name] and "".join(map(chr, characters[characters > 0])) == raw[name][:32]
    assert (read(env, "deleted_agents") == -1).all() and len(raw["deleted_agents"]) == 0
    ids = raw["self_observation"][[5, 3], 7].astype(int)
    env.delete_agents({0: ids.tolist()})
    np.testing.assert_array_equal(read(env, "deleted_agents")[:3], [*sorted(ids), -1])
    np.testing.assert_array_equal(env.raw(0)["deleted_agents"], sorted(ids))
    assert read(env, "shape")[0] == len(raw["self_observation"]) - 2


def test_there_is_no_world_beyond_the_last():
    with pytest.raises(IndexError, match="world is -1: expected 0 <= world < 1"):
        Drive(SHIPPED[2], 1).raw(-1)
