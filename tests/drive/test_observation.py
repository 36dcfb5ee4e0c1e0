"""Observation rows: packed, raw, with parts on and off; and the PyTorch modules that take them."""
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import fastvec
from abi import Driver
from fastvec.drive import Drive, DriveConfig, creator, observation
from fastvec.drive.observation import Layout, expand
from fastvec.drive.scenes import find
from fastvec_c.drive import scene, world
from recordings import actions, cases, drive

SHIPPED = find("shipped")
ALGORITHMS = ("linear", "k_nearest_roadpoints")
CONDITIONED = dict(reward_type="reward_conditioned")
PARTS = dict(ego="ego_state", partners="partner_obs", roads="road_map_obs", lidar="lidar_obs", bev="bev_obs")


def play(*configs, scenes=SHIPPED, steps=91, seed=0):
    """Rows of all scenes under each config, after reset and after each step; all are told the same."""
    drivers = [Driver(Drive(scenes, len(scenes), config)) for config in configs]
    rng = np.random.default_rng(seed)
    for driver in drivers:
        driver.reset(1)
    yield [driver.observations for driver in drivers]
    for _ in range(steps):
        told = rng.integers(0, 91, drivers[0].abi.num_agents)
        for driver in drivers:
            driver.step(told)
        yield [driver.observations for driver in drivers]


def packed_from(rows, near):
    """Packed rows as NumPy makes them of float32 ones."""
    roads = rows[:, near:].reshape(len(rows), 200, 13)
    halves = [rows[:, :near].astype(np.float16), roads[:, :, :6].reshape(len(rows), -1).astype(np.float16)]
    return np.concatenate([*(part.view(np.uint8) for part in halves), roads[:, :, 6:].argmax(2).astype(np.uint8)], axis=1)


def is_one_hot(rows, near):
    types = rows[:, near:].reshape(len(rows), 200, 13)[:, :, 6:]
    return ((types == 1).sum(2) == 1).all() and ((types == 0).sum(2) == 6).all()


# ---- float16 ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("portable", [False, True])
def test_halves_are_rounded_as_numpy_rounds_them(portable):
    """All float16, the midpoints between them, the floats next to those, and many others, of either sign."""
    halves = np.arange(0x7c00, dtype=np.uint16).view(np.float16).astype(np.float32)
    midpoints = np.append((halves[:-1] + halves[1:]) / 2, np.float32(65520))
    near = [np.nextafter(midpoints, np.float32(to)) for to in (0, np.inf)]
    many = np.random.default_rng(0).integers(0, 0x7f800001, 1 << 20).astype(np.uint32).view(np.float32)
    values = np.concatenate([halves, midpoints, *near, many, np.float32([np.inf, 1e-45, 3e38])])
    values = np.concatenate([values, -values])
    values = np.resize(values, -(-len(values) // 8) * 8)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(scene.halves(values, portable).view(np.uint16), expected.view(np.uint16))


def test_nan_becomes_the_same_half_on_all_processors():
    payloads = np.arange(0x7f800001, 0x80000000, 0xfff, dtype=np.uint32)
    payloads = np.resize(np.concatenate([payloads, payloads | 0x80000000]), 8192).view(np.float32)
    halves = scene.halves(payloads, False)
    assert np.isnan(halves).all()
    np.testing.assert_array_equal(halves.view(np.uint16), scene.halves(payloads, True).view(np.uint16))


# ---- packed rows -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("extra, near, nbytes", [({}, 384, 3368), (CONDITIONED, 387, 3374), (dict(obs_radius=200.0), 384, 3368)])
def test_packed_rows_are_the_float32_ones_rounded(algorithm, extra, near, nbytes):
    config = dict(road_obs_algorithm=algorithm, collision_behavior="ignore", **extra)
    seen = set()
    for rows, packed in play(DriveConfig(**config), DriveConfig(**config, observation="packed")):
        assert packed.shape == (len(rows), nbytes) and packed.dtype == np.uint8
        assert is_one_hot(rows, near)
        np.testing.assert_array_equal(packed, packed_from(rows, near))
        seen |= set(np.unique(packed[:, -200:]))
    assert seen >= {0, 1, 2, 3}  # nothing, edges, lines, lanes


def test_packed_rows_of_who_is_away():
    """Rows are overwritten whole, also with nothing."""
    for rows, packed in play(DriveConfig(), DriveConfig(observation="packed")):
        np.testing.assert_array_equal(packed, packed_from(rows, 384))
    assert (packed[:, -200:] == 0).all(axis=1).any()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("extra", [{}, dict(norm_obs=False), dict(observation="packed")])
def test_all_processors_write_the_same_bits(algorithm, extra):
    config = DriveConfig(road_obs_algorithm=algorithm, **extra)
    known = [rows.copy() for (rows,) in play(config, steps=40)]
    world.use_portable_rows(True)
    try:
        for expected, (rows,) in zip(known, play(config, steps=40), strict=True):
            np.testing.assert_array_equal(rows.view(np.uint8), expected.view(np.uint8))
    finally:
        world.use_portable_rows(False)


@pytest.mark.parametrize("workers", [0, 2])
def test_packed_rows_through_fastvec(workers):
    envs = [fastvec.make(creator(worlds=3, observation=kind), workers, num_envs=2) for kind in ("float32", "packed")]
    try:
        told = np.random.default_rng(0)
        both = [env.reset(seed=1)[0] for env in envs]
        for _ in range(5):
            rows, packed = both
            assert packed.dtype == np.uint8 and packed.shape == (envs[1].num_rows, 3368)
            np.testing.assert_array_equal(packed, packed_from(rows, 384))
            choice = told.integers(0, 91, envs[0].num_rows)
            both = [env.step(choice)[0] for env in envs]
    finally:
        for env in envs:
            env.close()


# ---- raw rows, and parts ---------------------------------------------------------------------------------------------

def unnormalised(rows):
    rows = rows.astype(np.float64)
    ego, partners, roads = rows[:, :6].copy(), rows[:, 6:384].reshape(-1, 63, 6).copy(), rows[:, 384:].reshape(-1, 200, 13).copy()
    there = (partners != 0).any(2)[..., None], (roads[:, :, 6:7] == 0)
    ego[:, :5] *= (100, 30, 15, 1000, 1000)
    partners *= np.where(there[0], (100, 1000, 1000, 2 * np.pi, 30, 15), 0)
    roads[:, :, :6] *= np.where(there[1], (1000, 1000, 100, 100, 100, 2 * np.pi), 0)
    return np.concatenate([ego, partners.reshape(len(rows), -1), roads.reshape(len(rows), -1)], axis=1)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_raw_rows_are_the_normalised_ones_scaled(algorithm):
    config = dict(road_obs_algorithm=algorithm)
    for rows, raw in play(DriveConfig(**config), DriveConfig(**config, norm_obs=False)):
        np.testing.assert_allclose(raw, unnormalised(rows), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("recording", cases("AC"))
def test_raw_rows_are_what_gpudrive_exports(recording):
    golden = recording.load()
    env = drive(recording, golden)
    driver = Driver(Drive(recording.scene_file, 1, replace(env.config, norm_obs=False), auto_reset=False))
    driver.reset()
    controlled = np.flatnonzero(golden["controlled_state"])
    for step in range(max(golden["big_rows"]) + 1):
        if step:
            driver.step(actions(golden, step - 1, env))
        for k in np.flatnonzero(golden["big_rows"] == step):
            assert_raw(driver.observations, golden["self_observation"][step, controlled], golden["partner_observations"][controlled, k],
                       golden["agent_roadmap"][controlled, k])


def assert_raw(rows, ego, partners, roads):
    """GPUDrive's columns: agents' length and width are of full size there."""
    n = len(rows)
    scale = np.array([1, 1, 1, 1, 0.7, 0.7])
    expected = ego[:, [0, 1, 2, 4, 5, 6]] * [1, 0.7, 0.7, 1, 1, 1]
    # Those who are away are 15 km from their goals, where floats are 1 mm apart.
    assert (np.abs(rows[:, :6] - expected) <= 2e-3 + 2e-6 * np.hypot(ego[:, 4:5], ego[:, 5:6])).all()
    turns = lambda a, b: np.abs((a - b + np.pi) % (2 * np.pi) - np.pi).max()
    ours, theirs = rows[:, 6:384].reshape(n, 63, 6), partners[:, :, :6] * scale
    assert turns(ours[:, :, 3], theirs[:, :, 3]) < 2e-3
    np.testing.assert_allclose(ours[:, :, [0, 1, 2, 4, 5]], theirs[:, :, [0, 1, 2, 4, 5]], atol=2e-3)
    ours = rows[:, 384:].reshape(n, 200, 13)
    assert turns(ours[:, :, 5], roads[:, :, 5]) < 2e-3
    np.testing.assert_allclose(ours[:, :, :5], roads[:, :, :5], atol=2e-3)
    np.testing.assert_array_equal(ours[:, :, 6:], roads[:, :, 6:7] == np.arange(7))


@pytest.mark.parametrize("parts", [("ego",), ("partners",), ("roads",), ("lidar",), ("bev",), ("partners", "lidar"), ("ego", "roads", "lidar", "bev"),
                                   tuple(PARTS)])
def test_parts_are_where_the_layout_says(parts):
    """Each part of a row is what the row of all parts has."""
    chosen = DriveConfig(**{field: name in parts for name, field in PARTS.items()})
    everything = DriveConfig(lidar_obs=True, bev_obs=True)
    layout, full = Layout(chosen), Layout(everything)
    assert list(layout.parts) == list(parts) and list(full.parts) == list(PARTS)
    for rows, all_rows in play(chosen, everything, steps=3):
        assert rows.shape[1] == layout.size and all_rows.shape[1] == full.size == 2984 + 600 + 40_000
        for name in parts:
            np.testing.assert_array_equal(rows[:, layout.parts[name][0]], all_rows[:, full.parts[name][0]])


def test_lidar_and_bird_s_eye_view_are_those_of_the_tensors():
    env = Drive(SHIPPED[1], 1, DriveConfig(lidar_obs=True, bev_obs=True))
    driver, layout = Driver(env), Layout(env.config)
    driver.reset(0)
    for step in range(3):
        driver.step(np.full(driver.abi.num_agents, 40 + step))
    raw = env.raw(0, ["lidar", "bev_observation", "controlled_state"])
    controlled = np.flatnonzero(np.ravel(raw["controlled_state"]))
    for name, tensor in (("lidar", "lidar"), ("bev", "bev_observation")):
        place, shape = layout.parts[name]
        expected = raw[tensor][controlled].reshape(-1, *shape)
        np.testing.assert_array_equal(driver.observations[:, place].reshape(-1, *shape), expected)
        assert expected.any()


def test_layout_of_packed_rows():
    layout = Layout(DriveConfig(observation="packed", **CONDITIONED))
    assert layout.size == 3374
    assert layout.parts == dict(ego=(slice(0, 9), (9,)), partners=(slice(9, 387), (63, 6)), roads=(slice(387, 1587), (200, 6)),
                                types=(slice(3174, 3374), (200,)))


# ---- for networks ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module", params=[{}, CONDITIONED], ids=["plain", "conditioned"])
def both_kinds(request):
    """(float32 rows, packed rows) in the middle of an episode, and of padding."""
    config = dict(collision_behavior="ignore", **request.param)
    for rows, packed in play(DriveConfig(**config), DriveConfig(**config, observation="packed"), steps=20):
        pass
    return rows.copy(), packed.copy()


def test_expand_gives_float32_rows(both_kinds):
    rows, packed = both_kinds
    expanded = expand(packed)
    assert expanded.dtype == np.float32
    np.testing.assert_array_equal(expanded, rows.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(expand(packed.reshape(1, -1, 7, packed.shape[1])[:, ::2]),
                                  expanded.reshape(1, -1, 7, rows.shape[1])[:, ::2])


@pytest.mark.parametrize("wrong", [np.zeros((2, 3367), np.uint8), np.zeros((2, 2984), np.float32), np.zeros((2, 3368), np.int8)])
def test_what_is_not_packed_is_refused(wrong):
    with pytest.raises(ValueError, match="expected packed rows"):
        expand(wrong)


def test_modules_expand_as_numpy_does(both_kinds):
    torch = pytest.importorskip("torch")
    packed = torch.from_numpy(both_kinds[1])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        out = observation.Expand(dtype)(packed)
        assert out.dtype == dtype
        assert torch.equal(out, torch.from_numpy(expand(both_kinds[1])).to(dtype))
    odd = torch.zeros(len(packed), packed.shape[1] + 1, dtype=torch.uint8)[:, 1:].copy_(packed)  # neither aligned nor dense
    assert torch.equal(observation.Expand()(odd), observation.Expand()(packed))
    with pytest.raises(ValueError, match="expected packed rows"):
        observation.Expand()(packed.int())


def test_late_fusion_of_packed_rows_is_that_of_float32_rows(both_kinds):
    torch = pytest.importorskip("torch")
    rows, packed = (torch.from_numpy(kind) for kind in both_kinds)
    torch.manual_seed(0)
    network = observation.LateFusion(output=10, conditioned=rows.shape[1] == 2987).eval()
    with torch.no_grad():
        of_rows, of_packed, of_expanded = network(rows), network(packed), network(observation.Expand()(packed))
    assert of_rows.shape == (len(rows), 10)
    assert of_rows.std(0).min() > 1e-3  # rows differ, so that agreement says something
    torch.testing.assert_close(of_packed, of_expanded)
    torch.testing.assert_close(of_packed, of_rows, rtol=1e-2, atol=2e-3)
    with torch.no_grad():
        assert torch.equal(network(packed.reshape(1, *packed.shape))[0], of_packed)
    with pytest.raises(ValueError, match="rows is"):
        network(rows[:, :-1])


def test_late_fusion_learns_the_same_from_both(both_kinds):
    """Gradients reach every parameter, the types' embedding included, and agree."""
    torch = pytest.importorskip("torch")
    rows, packed = (torch.from_numpy(kind) for kind in both_kinds)
    torch.manual_seed(0)
    network = observation.LateFusion(conditioned=rows.shape[1] == 2987)
    gradients = []
    for given in (observation.Expand()(packed), packed):
        network.zero_grad()
        network(given).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    for a, b in zip(*gradients):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b)


def test_without_torch_the_rest_works():
    code = ("import sys; sys.modules['torch'] = None; import numpy as np\n"
            "import fastvec.drive.observation as o; print(o.expand(np.zeros((1, 3368), np.uint8)).shape, o.Layout().size)\n"
            "try: o.Expand\nexcept ImportError as e: print(e)")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[0] == "(1, 2984) 2984" and "needs PyTorch" in out
    code = "import sys, fastvec.drive; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
