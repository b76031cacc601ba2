"""Whole runs of every method on the tiny base: the same pictures and noise, resumed byte for byte, files that load.

One of PEFT's and BitFit are quick enough for every day; the rest, which share their code, are slow tests.
"""

import hashlib

import pytest
import torch
from safetensors import safe_open

from trainer import loop, saving, setup
from trainer.methods import shipped
from trainer.preflight import preflight
from trainer.result.runlog import Outcome, RunLog
from trainer.run import state
from trainer.run.runfolder import RunFolder

SETTINGS = {
    "shira": {"coefficients": 64},
    "lora": {},
    "loha": {},
    "lokr": {},
    "adalora": {"tinit": 1, "tfinal": 1, "deltaT": 1},
    "vera": {"network_dim": 32},
    "fourierft": {"n_frequency": 64, "init_weights": False},
    "bitfit": {},
}
OFTEN = ("adalora", "bitfit")
NAMES = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def ready(job, write_job):
    """The function that checks a job of a method, changed by `--set` texts."""

    def make(name, *overrides):
        if name not in ("shira", "bitfit"):
            pytest.importorskip("peft")
        job["network"] = {"method": name, **SETTINGS[name]}
        job["optimizer"] = {"learning_rate": 1e-2}
        job["train"]["max_train_steps"] = 4
        return preflight.check(preflight.read(write_job(job), overrides))

    return make


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stopped_after(parts, steps):
    """Trains so many steps and saves, as a run that is stopped does."""
    outcome, whole = Outcome(), parts.ready.steps
    object.__setattr__(parts.ready, "steps", steps)  # what was built for the whole run stops early
    with RunLog(parts, 0) as log:
        loop.train(parts, outcome, log)
    object.__setattr__(parts.ready, "steps", whole)
    saving.save(parts, outcome)
    return parts.ready.folder.state(steps)


def plain(value):
    """Returns a state as it can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@each
def test_a_run_is_resumed_byte_for_byte(ready, tmp_path, name):
    wishes = ("train.ema_decay=0.5", "general.batch_size=2")
    straight = loop.run(ready(name, *wishes, f"save.output_dir={tmp_path / 'straight'}"))
    assert (straight.steps, straight.exit_status, straight.warning) == (4, 0, "")
    begun = ready(name, *wishes, f"save.output_dir={tmp_path / 'resumed'}")
    saved = stopped_after(setup.build(begun), 2)
    again = preflight.check(begun.job, saved)
    resumed = loop.run(again, state.load(saved))
    assert (resumed.steps, resumed.exit_status) == (4, 0)
    assert digest(resumed.files[0]) == digest(straight.files[0])
    folders = [RunFolder(tmp_path / name, "waveft") for name in ("straight", "resumed")]
    states = [state.load(folder.state(4)) for folder in folders]
    assert plain(states[0]["values"]) == plain(states[1]["values"])
    assert plain(states[0]["ema"]) == plain(states[1]["ema"])
    assert plain(states[0]["optimizer"]) == plain(states[1]["optimizer"])
    with safe_open(straight.files[0], "pt") as file:
        told = file.metadata()
    assert told["modelspec.architecture"].rpartition("/")[2] in ("waveft", "lora", "vera", "fourierft")
    assert f'method = "{name}"' in told["waveft.job"]
    card = (tmp_path / "straight" / "waveft-README.md").read_text(encoding="utf-8")
    assert "arxiv.org" in card and f'- "{name}"' in card


@each
def test_what_is_measured_in_training_is_what_the_file_gives(ready, name):
    run = ready(name, "train.ema_decay=0.5")
    parts = setup.build(run)
    with RunLog(parts, 0) as log:
        loop.train(parts, outcome := Outcome(), log)
    saving.save(parts, outcome)
    with parts.shipped(), torch.no_grad():
        one = next(iter(loop.micro_batches(parts.forward.sources.plan, 0, 1, 0, 1)))
        trained = parts.forward.loss(parts.forward.batch(0, one))
    parts.tuning.detach()
    unet = parts.forward.base.unet
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    with torch.no_grad(), shipped.applied({"unet": unet}, run.folder.adapter):
        torch.testing.assert_close(parts.forward.loss(parts.forward.batch(0, one)), trained)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


@pytest.mark.slow
def test_the_same_draws_for_every_method(ready):
    losses = {}
    for name in SETTINGS:
        parts = setup.build(ready(name, "save.overwrite=true"))
        with parts.tuning.disabled():
            losses[name] = first_loss(parts)
        parts.tuning.detach()
    assert len(set(losses.values())) == 1


@torch.no_grad()
def first_loss(parts):
    """Returns the loss of the first optimizer step's pictures."""
    forward = parts.forward
    batches = [forward.batch(0, micro) for micro in loop.micro_batches(forward.sources.plan, 0, 2, 0, 1)]
    return float(sum((forward.loss(one) * one.weights).sum() for one in batches))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "vera", "bitfit"])
def test_text_encoders_train_too(ready, name):
    run = ready(name, "network.train_text_encoder=true", "save.save_diff=true")
    outcome = loop.run(run)
    assert outcome.exit_status == 0
    held = shipped.load(run.folder.adapter)
    assert {"unet", "te1", "te2"} == {layer.split("_")[1] for layer in held.layers}
    assert run.folder.output("-diff.safetensors") in outcome.files
    folders = {path.parent.name for path in outcome.files if path.name == "adapter_config.json"}
    assert folders == ({"waveft-peft", "waveft-peft-te1", "waveft-peft-te2"} if name == "vera" else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "loha", "fourierft"])
def test_checkpointing_and_half_precision(ready, name):
    plain, again = (setup.build(ready(name, *wishes)) for wishes in ((), ("train.gradient_checkpointing=true",)))
    losses = []
    for parts in (plain, again):
        with RunLog(parts, 0) as log:
            loop.train(parts, Outcome(), log)
            losses.append(log.losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    half = setup.build(ready(name, "train.mixed_precision=bf16"))
    with RunLog(half, 0) as log:
        loop.train(half, Outcome(), log)
        assert log.losses == pytest.approx(losses[0], rel=0.05)


def test_another_method_on_a_job_of_this_one(ready, job, write_job, capsys):
    pytest.importorskip("peft")
    job["network"] = {"coefficients": 64, "exclude": ["^mid"]}
    path = write_job(job)
    found = preflight.read(path, ["network.method=lora", "network.network_dim=3"]).network
    assert (found.method, found.network_dim, found.exclude) == ("lora", 3, ["^mid"])
    assert "[network] coefficients: left out, as it was meant for method waveft" in capsys.readouterr().out
    with pytest.raises(Exception, match=r"coefficients: a key of method waveft or shira; the job's method is lora"):
        preflight.read(path, ["network.method=lora", "network.coefficients=3"])
