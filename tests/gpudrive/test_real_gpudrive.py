"""The adapter around the real simulator; runs wherever `madrona_gpudrive` and the package `gpudrive` import."""
import gzip
import importlib
import os
import signal
import time

import numpy as np
import pytest

import fastvec
import recordings
from fastvec.drive import Drive, DriveConfig
from fastvec.drive.scenes import SHIPPED
from fastvec.gpudrive import GPUDrive, creator


def _missing():
    for name in ("madrona_gpudrive", "gpudrive.env.env_torch"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            return f"the real GPUDrive is not installed: {error}"


REASON = _missing()
pytestmark = [pytest.mark.real_gpudrive, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
LIMIT = 1e-4
EGO_AND_PARTNERS = 6 + 63 * 6
AT_THE_RADIUS = 1e-4  # share of fast rows in which a road segment is so near to the radius that rounding decides: GPUDrive's compiler may fuse


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Files that GPUDrive can read: those of ours, unpacked, and the recorded ones where they are."""
    folder = tmp_path_factory.mktemp("scenes")
    for file in sorted(SHIPPED.glob("*.json.gz")):
        (folder / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    return [str(f) for f in sorted(folder.glob("*.json"))] + [str(f) for f in sorted(recordings.DATA.glob("gpudrive/scenes/*.json"))]


class Loader:
    """What GPUDriveTorchEnv takes for its scenes."""

    def __init__(self, files):
        self.dataset, self.batch_size = files, len(files)

    def __iter__(self):
        while True:
            yield self.dataset


def torch_env(files, max_controlled=64, action_type="discrete", **said):
    from gpudrive.env.config import EnvConfig
    from gpudrive.env.env_torch import GPUDriveTorchEnv

    said = {"collision_behavior": "ignore", "reward_type": "weighted_combination", **said}
    return GPUDriveTorchEnv(config=EnvConfig(**said), data_loader=Loader(files), max_cont_agents=max_controlled, device="cpu", action_type=action_type)


def rows_on(env, fast):
    """A GPUDrive env on the simulator of a GPUDriveTorchEnv, and room for its rows."""
    rows = GPUDrive(config=DriveConfig(collision_behavior="ignore", dynamics_model=env.config.dynamics_model,
                                       road_obs_algorithm=env.config.road_obs_algorithm, norm_obs=env.config.norm_obs),
                    worlds=len(env.data_batch), sim=env.sim, files=env.data_batch, fast_observations=fast)
    return rows, np.zeros((rows.num_agents, *rows.observation_space.shape), np.float32)


@pytest.mark.parametrize("said", [{}, dict(norm_obs=False), dict(dynamics_model="bicycle"), dict(collision_behavior="remove")], ids=str)
def test_rows_are_get_obs_on_all_scenes_over_an_episode(scenes, said):
    env = torch_env(scenes, **said)
    mask = env.cont_agent_mask
    env.reset(mask)
    both = {fast: rows_on(env, fast) for fast in (False, True)}
    generator, rows_seen, shifted = np.random.default_rng(0), 0, 0
    for step in range(92):
        theirs = env.get_obs(mask).numpy()
        for fast, (rows, out) in both.items():
            rows.kernels.observe(out)
            ours = out[_in_use(rows)]
            assert ours.shape == theirs.shape == (int(mask.sum()), 2984)
            error = np.abs(ours.astype(np.float64) - theirs) / np.maximum(1, np.abs(theirs))
            if fast:
                assert error[:, :EGO_AND_PARTNERS].max() <= LIMIT, step
                rows_seen, shifted = rows_seen + len(ours), shifted + int((error > LIMIT).any(1).sum())
            else:
                assert np.array_equal(ours, theirs), step
        if step < 91:
            actions = np.full(tuple(mask.shape), 0)
            actions[mask.numpy()] = generator.integers(0, 91, theirs.shape[0])
            env.step_dynamics(_torch(actions))
    assert shifted <= AT_THE_RADIUS * rows_seen


def _in_use(rows):
    used = np.zeros(rows.num_agents, bool)
    rows.kernels.begin(range(rows.num_worlds), used)
    counts = (rows.kernels.arrays["controlled_state"].reshape(rows.num_worlds, 64) == 1).sum(1)
    per_world = rows.num_agents // rows.num_worlds
    return np.concatenate([w * per_world + np.arange(n) for w, n in enumerate(counts)])


def _torch(array):
    import torch

    return torch.from_numpy(array)


@pytest.mark.parametrize("said", [{}, dict(collision_behavior="ignore", reward_type="weighted_combination", collision_weight=-0.5, off_road_weight=-0.5),
                                  dict(dynamics_model="delta_local", collision_behavior="stop"), dict(init_mode="all_objects", road_obs_algorithm="k_nearest_roadpoints")],
                         ids=str)
def test_gpudrive_and_drive_are_interchangeable(scenes, said):
    """The same configuration, scenes and actions: the same flags, masks, rewards and statistics, nearly the same floats."""
    config = DriveConfig(**said)
    with fastvec.make(creator(scenes, len(scenes), config), 1) as vec:
        with fastvec.make(lambda: Drive(scenes, len(scenes), config, rows_per_world=vec.num_rows // len(scenes)), 0) as drive:
            vec.reset(seed=0), drive.reset(seed=0)
            rng = np.random.default_rng(0)
            for step in range(91):
                actions = rng.integers(0, len(config.action_grid()), vec.num_rows)
                ours, theirs = vec.step(actions), drive.step(actions)
                for a, b in zip(ours[1:4], theirs[1:4]):
                    assert np.array_equal(a, b), step
                assert np.array_equal(vec.masks, drive.masks)
                assert [(e["world"], e["length"], e["num_agents"]) for i in ours[4].values() for e in i["episodes"]] == \
                    [(e["world"], e["length"], e["num_agents"]) for i in theirs[4].values() for e in i["episodes"]]
                if config.road_obs_algorithm == "linear":
                    assert np.abs(ours[0] - theirs[0]).max() <= 1e-3


def test_objects_of_gpudrive_as_they_are(scenes):
    files = scenes[:2]
    with fastvec.make(lambda: torch_env(files), 1) as vec, fastvec.make(
            creator(files, 2, collision_behavior="ignore", reward_type="weighted_combination", collision_weight=-0.5, off_road_weight=-0.5,
                    fast_observations=False), 1) as ours:
        assert np.array_equal(vec.reset(seed=0)[0], ours.reset(seed=0)[0])
        for t in range(100):
            actions = np.arange(vec.num_rows) * t % 91
            assert all(np.array_equal(a, b) for a, b in zip(vec.step(actions)[:4], ours.step(actions)[:4]))


def test_a_puffer_env_as_it_is(scenes, tmp_path, monkeypatch):
    pytest.importorskip("gpudrive.env.env_puffer", reason="PufferGPUDrive does not import")

    def build():
        from gpudrive.env.env_puffer import PufferGPUDrive

        os.makedirs(tmp_path / "gpudrive", exist_ok=True)
        os.chdir(tmp_path / "gpudrive")  # it goes to ../gpudrive
        return PufferGPUDrive(data_loader=Loader(scenes[:2]), num_worlds=2, device="cpu")

    with fastvec.make(build, 1) as vec:
        vec.reset()
        for t in range(100):
            _, rewards, _, _, infos = vec.step(np.arange(vec.num_rows) * t % 91)
            if infos:
                break
        assert infos[0]["episodes"]


def test_set_maps_in_a_run(scenes):
    with fastvec.make(creator(scenes[:4], 2, resample_every=1), 1, seed=0) as vec:
        vec.reset()
        hosted = set()
        for t in range(300):
            for e in vec.step(np.arange(vec.num_rows) * t % 91)[4].get(0, {}).get("episodes", ()):
                hosted.add(e["scene"])
        assert hosted == set(scenes[:4])
        vec.call("resample")
        vec.step(np.zeros(vec.num_rows, int))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_an_error_at_once(scenes, number):
    with fastvec.make(creator(scenes[:2], 1), 2) as vec:
        vec.reset()
        vec.step(np.zeros(vec.num_rows, int))
        os.kill(vec._workers[1].process.pid, number)
        with pytest.raises(fastvec.WorkerError, match=number.name) as caught:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                vec.step(np.zeros(vec.num_rows, int))
        assert caught.value.worker == 1
