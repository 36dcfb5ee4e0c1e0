"""The trained driver's network, and its checkpoints."""
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import fastvec
from fastvec.drive import DriveConfig, checkpoint, creator
from fastvec.drive.checkpoint import CheckpointError
from fastvec.drive.network import DriveNetwork, Driver
from fastvec.drive.observation import Layout

CONFIG = DriveConfig(road_obs_algorithm="k_nearest_roadpoints", obs_radius=30.0)
PARTS = {name: part for name, (part, _) in Layout().parts.items()}


@pytest.fixture(scope="module")
def rows():
    """Observations of agents that have partners and roads near them, and some that have none."""
    with fastvec.make(creator(worlds=6, config=CONFIG), 0, seed=0) as vec:
        vec.reset()
        for step in range(10):
            vec.step(np.random.default_rng(step).integers(0, 91, vec.num_rows))
        rows = torch.from_numpy(vec.observations.copy())
    return rows[DriveNetwork(91).takes_part(rows)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = DriveNetwork(91)
    for parameter in network.parameters():  # biases, too, so that nothing is 0 by chance
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return network.eval()


def ask(network, rows):
    with torch.no_grad():
        logits, values, _ = network(network.prepare(rows))
    return torch.cat((logits, values[:, None]), 1)


def partners_of(rows):
    return rows[:, PARTS["partners"]].view(len(rows), 63, 6)


def test_order_and_padding_of_partners_do_not_matter(network, rows):
    shuffled = rows.clone()
    partners_of(shuffled)[:] = partners_of(rows)[:, torch.randperm(63, generator=torch.Generator().manual_seed(1))]
    few = (partners_of(rows)[..., 4] != 0).sum(1) < 8
    assert few.any() and (partners_of(rows)[few][..., 4] != 0).any()
    torch.testing.assert_close(ask(network, shuffled), ask(network, rows))
    wider = DriveNetwork(91, partners=20)  # more places, which stay empty
    wider.load_state_dict(network.state_dict())
    torch.testing.assert_close(ask(wider, rows[few]), ask(network, rows[few]))


def test_what_is_not_there_has_no_part(network, rows):
    """Without partners (or roads) their layers do not count, whatever their biases are."""
    for name in ("partners", "roads"):
        other = DriveNetwork(91)
        other.load_state_dict(network.state_dict())
        alone = rows.clone()
        alone[:, PARTS[name]] = 0
        layers = other.partner if name == "partners" else other.road
        layers[2].bias.data += 3.0
        assert torch.equal(ask(other, alone), ask(network, alone)) and not torch.equal(ask(other, rows), ask(network, rows))


def test_nearest_partner_counts_and_far_ones_do_not(network, rows):
    row = rows[:1].repeat(2, 1)
    partners_of(row)[:] = 0
    for i in range(63):
        partners_of(row)[:, i] = torch.tensor([0.1, (10 + i) / 1000, 0.0, 0.0, 0.1, 0.1])
    partners_of(row)[1, 40] = torch.tensor([0.2, 0.052, 0.01, 0.3, 0.12, 0.1])  # beyond the nearest eight
    one, other = ask(network, row)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    partners_of(row)[1, 40, 1] = 0.005
    one, other = ask(network, row)
    assert (one - other).abs().max() > 0.01


def test_road_segments_count_by_their_nearest_point(rows):
    network = DriveNetwork(91, roads=1)
    row = torch.zeros(1, 2984)
    roads = row[:, PARTS["roads"]].view(200, 13)
    roads[0, :6] = torch.tensor([0.030, 0.002, 0.29, 0.001, 0.001, 0.0])  # 58 m long, its middle 30 m ahead, its end a metre ahead
    roads[1, :6] = torch.tensor([0.010, 0.000, 0.01, 0.001, 0.001, 0.0])
    roads[:2, 7] = 1
    features = network.prepare(row)[0, -2 - 11:-2]
    np.testing.assert_allclose(features[:4], [1 / 20, 2 / 20, 1, 0], atol=1e-6)


def test_conditioned_rows(rows):
    network = DriveNetwork(91, conditioned=True)
    row = torch.cat((rows[:, :6], torch.tensor([-0.5, 1.0, -0.5]).expand(len(rows), 3), rows[:, 6:]), 1)
    assert ask(network, row).isfinite().all()
    with pytest.raises(ValueError, match=r"expected float32 \(n, 2987\)"):
        network.prepare(rows)


@pytest.mark.parametrize("bad", [torch.zeros(3, 2983), torch.zeros(3, 2984, dtype=torch.float64), torch.zeros(2984),
                                 torch.zeros(3, 3368, dtype=torch.uint8)])
def test_rows_that_do_not_fit(network, bad):
    with pytest.raises(ValueError, match=r"rows is torch\..*: expected float32 \(n, 2984\)"):
        network.prepare(bad)


@pytest.mark.parametrize("name, value", [("num_actions", 0), ("partners", 64), ("roads", 201), ("hidden", True), ("fused", 1.5)])
def test_sizes_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}: expected a whole number from 1 to"):
        DriveNetwork(**{"num_actions": 91, name: value})


def test_takes_part(rows):
    network = DriveNetwork(91)
    away = torch.zeros(2, 2984)
    away[1, 1], away[1, 3] = 0.1, 11.0  # a car that is done, 11 km from its goal; the other row is not used
    assert network.takes_part(rows).any() and not network.takes_part(away).any()


@pytest.mark.parametrize("recurrent", [False, True])
def test_driver(rows, recurrent):
    torch.manual_seed(1)
    network = DriveNetwork(91, recurrent=recurrent)
    network.action.weight.data.normal_()
    observations = rows.numpy()
    driver = Driver(network)
    first, second = driver(observations), driver(observations)
    assert first.dtype == np.int64 and first.shape == (len(rows),)
    assert (first == second).all() != recurrent  # one that remembers has seen something since
    driver.reset()
    assert (driver(observations) == first).all()
    sampler = Driver(network, sample=True, seed=4)
    drawn = sampler(observations)
    sampler.reset(4)
    assert (sampler(observations) == drawn).all()
    sampler.reset(5)
    assert (sampler(observations) != drawn).any()


# ---- checkpoints -------------------------------------------------------------------------------------------------------


def saved(path, network=None, drive=CONFIG):
    settings = {"env": "drive" if drive else "CartPole-v1"}
    checkpoint.save(path, settings=settings, drive=drive, network=network or DriveNetwork(91), progress={"update": 1})


def test_checkpoint_drives_as_what_was_saved(tmp_path, network, rows):
    saved(tmp_path / "a.pt", network)
    driver, config = checkpoint.driver(tmp_path / "a.pt")
    assert config == CONFIG
    assert (driver(rows.numpy()) == Driver(network)(rows.numpy())).all()


def test_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.pt"
    saved(path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="(?i)can.?(t|not) (pickle|get)"):
        checkpoint.save(path, settings={}, drive=None, network=DriveNetwork(91), progress={"bad": lambda: None})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    with pytest.raises(OSError):
        saved(tmp_path / "no folder" / "a.pt")


class Harmful:
    def __reduce__(self):
        return (print, ("run by the checkpoint",))


def _text(path):
    path.write_text("weights")


def _empty(path):
    path.touch()


def _harmful(path):
    path.write_bytes(pickle.dumps(Harmful(), protocol=2))


def _harmful_zip(path):
    torch.save({"format": checkpoint.FORMAT, "settings": Harmful()}, path)


def _cut_off(path):
    saved(path)
    path.write_bytes(path.read_bytes()[:5000])


def _of_others(path):
    torch.save({"model": {}, "epoch": 3}, path)


def _of_another_format(path):
    saved(path)
    torch.save(torch.load(path, weights_only=True) | {"format": "fastvec train_drive 0"}, path)


@pytest.mark.parametrize("write, message", [
    (lambda path: None, "No such file"),
    (lambda path: path.mkdir(), "directory"), (_text, "no checkpoint, or a broken one"),
    (_empty, "no checkpoint, or a broken one"), (_harmful, "no checkpoint, or a broken one"), (_harmful_zip, "no checkpoint, or a broken one"),
    (_cut_off, "no checkpoint, or a broken one"), (_of_others, "no checkpoint of examples/train_drive.py"),
    (_of_another_format, "its format is 'fastvec train_drive 0', not 'fastvec train_drive 1'"),
], ids=["missing", "folder", "text", "empty", "harmful", "harmful zip", "cut off", "of others", "another format"])
def test_files_that_are_no_checkpoint(tmp_path, capfd, write, message):
    write(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.driver(tmp_path / "a.pt")
    assert "a.pt" in str(error.value) and "\n" not in str(error.value)
    assert "run by the checkpoint" not in capfd.readouterr().out


def test_checkpoints_that_do_not_drive(tmp_path):
    path = tmp_path / "a.pt"
    saved(path, drive=None)
    with pytest.raises(CheckpointError, match="was trained on 'CartPole-v1': expected one of env 'drive' or 'gpudrive'"):
        checkpoint.driver(path)
    saved(path, DriveNetwork(7))
    with pytest.raises(CheckpointError, match="its network has 7 actions, the worlds have 91"):
        checkpoint.driver(path)
    saved(path)
    content = torch.load(path, weights_only=True)
    for change in ({"drive": {"obs_radius": -1.0}}, {"drive": {"speed": 3}}, {"network": {"num_actions": 91, "hidden": 16}}, {"network": None}):
        torch.save(content | change, path)
        with pytest.raises(CheckpointError, match="another version of fastvec"):
            checkpoint.driver(path)
