import pytest
import torch

import waveft_core
from trainer import adapterfile, metadata, preflight, schema
from trainer.errors import TrainingStopped


@pytest.fixture
def ready(light_job):
    return preflight.check(schema.Job.model_validate(light_job))


def adapter(value=0.5):
    layer = waveft_core.Layer(torch.tensor([value, -1.0]), torch.tensor([0, 5], dtype=torch.int32), (4, 4))
    return waveft_core.Adapter({"lora_unet_a": layer}, "db1", "periodization", 25.0)


def save(ready, steps=3, **keys):
    return adapterfile.save(adapter(**keys), ready, steps, "no", "epsilon")


def test_the_file_and_its_hash(ready):
    path = save(ready)
    assert path == ready.adapter_path
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    found = waveft_core.load(path)
    assert found.layers["lora_unet_a"].values.tolist() == [0.5, -1.0]
    assert found.metadata["sshs_model_hash"] == metadata.hash_tensors(path)
    assert found.metadata["modelspec.hash_sha256"] == "0x" + metadata.hash_tensors(path)


def test_an_early_end_has_its_step_in_the_name(ready):
    assert save(ready, 2).name == "waveft-step2.safetensors"
    assert save(ready, 2).name == "waveft-step2-2.safetensors"


def test_what_cannot_be_written(ready, tmp_path):
    (tmp_path / "out").mkdir()
    ready.adapter_path.mkdir()
    with pytest.raises(TrainingStopped, match="could not be written"):
        save(ready)


def test_what_is_read_back_must_be_what_was_written(ready):
    path = save(ready)
    adapterfile.verify(adapter(), path, torch.float32)
    with pytest.raises(TrainingStopped, match="expected to read back what was written"):
        adapterfile.verify(adapter(0.25), path, torch.float32)


@pytest.mark.parametrize("error", [ValueError("odd"), IndexError("odd"), OSError("odd")])
def test_tensors_outlive_whatever_fails_after_them(ready, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(metadata, "collect", fail)
    for name in ("waveft-tensors.safetensors", "waveft-tensors-2.safetensors"):
        with pytest.raises(TrainingStopped, match=f"odd.*{name}") as raised:
            save(ready)
        kept = ready.adapter_path.with_name(name)
        assert str(kept) in str(raised.value)
        assert waveft_core.load(kept).layers["lora_unet_a"].values.tolist() == [0.5, -1.0]
    assert len(list(kept.parent.iterdir())) == 2


def test_tensors_outlive_ctrl_c_and_a_bad_read(ready, monkeypatch):
    kept = ready.adapter_path.with_name("waveft-tensors.safetensors")
    for error in (KeyboardInterrupt, waveft_core.WaveFTError):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(adapterfile, "verify", fail)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else TrainingStopped):
            save(ready)
        assert waveft_core.load(kept).layers
        kept.unlink()


def test_values_beyond_the_files_precision_are_kept_as_fp32(light_job):
    light_job["save"]["save_precision"] = "fp16"
    ready = preflight.check(schema.Job.model_validate(light_job))
    with pytest.raises(TrainingStopped, match=r"waveft-tensors\.safetensors"):
        save(ready, value=1e6)
    kept = waveft_core.load(ready.adapter_path.with_name("waveft-tensors.safetensors"))
    assert kept.layers["lora_unet_a"].values.tolist() == [1e6, -1.0]


def test_nothing_of_a_killed_run_passes_for_this_one(ready, monkeypatch):
    ready.adapter_path.parent.mkdir()
    ready.adapter_path.with_name(".waveft.safetensors.tensors.tmp").write_bytes(b"old")
    real, calls = waveft_core.save, []

    def first_fails(*arguments, **keys):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("odd")
        real(*arguments, **keys)

    monkeypatch.setattr(waveft_core, "save", first_fails)
    with pytest.raises(TrainingStopped, match=r"odd What was trained is in .*waveft-tensors\.safetensors"):
        save(ready)
    assert waveft_core.load(ready.adapter_path.with_name("waveft-tensors.safetensors")).layers
