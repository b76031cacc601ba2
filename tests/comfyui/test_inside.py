"""What a server on the CPU cannot show, run inside ComfyUI's own Python: memory saving, fp8, and a merge that fails."""

import json
from pathlib import Path

import pytest
import torch

from tests.comfyui.weights import TEXT_SHAPES, attention_shapes, write_adapter

pytestmark = pytest.mark.comfyui

PACK = Path(__file__).parents[2]


def figures(comfyui, script, path, folder, shapes):
    (folder / "models/waveft").mkdir(parents=True)
    write_adapter(folder / "models/waveft/a.safetensors", shapes)
    arguments = (PACK, path, folder / "models", "a.safetensors")
    return json.loads(comfyui.script(f"in_process/{script}", *arguments).splitlines()[-1])


def test_whole_and_at_each_forward_in_every_dtype(comfyui, checkpoint, tmp_path):
    path = checkpoint("micro", clip=True)
    found = figures(comfyui, "low_memory.py", path, tmp_path, {**attention_shapes(path), **TEXT_SHAPES})
    assert len(found) == 5
    for name, of in found.items():
        print(f"\n{name}: whole {of['whole']}, low VRAM {of['low_vram']}, text {of['text']}", end="")
        assert of["stored"] == name
        assert of["report"].startswith("91/91 layers")
        assert (of["whole"]["layers"], of["low_vram"]["layers"], of["text"]["layers"]) == (88, 88, 3)
        assert of["restored"] and of["text"]["restored"] and of["again"]
        assert of["kept"] > 0 and of["left"] == 0, "ComfyUI took the model off the device: nothing stays there"
        is_small = "float8" in name
        for part in ("whole", "low_vram"):
            assert ("off" in of[part]) >= (is_small and part == "whole")
            assert of[part].get("off", 0.0) <= 1e-5 and of[part].get("excess", 0.0) <= 1e-6, (name, part)
        assert of["text"]["excess"] <= 1e-6
        compute = torch.float32 if is_small else getattr(torch, name.removeprefix("torch."))
        assert of["low_vram"]["forward"] <= 4 * torch.finfo(compute).eps


def test_scaled_fp8_and_weights_that_are_dequantised_at_each_forward(comfyui, checkpoint, tmp_path):
    path = checkpoint("micro")
    found = figures(comfyui, "quantised.py", path, tmp_path, attention_shapes(path))
    print(f"\n{json.dumps(found, indent=1)}", end="")
    scaled = found["scaled_fp8"]
    assert scaled["stored"] == "torch.float8_e4m3fn"
    assert scaled["whole"]["layers"] == 88
    assert scaled["restored"]
    assert scaled["whole"].get("off", scaled["whole"].get("excess")) <= 1e-5  # "excess": over ComfyUI's own rounding
    assert scaled["extracted"]["layers"] == 88
    assert scaled["extracted"]["error"] <= 1e-4
    assert scaled["whole"]["forward"] <= 1e-5
    assert scaled["low_vram"]["forward"] <= 1e-5
    for of in found["gguf_like"].values():
        assert of["layers"] == 88
        assert of["excess"] <= 1e-6


def test_a_merge_that_raises_half_way_leaves_the_base_and_the_next_merge_whole(comfyui, checkpoint, tmp_path):
    path = checkpoint("micro")
    found = figures(comfyui, "raised.py", path, tmp_path, attention_shapes(path))
    assert found["raised"] == "half-way"
    assert found["restored"]
    assert found["next"]["layers"] == 88
    assert found["next"]["excess"] <= 1e-6
