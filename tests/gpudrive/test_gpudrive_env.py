"""GPUDrive envs over a simulator that is made of drive worlds: they must do what a Drive env does, by every path."""
import numpy as np
import pytest

import fastvec
from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import SHIPPED
from fastvec.gpudrive import GPUDrive, creator

SCENES = sorted(SHIPPED.glob("*.json.gz"))
FEW = [s for s in SCENES if "junction" in s.name or "parking" in s.name]  # all types of agents, parked cars
STEPS = 130  # more than an episode

CONFIGS = {
    "defaults": {},
    "ignore": dict(collision_behavior="ignore"),
    "stop": dict(collision_behavior="stop", init_mode="all_valid"),
    "remove": dict(init_mode="all_objects", remove_non_vehicles=False),
    "bicycle": dict(dynamics_model="bicycle", action_type="continuous"),
    "delta_local": dict(dynamics_model="delta_local"),
    "state": dict(dynamics_model="state", action_type="continuous", collision_behavior="ignore"),
    "nearest roads": dict(road_obs_algorithm="k_nearest_roadpoints", obs_radius=30.0),
    "few, thin": dict(max_controlled_agents=3, polyline_reduction_threshold=0.0, remove_non_vehicles=False),
    "tracks to predict": dict(init_mode="womd_tracks_to_predict"),
    "not normalised": dict(norm_obs=False),
    "no partners": dict(partner_obs=False),
    "no roads": dict(road_map_obs=False),
    "ego only": dict(road_map_obs=False, partner_obs=False),
    "no ego": dict(ego_state=False),
    "lidar": dict(lidar_obs=True),
    "lidar only": dict(lidar_obs=True, disable_classic_obs=True),
    "sparse": dict(reward_type="sparse_on_goal_achieved", dist_to_goal_threshold=8.0),
    "weighted": dict(reward_type="weighted_combination", collision_weight=-0.5, off_road_weight=-0.25, dist_to_goal_threshold=8.0),
    "logs": dict(reward_type="distance_to_logs", collision_weight=-0.5),
    "conditioned": dict(reward_type="reward_conditioned"),
    "preset": dict(reward_type="reward_conditioned", condition_mode="preset", agent_type="cautious"),
    "replayed": dict(init_steps=7),
    "replayed by state": dict(init_steps=5, dynamics_model="state", action_type="continuous"),
    "replayed by delta": dict(init_steps=5, dynamics_model="delta_local"),
    "short": dict(episode_len=20),
}


def random_actions(rng, vec, config):
    if config.action_type == "discrete":
        return rng.integers(0, len(config.action_grid()), vec.num_rows)
    return rng.uniform(-1, 1, (vec.num_rows, *vec.action_spec.shape)).astype(np.float32)


def told(infos):
    return [{**e, "goal_rate": np.float32(e["goal_rate"])} for info in infos.values() for e in info["episodes"]]


def assert_equal(ours, theirs, step):
    for name, a, b in zip(("observations", "rewards", "terminations", "truncations"), ours, theirs):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6, err_msg=f"{name} of step {step}")


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "classical"])
@pytest.mark.parametrize("said", CONFIGS.values(), ids=CONFIGS.keys())
def test_as_drive(double, said, fast):
    """Observations, rewards, flags, masks and statistics, over several episodes."""
    config = DriveConfig(**said)
    worlds = 1 if config.init_steps else len(FEW)
    gpudrive = creator(FEW[:worlds], worlds, config, fast_observations=fast)
    with fastvec.make(gpudrive, 0) as vec, fastvec.make(lambda: Drive(FEW[:worlds], worlds, config, rows_per_world=vec.num_rows // worlds), 0) as drive:
        first = [v.reset(seed=3)[0] for v in (vec, drive)]
        assert_equal(first[:1], first[1:], 0)
        assert vec.masks.tolist() == drive.masks.tolist()
        rng, episodes = np.random.default_rng(1), 0
        for step in range(1, STEPS + 1):
            actions = random_actions(rng, vec, config)
            ours, theirs = vec.step(actions), drive.step(actions)
            assert_equal(ours, theirs, step)
            assert vec.masks.tolist() == drive.masks.tolist()
            for a, b in zip(*map(told, (ours[4], theirs[4])), strict=True):
                assert a == {k: pytest.approx(v, abs=1e-5) if isinstance(v, float) else v for k, v in b.items()}
                episodes += 1
        assert episodes >= worlds


def test_packed_rows(double):
    config = DriveConfig(observation="packed")
    with fastvec.make(creator(FEW, 2, config), 0) as vec, fastvec.make(lambda: Drive(FEW, 2, config, rows_per_world=vec.num_rows // 2), 0) as drive:
        assert vec.reset(seed=3)[0].tobytes() == drive.reset(seed=3)[0].tobytes()
        rng = np.random.default_rng(1)
        for _ in range(STEPS):
            actions = random_actions(rng, vec, config)
            assert vec.step(actions)[0].tobytes() == drive.step(actions)[0].tobytes()


def test_birds_eye_view(double):
    config = DriveConfig(bev_obs=True, partner_obs=False, road_map_obs=False, max_controlled_agents=2)
    with fastvec.make(creator(FEW[:1], 1, config, fast_observations=False), 0) as vec, fastvec.make(lambda: Drive(FEW[:1], 1, config), 0) as drive:
        assert np.array_equal(vec.reset()[0], drive.reset()[0]) and vec.observations.any()


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_dense_rows_follow_each_other(double):
    """The same agents, without gaps, the rest at the end."""
    few = FEW[::-1]  # the larger one behind the smaller one
    with fastvec.make(creator(few, 2), 0) as fixed, fastvec.make(creator(few, 2, dense=True), 0) as dense:
        observations = fixed.reset(seed=1)[0][fixed.masks], dense.reset(seed=1)[0][dense.masks]
        n = int(fixed.masks.sum())
        assert np.array_equal(*observations)
        assert dense.masks[:n].all() and not dense.masks[n:].any() and not fixed.masks[:n].all()
        rng = np.random.default_rng(0)
        used = np.flatnonzero(fixed.masks)
        for _ in range(STEPS):
            actions = rng.integers(0, 91, n)
            spread, packed = np.zeros(fixed.num_rows, int), np.zeros(dense.num_rows, int)
            spread[used], packed[:n] = actions, actions
            a, b = fixed.step(spread), dense.step(packed)
            assert all(np.array_equal(x[used], y[:n]) for x, y in zip(a[:4], b[:4]))
            assert np.array_equal(fixed.masks[used], dense.masks[:n]) and not b[0][n:].any()


def test_rows_per_world_can_be_given_and_must_suffice(double):
    with fastvec.make(creator(FEW[:1], 2, rows_per_world=40), 0) as vec:
        vec.reset()
        assert vec.num_rows == 80 and vec.masks[:40].sum() == vec.masks[40:].sum() > 0
        assert not vec.observations[~vec.masks].any()
    with pytest.raises(fastvec.WorkerError, match=r"junction.*controlled agents, but 3 rows: give rows_per_world="):
        fastvec.make(creator(FEW[:1], 2, rows_per_world=3), 0)
    with pytest.raises(fastvec.WorkerError, match=r"all worlds together: \d+ controlled agents, but 6 rows"):
        fastvec.make(creator(FEW[:1], 2, rows_per_world=3, dense=True), 0)


# ---- episodes --------------------------------------------------------------------------------------------------------


def played(env, steps=STEPS, seed=0):
    """(steps at which worlds ended, masks of every step), with one random action for all."""
    rng, ends, masks = np.random.default_rng(seed), [], []
    env.reset(seed=0)
    for step in range(1, steps + 1):
        infos = env.step(rng.integers(0, 91, env.num_rows))[4]
        ends += [(step, e["world"]) for e in infos.get(0, {}).get("episodes", ())]
        masks.append(env.masks.copy())
    return ends, np.array(masks)


@pytest.fixture
def simulators(double, monkeypatch):
    """All that were built since."""
    built = []
    monkeypatch.setattr(double.SimManager, "__init__", lambda self, *args, _init=double.SimManager.__init__, **kwargs: (_init(self, *args, **kwargs), built.append(self))[0])
    return built


def test_staggered_worlds_begin_anew_on_their_own_and_together_where_they_end_together(simulators):
    with fastvec.make(creator([*FEW, FEW[0]], 3), 0) as vec:
        ends, _ = played(vec)
        by_step = {}
        for step, world in ends:
            by_step.setdefault(step, []).append(world)
        assert {0, 1, 2} == {world for _, world in ends} and len(by_step) > 1
        assert simulators[0].resets == [[0, 1, 2], *by_step.values()], "one call for all that end in the same step"


def test_synchronised_worlds_wait_for_each_other(simulators):
    with fastvec.make(creator(FEW, 2, episodes="synchronised"), 0) as vec:
        ends, masks = played(vec)
        rounds = sorted({step for step, _ in ends})
        assert [world for _, world in ends] == [0, 1] * len(rounds) and rounds
        assert simulators[0].resets == [[0, 1]] * (1 + len(rounds))
        half = vec.num_rows // 2
        waiting = ~masks[:rounds[0], :half].any(1) | ~masks[:rounds[0], half:].any(1)
        assert waiting.any(), "the world that is done first is masked until the other one is"


def test_unknown_episodes_and_impossible_settings():
    for said, message in ((dict(episodes="sometimes"), "episodes is 'sometimes': allowed: 'staggered', 'synchronised'"),
                          (dict(init_steps=3), "init_steps is 3: .*give episodes='synchronised' or worlds=1"),
                          (dict(bev_obs=True), "bev_obs is True: .*fast_observations=False"),
                          (dict(observation="packed", fast_observations=False), "observation is 'packed': .*fast_observations=True"),
                          (dict(resample_every=-1), "resample_every is -1: expected a whole number of at least 0"),
                          (dict(worlds=0), "worlds is 0: expected a whole number of at least 1"),
                          (dict(rows_per_world=0), "rows_per_world is 0: expected a whole number of at least 1")):
        with pytest.raises(ValueError, match=message):
            creator(FEW, **{"worlds": 2, **said})


def test_actions_out_of_range_name_the_row(double):
    with fastvec.make(creator(FEW[:1], 1), 0) as vec:
        vec.reset()
        with pytest.raises(ValueError, match=r"actions\[2\] = 91 is out of range"):
            vec.step(np.where(np.arange(vec.num_rows) == 2, 91, 0))
        vec.step(np.zeros(vec.num_rows, int))  # nothing has happened
    with fastvec.make(creator(FEW[:1], 1, action_type="continuous", debug=True), 0) as vec:
        vec.reset()
        actions = np.zeros((vec.num_rows, 3), np.float32)
        actions[1, 2] = np.nan
        with pytest.raises(fastvec.WorkerError, match=r"actions\[1\]\[2\] is nan: expected a finite number"):
            vec.step(actions)


# ---- scenes ----------------------------------------------------------------------------------------------------------


def names(infos):
    return [e["scene"].rsplit("/")[-1] for e in infos[0]["episodes"]]


def test_scenes_are_shared_out_over_workers_as_by_drive(double):
    for seed in (None, 5):
        theirs = [fastvec.drive.creator(SCENES, 2, seed=seed)(i, 3).raw(w)["map_name"] for i in range(3) for w in range(2)]
        ours = [str(f).rsplit("/")[-1] for i in range(3) for f in creator(SCENES, 2, seed=seed)(i, 3).hosted()]
        assert len(set(ours)) == 6 and ours == [f"{name}.json.gz" for name in theirs]


def test_resampling_on_a_schedule(simulators):
    """After two episodes of each world all take the next scenes of their share; who still drives is truncated."""
    with fastvec.make(creator(SCENES[:4], 2, resample_every=2), 0) as vec:
        env, hosted = simulators[0], [list(map(str, simulators[0].scenes))]
        vec.reset(seed=0)
        rng, episodes, truncated = np.random.default_rng(0), [0, 0], 0
        for _ in range(600):
            before = vec.masks.copy()
            _, _, terminations, truncations, infos = vec.step(rng.integers(0, 91, vec.num_rows))
            for e in infos.get(0, {}).get("episodes", ()):
                episodes[e["world"]] += 1
            if list(map(str, env.scenes)) != hosted[-1]:
                assert min(episodes) >= 2
                truncated += truncations.sum()
                assert (terminations | truncations)[before & vec.masks].all() or not before.any()
                hosted.append(list(map(str, env.scenes)))
                episodes = [0, 0]
        assert hosted[0] == list(map(str, SCENES[:2])) and hosted[1] == list(map(str, SCENES[2:4])) and hosted[2] == hosted[0]
        assert truncated


@pytest.mark.parametrize("dense", [False, True])
def test_resampling_on_request(simulators, dense):
    with fastvec.make(creator(SCENES[:4], 2, resample_every=1000, dense=dense), 0) as vec:
        vec.reset(seed=0)
        (first,) = vec.call("resample")
        assert list(map(str, simulators[0].scenes)) == list(map(str, SCENES[2:4]))
        with fastvec.make(creator(SCENES[2:4], 2, rows_per_world=vec.num_rows // 2, dense=dense), 0) as fresh:
            assert np.array_equal(fresh.reset()[0], first)
            assert np.array_equal(fresh.step(np.ones(vec.num_rows, int))[0], vec.step(np.ones(vec.num_rows, int))[0])
            assert np.array_equal(fresh.masks, vec.masks)


def test_other_scenes(simulators):
    with fastvec.make(creator(FEW[:1], 2), 0) as vec:
        vec.reset(seed=0)
        small = [s for s in SCENES if "two_lane" in s.name]
        vec.call("set_scenes", small * 2)
        vec.step(np.zeros(vec.num_rows, int))
        assert list(map(str, simulators[0].scenes)) == list(map(str, small * 2))
        assert played(vec)[0]
    with fastvec.make(creator(SCENES[0], 2), 0) as vec, pytest.raises(fastvec.WorkerError, match="scenes has 3 files: expected one for each of the 2 worlds"):
        vec.reset()
        vec.call("set_scenes", SCENES[:3])


def test_scenes_with_too_many_agents_leave_everything_as_it_was(double):
    env = GPUDrive([s for s in SCENES if "two_lane" in s.name], 1)
    before = env.hosted()
    with pytest.raises(ValueError, match="grid.*controlled agents, but .* rows: give rows_per_world="):
        env.set_scenes([s for s in SCENES if "grid" in s.name])
    assert env.hosted() == before == env.sim.scenes
    with fastvec.make(lambda: env, 0) as vec:
        assert played(vec)[0]


def test_sampling_with_replacement_is_seeded(double):
    def hosted(seed):
        env = creator(SCENES, 4, sample_with_replacement=True, resample_every=1, seed=seed)(0, 1)
        first = env.hosted()
        env.resample()
        return first, env.hosted()

    assert hosted(1) == hosted(1) != hosted(2)


# ---- PufferGPUDrive's flags ------------------------------------------------------------------------------------------


def test_puffer_flags(double):
    """Terminated: done, for whatever reason; "truncated": done nothing of note in this episode, whether it goes on or not."""
    said = dict(collision_behavior="ignore", dist_to_goal_threshold=8.0)
    with fastvec.make(creator(FEW, 2, **said), 0) as ours, fastvec.make(creator(FEW, 2, **said, puffer_flags=True), 0) as puffers:
        ours.reset(seed=0), puffers.reset(seed=0)
        rng, noted, seen = np.random.default_rng(0), np.zeros(ours.num_rows, bool), 0
        for _ in range(91):
            actions = rng.integers(0, 91, ours.num_rows)
            a, b = ours.step(actions), puffers.step(actions)
            assert np.array_equal(b[2], a[2] | a[3]) and np.array_equal(a[1], b[1]) and np.array_equal(ours.masks, puffers.masks)
            noted |= a[2]
            assert not b[3][noted].any() and b[3][puffers.masks].any() | noted.all()
            seen += int(b[3].sum())
        assert seen and noted.any()
