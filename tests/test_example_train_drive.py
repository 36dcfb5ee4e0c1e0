"""examples/train_drive.py: that it learns, goes on exactly where it was, and learns from nothing but what agents did."""
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium", minversion="1.0", reason="needs gymnasium: pip install 'fastvec[gym]'")
torch = pytest.importorskip("torch", reason="needs torch")

import gymnasium as gym

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import train_drive
from train_drive import Settings, Trainer, collect, gather, loss_of, outputs_of, shaped_rewards

from fastvec.drive.checkpoint import CheckpointError
from fastvec.drive.scenes import SHIPPED

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

PARKING = str(SHIPPED / "gen_parking_s0.json.gz")  # 8 driven agents
TINY = Settings(scenes=PARKING, workers=0, envs=2, horizon=60, minibatch=128, steps=10**9, learning_rate=1e-3, threads=1, seed=3)
CARTPOLE = Settings(env="CartPole-v1", workers=0, envs=8, horizon=32, reset_every=10**9, minibatch=256, epochs=20, learning_rate=1e-3,
                    gamma=0.98, gae_lambda=0.8, entropy_weight=0.0, target_kl=1.0, steps=40_000, threads=1, seed=1)


@pytest.fixture
def trainers():
    """Makes Trainers, which are closed in the end."""
    torch.set_num_threads(1)
    made = []

    def make(settings, resumed=None):
        made.append(Trainer(settings, resumed))
        return made[-1]

    yield make
    for trainer in made:
        trainer.close()
    made.clear()


def collected(trainer, steps_before=0):
    """A rollout, and what belongs to it, of a network that learned for a few steps."""
    for _ in range(steps_before):
        trainer.step()
    trainer.vec.reset(seed=5)
    trainer.memory = train_drive.Memory(trainer.vec.num_rows, trainer.network.num_states, trainer.vec.autoreset == "next_step")
    if steps_before:  # begin in the middle of episodes
        collect(trainer.vec, trainer.network, trainer.numbers, trainer.memory, trainer.times)
    states = trainer.memory.states.clone()
    rollout, kept, last_values = collect(trainer.vec, trainer.network, trainer.numbers, trainer.memory, trainer.times)
    rollout.gae(last_values.numpy(), rewards=shaped_rewards(rollout, trainer.network, trainer.settings))
    return rollout, kept, states


def equal(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_cartpole_is_solved(trainers):
    trainer = trainers(CARTPOLE)
    while trainer.done() < 1:
        trainer.step()
    envs = [gym.make("CartPole-v1") for _ in range(20)]
    for seed, env in enumerate(envs):
        observation, over, steps = env.reset(seed=seed)[0], False, 0
        while not over:
            outputs, _, _ = trainer.network(torch.from_numpy(observation[None]))
            observation, _, terminated, truncated, _ = env.step(int(outputs.argmax()))
            over, steps = terminated or truncated, steps + 1
        env.close()
        assert steps >= 475, f"seed {seed}"  # where gymnasium calls it solved, on average


def test_driving_gets_better(trainers):
    trainer = trainers(dataclasses.replace(TINY, horizon=91, epochs=4, seed=4))
    curve = [trainer.step() for _ in range(18)]
    off_road = [entry["off_road_rate"] for entry in curve]
    assert np.mean(off_road[-4:]) < np.mean(off_road[:4]) - 0.15
    assert all(0 <= entry[rate] <= 1 for entry in curve for rate in ("goal_rate", "collision_rate", "off_road_rate"))


@pytest.mark.parametrize("settings", [
    TINY,
    dataclasses.replace(TINY, lstm=True, epochs=1),
    dataclasses.replace(TINY, workers=2, envs=1, scenes="shipped", epochs=1),
    dataclasses.replace(CARTPOLE, reset_every=2, workers=1, epochs=2, envs=2),
], ids=["drive", "lstm", "more scenes than worlds", "gymnasium"])
def test_resume_continues_exactly(trainers, tmp_path, settings):
    path = tmp_path / "a.pt"
    straight = trainers(settings)
    for _ in range(2):
        straight.step()
    straight.save(path)
    for _ in range(2):
        straight.step()
    resumed = trainers(settings, train_drive.resume(path, settings))
    for _ in range(2):
        resumed.step()
    assert equal(straight.network.state_dict(), resumed.network.state_dict())
    moments = [trainer.optimizer.state_dict()["state"] for trainer in (straight, resumed)]
    assert all(equal(moments[0][i], moments[1][i]) for i in moments[0])
    assert timeless(straight.curve) == timeless(resumed.curve)


def timeless(curve):
    return [{name: value for name, value in entry.items() if name != "seconds" and not name.startswith("time/")} for entry in curve]


def test_where_the_time_goes(trainers):
    entry = trainers(TINY).step()
    shares = {name.removeprefix("time/"): share for name, share in entry.items() if name.startswith("time/")}
    assert set(shares) == {"policy", "copies", "learning", "envs", "handoff", "other"}
    assert sum(shares.values()) == pytest.approx(1) and shares["policy"] > 0 and shares["learning"] > 0 and shares["copies"] > 0


def test_seeds_make_the_run(trainers):
    weights = []
    for seed in (1, 1, 2):
        trainer = trainers(dataclasses.replace(TINY, seed=seed))
        trainer.step()
        weights.append(trainer.network.state_dict())
    assert equal(weights[0], weights[1]) and not equal(weights[0], weights[2])


# ---- what is learned from ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lstm", [False, True], ids=["no memory", "lstm"])
@pytest.mark.parametrize("settings", [TINY, CARTPOLE], ids=["drive", "gymnasium"])
def test_learning_sees_what_acting_saw(trainers, settings, lstm):
    """The network, asked again about a rollout that ends and begins episodes, says what it said when it acted."""
    trainer = trainers(dataclasses.replace(settings, lstm=lstm, epochs=1))
    rollout, kept, states = collected(trainer, steps_before=2)
    over = (rollout.terminations | rollout.truncations) & rollout.masks
    assert over[:-2].any() and rollout.masks[1:][over.any(1)[:-1]].any()
    data = gather(rollout, kept)
    with torch.no_grad():
        outputs, values = outputs_of(trainer.network, data, states)
        log_probs = train_drive.distribution(outputs, trainer.numbers).log_prob(data["actions"])
    torch.testing.assert_close(values, data["values"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_probs, data["log_probs"], atol=1e-5, rtol=1e-5)


def test_all_steps_that_count_are_learned_from(trainers):
    rollout, kept, _ = collected(trainers(TINY), steps_before=1)
    data = gather(rollout, kept)
    seen = np.zeros_like(rollout.masks)
    seen[data["steps"], data["rows"]] = True
    assert len(data["steps"]) == rollout.masks.sum() < rollout.masks.size and (seen == rollout.masks).all()


@pytest.mark.parametrize("lstm", [False, True], ids=["no memory", "lstm"])
def test_masked_rows_do_not_change_the_gradient(trainers, lstm):
    trainer = trainers(dataclasses.replace(TINY, lstm=lstm))
    rollout, kept, states = collected(trainer, steps_before=1)

    def gradient():
        data = gather(rollout, kept)
        trainer.optimizer.zero_grad()
        loss_of(trainer.network, trainer.numbers, data, states, trainer.settings, 0.01)[0].backward()
        return {name: parameter.grad.clone() for name, parameter in trainer.network.named_parameters()}

    before = gradient()
    assert all(one.abs().sum() > 0 for one in before.values())
    step, row, features, actions, begins = kept
    dead = ~rollout.torch.masks[step, row]
    assert dead.any()
    features[dead], actions[dead], begins[dead] = 7.0, 90, True
    masks = rollout.masks
    for array in (rollout.fields["values"], rollout.fields["log_probs"], rollout.rewards):
        array[~masks] = 1e6
    last_values = np.zeros(trainer.vec.num_rows, np.float32)
    clean = rollout.gae(last_values, rewards=np.where(masks, rollout.rewards, 0))[0].copy()
    assert (rollout.gae(last_values)[0] == clean).all()
    rollout.gae(last_values, rewards=rollout.rewards)
    changed = gradient()
    rollout.gae(last_values, rewards=np.where(masks, rollout.rewards, 0))
    assert equal(changed, gradient())


def test_progress_is_worth_metres_and_nothing_at_the_end(trainers):
    trainer = trainers(TINY)
    rollout, _, _ = collected(trainer)
    added = shaped_rewards(rollout, trainer.network, trainer.settings) - rollout.rewards
    goal = np.hypot(rollout.observations[..., 3], rollout.observations[..., 4]) * 1000
    ended = rollout.terminations | rollout.truncations
    inside = (rollout.masks & ~ended)[:-1]
    np.testing.assert_allclose(added[:-1][inside], (goal[:-1] - goal[1:])[inside] / 50, atol=1e-4)
    assert (added[ended | ~rollout.masks] == 0).all() and np.abs(added).max() < 0.2 and ended.any()
    nothing = dataclasses.replace(TINY, progress_metres=0.0)
    assert (shaped_rewards(rollout, trainer.network, nothing) == rollout.rewards).all()


# ---- other envs, bad input -----------------------------------------------------------------------------------------------


def test_numbers_for_actions(trainers):
    trainer = trainers(dataclasses.replace(CARTPOLE, env="Pendulum-v1", epochs=1))
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    entry = trainer.step()
    assert np.isfinite(entry["policy_loss"]) and not equal(before, trainer.network.state_dict())
    assert np.abs(trainer.vec.fields["actions"]).max() <= 2  # Pendulum's bounds


def test_gpudrive(trainers, monkeypatch):
    """Around the double of its simulator: rows, rewards and masks come as from fastvec's own worlds."""
    for folder in ("drive", "gpudrive"):
        monkeypatch.syspath_prepend(str(Path(__file__).parent / folder))
    import doubles

    monkeypatch.setitem(sys.modules, "madrona_gpudrive", doubles.module())
    trainer = trainers(dataclasses.replace(TINY, env="gpudrive", workers=1, envs=1, horizon=91, epochs=1))
    entry = trainer.step()
    assert entry["episodes"] >= 8 and 0 < entry["agent_steps"] <= 8 * 91 and np.isfinite(entry["policy_loss"])


@pytest.mark.parametrize("name, what", [("Blackjack-v1", "FlattenObservation")])
def test_spaces_that_do_not_fit(name, what):
    with pytest.raises(SystemExit, match=what):
        Trainer(dataclasses.replace(CARTPOLE, env=name))


def test_resume_with_other_settings(trainers, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    trainers(TINY).save(path)
    with pytest.raises(CheckpointError, match=r"a.pt was trained with gamma 0.99, not 0.9: resume it with"):
        train_drive.resume(path, dataclasses.replace(TINY, gamma=0.9))
    with pytest.raises(CheckpointError, match="with env 'drive', not 'CartPole-v1'"):
        train_drive.resume(path, CARTPOLE)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="a.pt was trained with steer_actions .*, not "):
        patch.setitem(train_drive.STEERING, "fine", (-0.5, 0.0, 0.5))
        train_drive.resume(path, TINY)
    assert train_drive.resume(path, dataclasses.replace(TINY, steps=5, minutes=1.0))["progress"]["update"] == 0


def test_everything_goes_to_tensorboard(tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'fastvec[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = ["--scenes", PARKING, "--envs", "1", "--workers", "0", "--threads", "1", "--steps", "300"]
    train_drive.main([*arguments, "--logs", str(tmp_path), "--curve", str(tmp_path / "curve.json")])
    events, curve = EventAccumulator(str(tmp_path)).Reload(), json.loads((tmp_path / "curve.json").read_text())
    for name in ("goal_rate", "policy_loss", "explained_variance"):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(entry["agent_steps"], pytest.approx(entry[name])) for entry in curve]


def test_nothing_is_trained_in_no_time():
    assert train_drive.run(dataclasses.replace(TINY, steps=0, minutes=0.0)).update == 0


def test_command_line(tmp_path, capsys):
    pytest.importorskip("rich", reason="needs rich: pip install 'fastvec[train]'")
    arguments = ["--scenes", PARKING, "--envs", "1", "--workers", "0", "--threads", "1", "--checkpoint", str(tmp_path / "a.pt")]
    train_drive.main([*arguments, "--steps", "100", "--curve", str(tmp_path / "curve.json")])
    train_drive.main([*arguments, "--steps", "800", "--resume"])
    first, second = (line for line in capsys.readouterr().out.splitlines() if "updates" in line)
    assert first.startswith("1 updates") and int(second.split()[0]) > 1
    assert json.loads((tmp_path / "curve.json").read_text())[0]["update"] == 1
    capsys.readouterr()
    for wrong, message in (
        (["--resume", "--lstm"], "trained with lstm False, not True"),
        (["--resume", "--checkpoint", str(tmp_path / "b.pt")], "b.pt: No such file"),
        (["--checkpoint", str(tmp_path / "no" / "a.pt")], "--checkpoint .*there is no folder"),
        (["--minibatch", "0"], "minibatch is 0: expected at least 1"),
        (["--learning-rate", "nan"], "learning_rate is nan: expected at least 0"),
        (["--steering", "wild"], "invalid choice: 'wild'"),
    ):
        with pytest.raises(SystemExit) as error:
            train_drive.main([*arguments, *wrong])
        assert error.value.code == 2 and re.search(message, capsys.readouterr().err), wrong
    with pytest.raises(SystemExit, match="SceneError: .*nowhere.json"):
        train_drive.main(["--scenes", "nowhere.json"])
    with pytest.raises(SystemExit, match="NameNotFound: .*Nothing"):
        train_drive.main(["--env", "Nothing-v1"])
