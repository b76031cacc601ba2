from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

import waveft_core
from trainer.job import schema
from trainer.job.networks import Lora
from trainer.methods import shipped
from trainer.methods.coefficients import AdapterProduct
from trainer.methods.lora import LoraMethod
from trainer.methods.tensorfile import TensorProduct
from trainer.result import adapterfile, metadata
from trainer.run.runfolder import RunFolder
from trainer.system.errors import TrainingStopped

BASE = SimpleNamespace(prediction="epsilon", zero_terminal_snr=False, unet=SimpleNamespace(config={}))


@pytest.fixture
def make_ready(tmp_path):
    def make(**save):
        table = {
            "model": {"pretrained_model_name_or_path": "base"},
            "save": {"output_dir": str(tmp_path / "out"), **save},
            "datasets": [{"subsets": [{"image_dir": "pictures"}]}],
        }
        return SimpleNamespace(
            job=schema.Job.model_validate(table), pictures=(), validation=(), resolution=(16, 16), steps=3,
            pictures_per_step=4, epoch_length=40, batch_size=lambda number: 1,
            folder=RunFolder(tmp_path / "out", "waveft"), home=tmp_path,
        )  # fmt: skip

    return make


@pytest.fixture
def ready(make_ready):
    return make_ready()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out" / "waveft.safetensors"


def adapter(value=0.5):
    layer = waveft_core.Layer(torch.tensor([value, -1.0]), torch.tensor([0, 5], dtype=torch.int32), (4, 4))
    return AdapterProduct(waveft_core.Adapter({"lora_unet_a": layer}, "db1", "periodization", 25.0))


def save(ready, path=None, **keys):
    path = path or Path(ready.job.save.output_dir) / "waveft.safetensors"
    return adapterfile.save(adapter(**keys), path, ready, 3, "no", BASE)


def test_the_file_and_its_hash(ready, target):
    path = save(ready)
    assert path == target
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    found = waveft_core.load(path)
    assert found.layers["lora_unet_a"].values.tolist() == [0.5, -1.0]
    assert found.metadata["sshs_model_hash"] == metadata.hash_tensors(path)
    assert found.metadata["modelspec.hash_sha256"] == "0x" + metadata.hash_tensors(path)


def test_the_same_run_is_the_same_bytes_anywhere(make_ready, tmp_path):
    first = save(make_ready()).read_bytes()
    assert save(make_ready()).read_bytes() == first  # what is there is replaced
    assert save(make_ready(output_dir=str(tmp_path / "elsewhere"))).read_bytes() == first
    assert save(make_ready(), value=0.25).read_bytes() != first


def test_a_checkpoint_goes_where_the_caller_says(ready, target):
    path = target.with_name("waveft-step00000002.safetensors")
    assert save(ready, path) == path
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_no_metadata_leaves_a_whole_adapter(make_ready, target):
    ready = make_ready()
    ready.job = ready.job.model_copy(update={"metadata": schema.Metadata(no_metadata=True)})
    assert set(waveft_core.load(save(ready)).metadata) <= {"waveft"}


def test_what_cannot_be_written(ready, target):
    target.mkdir(parents=True)
    with pytest.raises(TrainingStopped, match="could not be written"):
        save(ready)


def test_what_is_read_back_must_be_what_was_written(ready):
    path = save(ready)
    adapterfile.verify(adapter(), path, torch.float32)
    with pytest.raises(TrainingStopped, match="expected to read back what was written"):
        adapterfile.verify(adapter(0.25), path, torch.float32)
    other = AdapterProduct(waveft_core.Adapter(adapter().adapter.layers, "db1", "periodization", 24.0))
    with pytest.raises(TrainingStopped, match="expected to read back what was written"):
        adapterfile.verify(other, path, torch.float32)


@pytest.mark.parametrize("error", [ValueError("odd"), IndexError("odd"), OSError("odd")])
def test_tensors_outlive_whatever_fails_after_them(ready, target, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(metadata, "collect", fail)
    for name in ("waveft-tensors.safetensors", "waveft-tensors-2.safetensors"):
        with pytest.raises(TrainingStopped, match=f"odd.*{name}") as raised:
            save(ready)
        kept = target.with_name(name)
        assert str(kept) in str(raised.value)
        assert waveft_core.load(kept).layers["lora_unet_a"].values.tolist() == [0.5, -1.0]
    assert len(list(kept.parent.iterdir())) == 2


def test_tensors_outlive_ctrl_c_and_a_bad_read(ready, target, monkeypatch):
    kept = target.with_name("waveft-tensors.safetensors")
    for error in (KeyboardInterrupt, waveft_core.WaveFTError):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(adapterfile, "verify", fail)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else TrainingStopped):
            save(ready)
        assert waveft_core.load(kept).layers
        kept.unlink()


def test_values_beyond_the_files_precision_are_kept_as_fp32(make_ready, target):
    ready = make_ready(save_precision="fp16")
    with pytest.raises(TrainingStopped, match=r"waveft-tensors\.safetensors"):
        save(ready, value=1e6)
    kept = waveft_core.load(target.with_name("waveft-tensors.safetensors"))
    assert kept.layers["lora_unet_a"].values.tolist() == [1e6, -1.0]


def test_nothing_of_a_killed_run_passes_for_this_one(ready, target, monkeypatch):
    target.parent.mkdir()
    target.with_name(".waveft.safetensors.tensors.tmp").write_bytes(b"old")
    real, calls = waveft_core.save, []

    def first_fails(*arguments, **keys):
        calls.append(1)
        if len(calls) == 1:
            raise OSError("odd")
        real(*arguments, **keys)

    monkeypatch.setattr(waveft_core, "save", first_fails)
    with pytest.raises(TrainingStopped, match=r"odd What was trained is in .*waveft-tensors\.safetensors"):
        save(ready)
    assert waveft_core.load(target.with_name("waveft-tensors.safetensors")).layers


def lora():
    tensors = {
        "lora_unet_a.lora_down.weight": torch.full((2, 4), 0.3),
        "lora_unet_a.lora_up.weight": torch.full((4, 2), 1e5),
        "lora_unet_a.alpha": torch.tensor(3.0),
    }
    return TensorProduct(LoraMethod, tensors, {"lora_unet_a": (4, 4)}, {"network_module": "networks.lora"})


def test_files_of_other_methods_are_written_and_rescued_alike(make_ready, target, monkeypatch):
    ready = make_ready(save_precision="bf16")
    ready.job = ready.job.model_copy(update={"network": Lora(network_dim=2)})
    path = adapterfile.save(lora(), target, ready, 3, "no", BASE)
    with safe_open(path, "pt") as file:
        told = file.metadata()
        assert {file.get_tensor(name).dtype for name in file.keys() if "weight" in name} == {torch.bfloat16}  # noqa: SIM118
        assert file.get_tensor("lora_unet_a.alpha").dtype == torch.float32
    assert (told["ss_network_module"], told["modelspec.hash_sha256"]) == (
        "networks.lora", f"0x{metadata.hash_tensors(path)}",
    )  # fmt: skip
    first = path.read_bytes()
    assert adapterfile.save(lora(), target, ready, 3, "no", BASE).read_bytes() == first
    path.unlink()
    with pytest.raises(TrainingStopped, match=r"waveft-tensors\.safetensors"):  # 1e5 is beyond fp16
        adapterfile.save(lora(), target, make_ready(save_precision="fp16"), 3, "no", BASE)
    kept = shipped.load(target.with_name("waveft-tensors.safetensors"))
    assert kept.delta("lora_unet_a", (4, 4))["weight"][0, 0] == pytest.approx(2 * 0.3 * 1e5 * 3 / 2)
