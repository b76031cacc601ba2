"""What the dry run passes, the run takes; what the run would refuse, the dry run has refused: one function for both."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

import waveft_core
from trainer import cli, setup
from trainer.base import layershapes, models, precision
from trainer.job import networks, optim, schema
from trainer.job.values import WAVELETS
from trainer.pictures import formats, images
from trainer.pictures.buckets import View
from trainer.preflight import dryrun, preflight, trial
from trainer.system.errors import UserError
from waveft_core.basis.atoms import coefficient_count

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def pickled(folder):
    """Stores a component as diffusers' shards of pickles."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    unet.save_pretrained(folder / "unet", safe_serialization=False)


def sharded(folder):
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    for path in (folder / "unet").glob("*.safetensors"):
        path.unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="300KB")


def halves(*parts):
    """Leaves some components in their fp16 variant alone."""

    def change(folder):
        for part in parts:
            for path in (folder / part).glob("*.safetensors"):
                path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))

    return change


def both_variants(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(path, path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    halves("text_encoder")(folder)


def custom_code(folder):
    index = folder / "model_index.json"
    table = json.loads(index.read_text())
    index.write_text(json.dumps({**table, "unet": ["my_unet", "MyUNet"]}))
    (folder / "unet" / "my_unet.py").write_text("raise SystemExit('ran')")


BASES = {  # what is done to a copy of the suite's base -> whether it is refused
    "as it is": (lambda folder: None, False),
    "shards of pickles": (pickled, True),
    "sharded safetensors": (sharded, False),
    "fp16 alone": (halves("unet", "vae", "text_encoder", "text_encoder_2"), False),
    "fp16 of the VAE alone": (halves("vae"), False),
    "fp16 of a text encoder, both of the UNet": (both_variants, False),
    "code of its own": (custom_code, True),
    "a config without end": (lambda folder: (folder / "unet" / "config.json").write_text("[" * 10**5), True),
}
SETTINGS = [
    "network.coefficients=10000000", "network.coefficients=1025", "network.coefficients=1024",
    'network.coefficients_pattern={"^mid"=99999}', "network.wavelet=db4", "network.wavelet=coif2",
    "network.mode=zero", "network.locations=peft:7", "optimizer.optimizer_args={nme=1}",
    "optimizer.optimizer_args={weight_decay=-1}", "optimizer.optimizer_args={betas=[0.9]}",
    "optimizer.optimizer_args={betas=[0.9, 0.99]}", "optimizer.optimizer_args={betas=[2.0, 0.9]}",
    "optimizer.optimizer_args={eps=1e-9}", "optimizer.optimizer_type=torch.optim.NAdam",
    "optimizer.optimizer_type=torch.optim.LBFGS", "optimizer.optimizer_type=torch.optim.Nothing",
    "optimizer.lr_scheduler=torch.optim.lr_scheduler.StepLR",
    "optimizer.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
    "train.device=cuda:77", "train.device=nowhere", "train.mixed_precision=bf16", "train.mixed_precision=fp16",
]  # fmt: skip


def refused(job):
    """What is said of a job by the dry run and by the run: the faults of both, "" where it is taken."""
    try:
        ready = preflight.check(schema.Job.model_validate(job))
    except UserError as error:
        return str(error), "not begun"
    try:
        setup.build(ready).tuning.detach()
    except (UserError, waveft_core.WaveFTError) as error:
        return "", str(error)
    return "", ""


@pytest.mark.parametrize("name", BASES)
def test_bases(job, base_folder, tmp_path, name):
    change, wrong = BASES[name]
    base = shutil.copytree(base_folder, tmp_path / "copy")
    change(base)
    job["model"]["pretrained_model_name_or_path"] = str(base)
    dry, run = refused(job)
    assert run in ("", "not begun"), f"the dry run passed what the run refuses: {run}"
    assert bool(dry) is wrong, dry
    assert "trust_remote_code" not in dry


@pytest.fixture(scope="module")
def loaded():
    """The base that the settings are built on, loaded once."""
    return {}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(job, write_job, setting, loaded):
    """The base is loaded and encoded once: what a setting changes is refused before either."""
    try:
        ready = preflight.check(preflight.read(write_job(job), [setting]))
    except UserError as error:
        assert error.problems
        return
    place = precision.choose(ready.job.train)
    if place.name not in loaded:
        loaded[place.name] = models.load(ready.job.model, place, ready.facts)
    base = loaded[place.name]
    setup.attach(ready, base)[0].detach()


def test_pictures_of_every_format_and_turn(job, tmp_path):
    """Every picture that is measured is encoded at the size that it was given."""
    folder = tmp_path / "pictures"
    pixels = np.random.default_rng(0).integers(0, 255, (18, 30, 3), dtype=np.uint8)
    for ending in formats.ENDINGS:
        if ending in (".heic", ".heif", ".hif", ".jxl"):
            continue
        for turn in range(1, 9):
            image = Image.fromarray(pixels)
            exif = image.getexif()
            exif[formats.ORIENTATION] = turn
            keys = {"exif": exif} if ending not in (".bmp", ".gif") else {}
            image.save(folder / f"turn-{turn}{ending}", **keys)
    os.mkfifo(folder / "pipe.png")
    ready = preflight.check(schema.Job.model_validate(job))
    assert len(ready.pictures) > 60
    for picture in ready.pictures:
        assert images.pixels(picture, View()).shape[1:] == picture.geometry.bucket[::-1]


def test_long_captions_are_told_once_by_both(job, write_job, tmp_path):
    (tmp_path / "pictures" / "00.txt").write_text("a long caption " * 20)
    ready = preflight.check(preflight.read(write_job(job)))
    (notice,) = [text for text in ready.notices if "tokens" in text]
    assert "00.png: its caption has" in notice
    assert notice in dryrun.text(ready)
    parts = setup.build(ready)
    assert [text for text in parts.notices if "tokens" in text] == [notice]


def test_class_pictures_are_counted_before_they_are_drawn(job, tmp_path, pictures_in):
    job["datasets"][0]["subsets"].append(
        {"image_dir": str(tmp_path / "class"), "is_reg": True, "class_tokens": "a robot", "num_class_images": 5}
    )
    before = preflight.check(schema.Job.model_validate(job))
    assert "5 regularisation (5 of them drawn first)" in "\n".join(dryrun.describe(before))
    pictures_in(tmp_path / "class", 2, (16, 16))
    some = preflight.check(schema.Job.model_validate(job))
    assert "5 regularisation (3 of them drawn first)" in "\n".join(dryrun.describe(some))
    pictures_in(tmp_path / "class", 5, (16, 16))
    after = preflight.check(schema.Job.model_validate(job))
    assert (before.epoch_length, before.steps) == (after.epoch_length, after.steps) == (6, 3)
    assert len(before.pictures) == len(some.pictures) == len(after.pictures) == 8
    assert before.plan.views == after.plan.views


def test_an_adapter_of_another_base_is_refused_by_both(job, tmp_path):
    layer = waveft_core.Layer(torch.zeros(1), torch.zeros(1, dtype=torch.int32), (4, 4))
    adapter = waveft_core.Adapter({"lora_unet_of_another": layer}, "db1", "periodization", 1.0)
    waveft_core.save(adapter, tmp_path / "other.safetensors")
    job["network"] = {"network_weights": str(tmp_path / "other.safetensors")}
    dry, _ = refused(job)
    assert "[network] network_weights" in dry and "lora_unet_of_another" in dry


@pytest.mark.parametrize("wavelet", [*WAVELETS, "identity"])
@pytest.mark.parametrize("mode", ["periodization", "zero"])
def test_a_planes_size_is_the_cores(wavelet, mode):
    if wavelet == "identity" and mode == "zero":
        pytest.skip("refused")
    network = networks.Waveft(wavelet=wavelet, mode=mode)
    for length in (1, 5, 16, 33):
        assert layershapes.side(length, network) == coefficient_count(wavelet, mode, length)


def test_a_trial_imports_nothing_for_a_plain_job(in_process):
    code = (
        "import sys; from trainer.preflight import trial; from trainer.job import schema; from trainer.base.modelfacts "
        "import ModelFacts; job = schema.Job.model_validate({'model': {'pretrained_model_name_or_path': 'x'}, "
        "'datasets': [{'subsets': [{'image_dir': 'x'}]}]}); assert not trial.faults(job, ModelFacts(), 9); "
        "sys.exit('torch' in sys.modules)"
    )
    assert in_process("-c", code).returncode == 0


def test_what_is_tried_is_what_is_made(monkeypatch):
    """The run makes its own by the functions that the trial calls."""
    made = []
    monkeypatch.setattr(optim, "walk", lambda *given: made.append(given[2]))
    settings = schema.Optimizer(lr_scheduler="torch.optim.lr_scheduler.StepLR", lr_scheduler_args={"step_size": 3})
    optim.make(settings, [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 1e-4}], 7)
    assert made == [7]
    assert trial.optim is optim


def test_a_dry_run_goes_on_from_a_state_as_the_run_does(job, write_job, capsys):
    path = str(write_job(job))
    assert cli.main(["--config", path]) == 0
    dry = ["--config", path, "--dry-run", "--resume", "latest"]
    assert cli.main(dry) == 0
    assert "notice: " not in capsys.readouterr().out
    assert cli.main([*dry, "--set", "train.max_train_steps=9"]) == 0
    assert "max_train_steps: 3 in the saved run, 9 now" in capsys.readouterr().out
    for wanted in (["--dry-run"], []):
        line = ["--config", path, *wanted, "--resume", "latest", "--set", "network.coefficients=32"]
        assert cli.main(line) == 2
        assert "coefficients: expected 64 as in the saved run, got 32." in capsys.readouterr().err
