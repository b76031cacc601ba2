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
