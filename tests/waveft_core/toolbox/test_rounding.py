import pytest
import torch

from waveft_core import Adapter, Layer, WaveFTError
from waveft_core.toolbox.rounding import rounded_to


def make(values, dtype=torch.float32):
    values = torch.tensor(values, dtype=dtype)
    layer = Layer(values, torch.arange(len(values), dtype=torch.int32), (4, 4))
    return Adapter({"lora_a": layer}, "db1", "periodization", 25.0, "uniform:1", {"ss_x": "y"}, "a.safetensors")


def test_values_are_rounded_and_what_it_costs_is_told():
    adapter = make([1.0, 1.001, 3.0e-9, 0.0])
    made = rounded_to(adapter, torch.float16)
    held = made.adapter.layers["lora_a"]
    assert torch.equal(held.values, torch.tensor([1.0, 1.001, 0.0, 0.0], dtype=torch.float16))
    assert torch.equal(held.indices, adapter.layers["lora_a"].indices)
    assert made.vanished == 1
    lost = abs(float(held.values[1]) - float(torch.tensor(1.001)))
    assert made.error == pytest.approx(lost / 2**0.5, rel=1e-2)
    assert (made.adapter.scaling, made.adapter.locations, dict(made.adapter.metadata)) == (
        25.0,
        "uniform:1",
        {"ss_x": "y"},
    )


def test_values_of_that_dtype_are_left_alone():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        adapter = make([1.0, 2.0], dtype)
        assert rounded_to(adapter, dtype).adapter is adapter


def test_float64_becomes_float32_and_zeros_have_no_error():
    made = rounded_to(make([0.1], torch.float64), torch.float32)
    assert made.adapter.layers["lora_a"].values.dtype == torch.float32
    assert 0 < made.error < 1e-7
    assert rounded_to(make([0.0]), torch.bfloat16).error == 0


def test_a_value_too_large_is_refused_with_a_dtype_that_holds_it():
    with pytest.raises(
        WaveFTError, match=r'"a.safetensors", layer "lora_a", values: .*65504 for float16, got 70000.*bfloat16'
    ):
        rounded_to(make([1.0, -70000.0]), torch.float16)
    assert rounded_to(make([-70000.0]), torch.bfloat16).vanished == 0
    with pytest.raises(WaveFTError, match="float32, float16 or bfloat16"):
        rounded_to(make([1.0]), torch.float64)
