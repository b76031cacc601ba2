import dataclasses
import hashlib
import json
import os
import re
import signal
import socket
import tomllib

import pytest
import torch

import waveft_core
from tests import processes
from trainer import loop, saving, setup
from trainer.base import models
from trainer.learning import batch, sources
from trainer.pictures.plan import micro_batches
from trainer.preflight import dryrun, preflight
from trainer.result import artifacts, runlog
from trainer.result.runlog import Outcome, RunLog
from trainer.run import state
from trainer.samples import sampling
from trainer.system.errors import TrainingStopped

# diffusers' Euler scheduler, with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def ready(job, write_job):
    """The function that checks the job, changed by `--set` texts."""
    return lambda *overrides: preflight.check(preflight.read(write_job(job), overrides))


PROMPTS = ('sample.prompts=["sks robot"]', "sample.sample_steps=1")


def tensors_of(path):
    return {
        name: (layer.values.tolist(), layer.indices.tolist()) for name, layer in waveft_core.load(path).layers.items()
    }


def train(parts):
    """Trains to the end of the run; returns the losses and what came of it."""
    outcome = Outcome()
    with RunLog(parts, 0) as notes:
        loop.train(parts, outcome, notes)
        return notes.losses, outcome


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_leaves_adapter_report_grid_and_metrics(ready, tmp_path):
    job = ready(*PROMPTS)
    state = torch.get_rng_state()
    outcome = loop.run(job)
    assert torch.equal(torch.get_rng_state(), state)  # no global draw was made
    assert (outcome.steps, outcome.exit_status, outcome.warning) == (3, 0, "")
    names = [path.name for path in outcome.files]
    assert names == [
        "waveft.safetensors", "waveft-metrics.jsonl", "waveft-grid.png", "waveft-report.html", "waveft-README.md",
    ]  # fmt: skip
    made = {path.name for path in (tmp_path / "out").rglob("[!.]*") if path.is_file()}
    samples = {"waveft-before-01-seed42.png", "waveft-after-01-seed42.png"}
    assert made == {*names, *samples, "waveft-job.toml", "waveft-step00000003.state"}
    assert (tmp_path / "out" / "waveft-step00000003.state").stat().st_size < 100_000

    adapter = waveft_core.load(outcome.files[0])
    assert len(adapter.layers) == 32
    assert all(layer.values.dtype == torch.float32 and layer.values.any() for layer in adapter.layers.values())
    assert adapter.metadata["ss_steps"] == "3"
    assert tomllib.loads(adapter.metadata["waveft.job"])["network"]["coefficients"] == 64
    assert str(tmp_path) not in json.dumps(dict(adapter.metadata))
    rows = [json.loads(line) for line in outcome.files[1].read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["loss"] > 0 and row["lr"] == 1e-4 for row in rows)

    page = outcome.files[3].read_text(encoding="utf-8")
    assert str(tmp_path) not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere
    for part in ("<svg", "sks robot", "2048 coefficients in 32 layers", "waveft.safetensors", "max_train_steps = 3"):
        assert part in page
    assert page.count("data:image/png;base64,") == 2 + 3  # before, after, and the pictures


def test_the_same_job_gives_the_same_file(ready, tmp_path):
    first = digest(loop.run(ready()).files[0])
    torch.manual_seed(123)
    elsewhere = loop.run(ready(f"save.output_dir={tmp_path / 'other'}")).files[0]
    assert elsewhere.parent.name == "other"
    assert digest(elsewhere) == first
    assert digest(loop.run(ready("save.overwrite=true", "train.seed=1")).files[0]) != first


def test_samples_do_not_change_what_is_trained(ready):
    plain, sampled = setup.build(ready()), setup.build(ready(*PROMPTS))
    with RunLog(sampled, 0) as notes:
        loop.draw(sampled, Outcome(), notes, "before")
    train(plain)
    train(sampled)
    pairs = zip(plain.tuning.parameters(), sampled.tuning.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_nothing_touches_the_network(ready, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert loop.run(ready()).exit_status == 0


def test_training_lowers_the_loss_of_what_was_seen(ready):
    parts = setup.build(ready("train.max_train_steps=8", "optimizer.learning_rate=0.003"))
    before = [loop.backward(parts, step, bool)[0] for step in range(8)]
    train(parts)
    after = [loop.backward(parts, step, bool)[0] for step in range(8)]
    assert sum(after) < sum(before)
    assert sum(a < b for a, b in zip(after, before, strict=True)) >= 7


def test_batch_and_accumulation_are_interchangeable(ready):
    values = []
    for size, count in ((1, 4), (4, 1)):
        parts = setup.build(ready(f"general.batch_size={size}", f"train.gradient_accumulation_steps={count}"))
        train(parts)
        values.append(torch.cat([value.flatten() for value in parts.tuning.state_dict().values()]))
    assert torch.allclose(values[0], values[1], atol=2e-6)


def test_checkpointing_changes_nothing(ready):
    parts = setup.build(ready())
    checkpointed = setup.build(ready("train.gradient_checkpointing=true"))
    assert checkpointed.forward.base.unet.is_gradient_checkpointing
    assert train(parts)[0] == pytest.approx(train(checkpointed)[0], abs=1e-6)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_half_precision_base_trains_fp32_coefficients(ready, name, dtype):
    parts = setup.build(ready(f"train.mixed_precision={name}"))
    assert parts.forward.base.unet.dtype == dtype
    assert train(parts)[1].exit_status == 0
    values = parts.tuning.parameters()
    assert all(value.dtype == torch.float32 and value.any() for value in values)


def test_a_loss_that_is_not_finite_stops_before_the_step(ready, monkeypatch, capsys):
    make = batch.make

    def poisoned(latents, ready, noising, place, step, micro):
        one = make(latents, ready, noising, place, step, micro)
        if (step, micro.first) == (2, 1):
            one.latents.fill_(float("nan"))
        return one

    monkeypatch.setattr(batch, "make", poisoned)
    job = ready()
    outcome = loop.run(job)
    assert (outcome.steps, outcome.exit_status) == (2, 1)
    name = make_name(job, 2, 1)
    assert outcome.warning.startswith("step 3: expected a finite loss and gradient, got loss nan, with " + name + ". ")
    assert outcome.files[0].name == "waveft-step00000002.safetensors"
    kept = waveft_core.load(outcome.files[0])
    assert all(layer.values.isfinite().all() for layer in kept.layers.values())
    assert "step 3: expected" in outcome.files[-1].read_text(encoding="utf-8")


def make_name(ready, step, micro):
    [seen] = micro_batches(ready.plan, step, 2, 0, 1)[micro].views
    return ready.pictures[seen.picture].path.name


def test_ctrl_c_saves_what_was_trained(ready, monkeypatch):
    make = batch.make

    def interrupted(latents, ready, noising, place, step, micro):
        if (step, micro.first) == (1, 0):
            os.kill(os.getpid(), signal.SIGINT)
        return make(latents, ready, noising, place, step, micro)

    monkeypatch.setattr(batch, "make", interrupted)
    job = ready(*PROMPTS)
    outcome = loop.run(job)
    assert (outcome.steps, outcome.exit_status) == (2, 130)
    assert outcome.files[0].name == "waveft-step00000002.safetensors"
    assert waveft_core.load(outcome.files[0]).metadata["ss_steps"] == "2"
    monkeypatch.setattr(batch, "make", make)
    whole = digest(loop.run(ready("save.output_name=whole")).files[0])
    saved = state.load(job.folder.newest_state())
    assert saved["step"] == 2
    resumed = loop.run(job, saved)
    assert (resumed.steps, resumed.exit_status) == (3, 0)
    assert tensors_of(resumed.files[0]) == tensors_of(job.folder.folder / "whole.safetensors") and whole


def test_samples_that_fail_leave_the_adapter(ready, monkeypatch, capsys):
    draw, calls = sampling.draw, []

    def second_fails(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("no memory")
        return draw(*arguments)

    monkeypatch.setattr(loop.sampling, "draw", second_fails)
    outcome = loop.run(ready(*PROMPTS))
    assert (outcome.steps, outcome.exit_status, outcome.warning) == (3, 0, "")
    assert "the samples (after) failed: no memory" in capsys.readouterr().out
    assert waveft_core.load(outcome.files[0]).layers
    assert "the samples (after) failed" in outcome.files[-2].read_text(encoding="utf-8")


def test_out_of_memory_names_the_levers(ready, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(batch, "make", full)
    outcome = loop.run(ready())
    assert (outcome.steps, outcome.exit_status) == (0, 1)
    assert "gradient_checkpointing = true" in outcome.warning
    assert [path.suffix for path in outcome.files] == [".jsonl", ".html"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("network.coefficients=100000000", "coefficients"),
        ('network.targets=["to_x"]', "to_x"),
        ("optimizer.optimizer_args.nme=1", "optimizer_args"),
    ],
)
def test_what_does_not_fit_the_base_is_refused_before_the_encoding(ready, monkeypatch, override, words):
    monkeypatch.setattr(sources, "prepare", lambda *_: pytest.fail("encoded"))
    with pytest.raises(ValueError, match=words):
        loop.run(ready(override))


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_save_precision(ready, precision, dtype):
    outcome = loop.run(ready(f"save.save_precision={precision}"))
    layers = waveft_core.load(outcome.files[0]).layers.values()
    assert {layer.values.dtype for layer in layers} == {dtype}


def test_options_change_what_is_seen(ready, monkeypatch):
    load, read = models.load, {}

    def loaded(model, place, *rest):  # each base once: what trained in it is taken out again
        key = model, place
        if key not in read:
            read[key] = load(model, place, *rest)
        return dataclasses.replace(read[key], text=[*read[key].text])

    monkeypatch.setattr(models, "load", loaded)

    def losses(*overrides):  # three steps, of one picture each
        parts = setup.build(ready("train.gradient_accumulation_steps=1", *overrides))
        found = train(parts)[0]
        parts.tuning.detach()
        return found

    plain = losses()
    for override in (
        "loss.noise_offset=0.3", "loss.min_snr_gamma=1", "train.seed=1", "general.caption_dropout_rate=1.0",
        "general.caption_prefix=zz ", "general.flip_aug=true", "general.color_aug=true", "general.random_crop=true",
        "loss.loss_type=l1", "loss.loss_type=huber", "loss.debiased_estimation_loss=true", "loss.ip_noise_gamma=0.2",
        "loss.multires_noise_iterations=3", "loss.max_timestep=200", "loss.min_timestep=800",
        "model.v_parameterization=true", "cache.sample_posterior=true", "network.scaling=5.0",
        "network.allocation=proportional", "network.wavelet=db2", "network.locations=gradient:0",
        "network.train_text_encoder=true", "optimizer.learning_rate=0.01", "optimizer.optimizer_type=Adafactor",
        "optimizer.lr_scheduler=cosine", "general.batch_size=2",
        'network.coefficients_pattern={"^mid"=9}', 'network.exclude=["attn2"]', "train.mixed_precision=bf16",
        'optimizer.learning_rate_pattern={"^mid"=0.01}', "model.base_dtype=fp8",
    ):  # fmt: skip
        assert losses(override) != plain, override
    assert losses() == plain  # so nothing but the options made the difference


def test_the_command_from_elsewhere(job, write_job, tmp_path):
    job["save"]["output_dir"] = "made"
    done = processes.run("-m", "trainer", "--config", write_job(job), cwd=tmp_path.parent)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "step 3/3" in done.stdout
    assert str(tmp_path / "made" / "waveft.safetensors") in done.stdout


def test_samples_that_fail_are_notices_whatever_they_raise(ready, monkeypatch, capsys):
    errors = [torch.OutOfMemoryError("no memory"), RuntimeError("a"), waveft_core.WaveFTError("b"), OSError("c")]
    left = iter(errors)  # before, after each of two steps, after the last

    def fails(*_):
        raise next(left)

    monkeypatch.setattr(loop.sampling, "draw", fails)
    outcome = loop.run(ready(*PROMPTS, "sample.sample_every_n_steps=1"))
    assert (outcome.steps, outcome.exit_status, outcome.warning) == (3, 0, "")
    said = capsys.readouterr().out
    assert all(re.search(rf"notice      the samples \([\w ]+\) failed: {error}", said) for error in errors)


def test_samples_before_training_that_fail_are_a_notice(ready, monkeypatch, capsys):
    draw, calls = sampling.draw, []

    def first_fails(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("odd")
        return draw(*arguments)

    monkeypatch.setattr(loop.sampling, "draw", first_fails)
    outcome = loop.run(ready(*PROMPTS))
    assert (outcome.steps, outcome.exit_status, outcome.warning) == (3, 0, "")
    assert "notice      the samples (before) failed: odd" in capsys.readouterr().out
    page = outcome.files[-2].read_text(encoding="utf-8")
    assert "the samples (before) failed" in page
    assert not any(path.name.endswith("-grid.png") for path in outcome.files)


@pytest.mark.parametrize("error", [waveft_core.WaveFTError("odd"), RuntimeError("odd"), OSError("odd"), MemoryError()])
def test_a_failure_after_a_step_saves_what_was_trained(ready, monkeypatch, error):
    make = batch.make

    def fails(latents, ready, noising, place, step, micro):
        if step == 2:
            raise error
        return make(latents, ready, noising, place, step, micro)

    monkeypatch.setattr(batch, "make", fails)
    outcome = loop.run(ready())
    assert (outcome.steps, outcome.exit_status) == (2, 1)
    assert outcome.warning
    assert outcome.files[0].name == "waveft-step00000002.safetensors"


def test_a_full_disk_during_the_training_saves_what_was_trained(ready, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(runlog.Progress, "step", full)
    outcome = loop.run(ready())
    assert (outcome.steps, outcome.exit_status, outcome.warning) == (1, 1, "stopped after step 1: disk full")
    assert waveft_core.load(outcome.files[0]).layers


def test_a_failure_before_the_first_step_is_told_as_it_is(ready, monkeypatch):
    def fail(*_):
        raise waveft_core.WaveFTError("odd")

    monkeypatch.setattr(batch, "make", fail)
    with pytest.raises(waveft_core.WaveFTError, match="odd"):
        loop.run(ready())


def test_no_memory_for_the_optimizer_names_the_levers(ready, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    outcome = loop.run(ready())
    assert (outcome.steps, outcome.exit_status) == (0, 1)
    assert "gradient_checkpointing = true" in outcome.warning


def test_an_adapter_that_cannot_be_made_is_no_refusal_of_the_job(ready, monkeypatch):
    def fail(_):
        raise waveft_core.WaveFTError("odd")

    monkeypatch.setattr(waveft_core.Tuning, "adapter", fail)
    with pytest.raises(TrainingStopped, match="after step 3: odd"):
        loop.run(ready())


def test_a_report_that_fails_leaves_the_adapter(ready, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(artifacts.report, "page", fail)
    outcome = loop.run(ready())
    assert (outcome.exit_status, outcome.warning) == (1, "the report could not be written: disk full")
    assert waveft_core.load(outcome.files[0]).layers


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_an_optimizer_step_waits_for_the_gpu_once(ready, precision):
    parts = setup.build(ready("train.device=cuda", f"train.mixed_precision={precision}"))
    loop.backward(parts, 0, bool)  # tables and kernels that are made once
    parts.scaler.step(parts.optimizer)
    parts.scaler.update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        numbers, _ = loop.accumulate(parts, 1, bool)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert numbers[:2].isfinite().all()  # the norm may not be: the first scale of fp16 is there to be found too high


def test_a_state_that_cannot_be_written_leaves_the_adapter(ready, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.state, "save", full)
    job = ready()
    outcome = loop.run(job)
    assert (outcome.steps, outcome.exit_status) == (3, 1)
    assert "the adapter is written, but not the state to resume from" in outcome.warning
    assert waveft_core.load(job.folder.adapter).layers


def test_a_checkpoint_that_cannot_be_written_is_a_notice(ready, monkeypatch, capsys):
    save, calls = saving.adapterfile.save, []

    def first_fails(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise TrainingStopped("no room")
        return save(*arguments)

    monkeypatch.setattr(saving.adapterfile, "save", first_fails)
    job = ready("save.save_every_n_steps=1")
    assert loop.run(job).exit_status == 0
    assert "the checkpoint of step 1 was not saved: no room" in capsys.readouterr().out
    assert [path.name for path in job.folder.checkpoints()] == ["waveft-step00000002.safetensors"]
    assert waveft_core.load(job.folder.adapter).layers


def test_a_validation_that_fails_is_a_notice(ready, monkeypatch, capsys):
    monkeypatch.setattr(loop.validation, "measure", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
    outcome = loop.run(ready("validation.validation_split=0.4"))
    assert outcome.exit_status == 0
    assert "the validation after step 3 failed: no memory" in capsys.readouterr().out


def test_a_caption_that_is_too_long_is_named(ready):
    job = ready("general.caption_prefix=" + "a " * 90)
    [*_, notice] = [text for text in job.notices if "tokens" in text]
    assert "its caption has" in notice and "the encoders see the first 77" in notice
    assert any(notice in line for line in dryrun.describe(job))  # which the run prints before anything is loaded
    assert setup.build(job).notices.count(notice) == 1


def test_a_process_that_fails_ends_without_the_others(ready, monkeypatch):
    waited = []
    parts = setup.build(ready())
    parts.world = type(parts.world)(0, 2)  # the other one never comes
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: (_ for _ in ()).throw(RuntimeError("lost")))
    monkeypatch.setattr(torch.distributed, "barrier", lambda: waited.append(1))
    with RunLog(parts, 0) as notes, pytest.raises(RuntimeError, match="lost"):
        loop.train(parts, Outcome(), notes)
    parts.world.wait()
    parts.world.leave()
    assert not waited
