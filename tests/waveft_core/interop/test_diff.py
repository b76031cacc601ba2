import json
import subprocess
import sys

import pytest
import safetensors
import safetensors.torch
import torch

from waveft_core import Adapter, Layer, WaveFTError, merge
from waveft_core.format.container import read_layout
from waveft_core.interop import diff
from waveft_core.interop.diff import diff_size, write_diff
from waveft_core.interop.lora import deltas

SHAPES = {"lora_unet_a": (8, 12), "lora_unet_b": (4, 2, 3, 2)}


def read(path):
    return safetensors.torch.load_file(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("wavelet", "mode"), [("db1", "periodization"), ("db3", "zero"), ("identity", "periodization")]
)
def test_the_file_is_strength_delta_rounded_once(wavelet, mode, dtype, make_adapter, tmp_path):
    adapter = make_adapter(SHAPES, 9, wavelet, mode, scaling=25.0)
    write_diff(adapter, tmp_path / "a.safetensors", dtype, strength=-0.7)
    tensors = read(tmp_path / "a.safetensors")
    assert tensors.keys() == {"lora_unet_a.diff", "lora_unet_b.diff"}
    for name, shape in SHAPES.items():
        held = tensors[f"{name}.diff"]
        assert (held.dtype, tuple(held.shape)) == (dtype, shape)
        assert torch.equal(held, (adapter.delta(name) * -0.7).to(dtype))
    assert diff_size(adapter, dtype) == sum(held.numel() * held.element_size() for held in tensors.values())


def test_a_diff_applied_is_the_adapter_merged_to_the_files_rounding(make_adapter, tmp_path):
    adapter = make_adapter(SHAPES, 20, scaling=0.1)
    weights = {f"unet_{name[-1]}.weight": torch.randn(shape) for name, shape in SHAPES.items()}
    merged = {key: weight.clone() for key, weight in weights.items()}
    merge(merged, adapter)
    write_diff(adapter, tmp_path / "a.safetensors")
    for name, held in read(tmp_path / "a.safetensors").items():
        key = name.removeprefix("lora_").removesuffix(".diff") + ".weight"
        applied = weights[key] + held.float()
        rounding = torch.finfo(torch.float16).eps / 2 * held.abs().max() + 4 * torch.finfo(torch.float32).eps
        assert (applied - merged[key]).abs().max() <= rounding
        assert not torch.equal(merged[key], weights[key])


def test_a_diff_is_read_back_as_deltas(make_adapter, tmp_path):
    adapter = make_adapter(SHAPES)
    write_diff(adapter, tmp_path / "a.safetensors", torch.float32)
    got = dict(deltas(tmp_path / "a.safetensors"))
    assert got.keys() == SHAPES.keys()
    for name, delta in got.items():
        assert torch.equal(delta, adapter.delta(name))


def test_the_layers_are_made_one_by_one_and_sorted(make_adapter, tmp_path, monkeypatch):
    adapter = make_adapter({f"lora_{index}": (16, 16) for index in "badc"})
    alive, most = [], 0
    make = Adapter.delta

    def counted(self, *args, **more):
        nonlocal most
        made = make(self, *args, **more)
        alive.append(made)
        return made

    told = []
    monkeypatch.setattr(Adapter, "delta", counted)
    write_diff(adapter, tmp_path / "a.safetensors", progress=told.append)
    assert told == [512] * 4
    assert len(alive) == 4  # none is made to be checked when the values' norm already bounds it
    assert list(read_layout(tmp_path / "a.safetensors")[0]) == [f"lora_{index}.diff" for index in "abcd"]


def test_metadata_say_what_it_is(make_adapter, tmp_path):
    metadata = {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/waveft",
        "ss_base_model_version": "sdxl_base_v1-0",
        "sshs_model_hash": "of another file",
        "waveft.job": "...",
    }
    adapter = make_adapter(SHAPES, metadata=metadata)
    write_diff(adapter, tmp_path / "a.safetensors", strength=0.5, metadata={"modelspec.title": "mine"})
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        got = file.metadata()
    assert json.loads(got.pop("waveft.diff_of")) == adapter.header.to_dict()
    assert got == {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "mine",
        "ss_base_model_version": "sdxl_base_v1-0",
        "waveft.diff_strength": "0.5",
    }


def test_the_same_adapter_is_the_same_bytes(make_adapter, tmp_path):
    adapter = make_adapter(SHAPES, metadata={"ss_b": "1", "ss_a": "2"})
    for which in "ab":
        write_diff(adapter, tmp_path / which)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def large(value, count=1):
    layer = Layer(torch.full((count,), value), torch.arange(count, dtype=torch.int32), (4, 4))
    return Adapter({"lora_x": layer}, "identity", scaling=10.0)


def test_what_the_dtype_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(
        WaveFTError, match=r'layer "lora_x": expected differences within torch.float16 \(at most 65504\)'
    ):
        write_diff(large(7000.0), path)
    assert path.read_bytes() == b"mine"
    assert [held.name for held in tmp_path.iterdir()] == ["a.safetensors"]
    write_diff(large(7000.0), path, strength=0.9)
    assert read(path)["lora_x.diff"][0, 0] == 63000
    write_diff(large(7000.0), path, torch.bfloat16)
    write_diff(large(4000.0, 16), path)  # the norm alone is beyond float16, no entry is
    assert torch.isfinite(read(path)["lora_x.diff"]).all()


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), "1", True])
def test_a_strength_that_is_no_number_is_refused(strength, make_adapter, tmp_path):
    with pytest.raises(WaveFTError, match="strength: expected a finite number"):
        write_diff(make_adapter(SHAPES), tmp_path / "a", strength=strength)


def test_what_the_uis_do_not_read_is_refused(make_adapter, tmp_path):
    adapter = make_adapter(SHAPES)
    with pytest.raises(WaveFTError, match=r"dtype: expected float16, bfloat16 or float32, got torch\.float64"):
        write_diff(adapter, tmp_path / "a", torch.float64)
    with pytest.raises(WaveFTError, match="dtype: expected"):
        diff_size(adapter, torch.int8)
    with pytest.raises(WaveFTError, match="metadata: expected strings, got other values under n"):
        write_diff(adapter, tmp_path / "a", metadata={"n": 1})
    with pytest.raises(WaveFTError, match="expected an existing folder"):
        write_diff(adapter, tmp_path / "no" / "a")
    assert not list(tmp_path.iterdir())


def test_the_size_of_sdxl_is_told_without_making_it():
    index, value = torch.zeros(1, dtype=torch.int32), torch.ones(1)
    counts = {(640, 640): 60, (640, 2048): 20, (1280, 1280): 360, (1280, 2048): 120}
    layers = {
        f"lora_{shape[0]}_{shape[1]}_{number}": Layer(value, index, shape)
        for shape, count in counts.items()
        for number in range(count)
    }
    assert diff_size(Adapter(layers)) == 2 * 955_187_200
    assert diff.DTYPES[0] == torch.float16


PEAK = """
import resource, sys
import torch
from waveft_core import Adapter, Layer
from waveft_core.interop.diff import diff_size, write_diff

counts = {(640, 640): 60, (640, 2048): 20, (1280, 1280): 360, (1280, 2048): 120}
layers = {
    f"lora_unet_{shape[0]}_{shape[1]}_{number}": Layer(torch.ones(2592), torch.arange(2592, dtype=torch.int32), shape)
    for shape, count in counts.items()
    for number in range(count)
}
adapter = Adapter(layers, scaling=0.1)
adapter.delta("lora_unet_640_640_0")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_diff(adapter, sys.argv[1])
print(diff_size(adapter), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_full_size_sdxl_is_written_in_the_memory_of_a_layer(tmp_path):
    pytest.importorskip("resource", reason="peak memory is read through `resource`, which this system lacks")
    path = tmp_path / "a.safetensors"
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    size, grown_kib = map(int, done.stdout.split())
    assert size == 2 * 955_187_200
    assert 0 < path.stat().st_size - size < 2**18
    assert grown_kib < 64 * 1024  # a layer is 10 MiB in float32
    path.unlink()
