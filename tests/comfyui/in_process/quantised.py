"""Weights that are not stored as themselves: scaled fp8, and a GGUF-like model.

    quantised.py COMFYUI_DIR PACK CHECKPOINT MODELS_DIR ADAPTER

ComfyUI-GGUF keeps a layer's patches beside its quantised tensor and merges when it dequantises, at each forward: it
moves the tensors, tuples and lists of a patch to the device, and hands everything else to ComfyUI's `calculate_weight`
as it is. So here: a patch list that went through such a mover, and weights in blocks of int8.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import inside
import torch

COMFYUI, PACK, CHECKPOINT, MODELS, ADAPTER = sys.argv[1:6]
inside.use(COMFYUI, MODELS)

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402

FP8 = torch.float8_e4m3fn
CPU = torch.device("cpu")
BLOCK = 32


def scaled_checkpoint() -> dict[str, torch.Tensor]:
    """Returns the checkpoint with its attention weights in fp8, each with a scale that leaves room for dW."""
    found = comfy.utils.load_torch_file(CHECKPOINT)
    for key in [key for key in found if ".attn" in key and ".to_" in key and key.endswith(".weight")]:
        scale = 8 * found[key].float().abs().max() / torch.finfo(FP8).max
        found[key] = (found[key].float() / scale).to(FP8)
        found[key.removesuffix("weight") + "scale_weight"] = scale
    return found | {"model.diffusion_model.scaled_fp8": torch.tensor([], dtype=FP8)}


def scaled_fp8(nodes: Any, adapter: Any) -> dict[str, Any]:
    """Returns figures of a model in scaled fp8: in newer versions of ComfyUI its weights are tensors of a kind."""
    model, *_ = comfy.sd.load_state_dict_guess_config(scaled_checkpoint(), output_vae=False, output_clip=False)
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    own = hasattr(comfy.utils.get_attr(model.model, next(iter(keys.values()))), "requantize_from_float")
    merge = own_kind if own else with_scales
    patched = nodes["WaveFTLoader"].execute(model=model, adapter_name=ADAPTER, strength_model=1.0).result[0]
    return merge(model, patched, adapter, keys) | {"extracted": extracted(nodes, model, patched, adapter, keys)}


def extracted(nodes: Any, model: Any, patched: Any, adapter: Any, keys: dict[str, str]) -> dict[str, Any]:
    """Returns how far what Extract WaveFT finds in the patched model is from the adapter, over its largest entry."""
    count = max(len(layer.values) for layer in adapter.layers.values())
    found, *_ = (
        nodes["WaveFTExtract"]
        .execute(
            base_model=model, tuned_model=patched, budget="coefficients per layer", coefficients=count, energy=0.9,
            layers="attention", wavelet=adapter.wavelet, scaling=25.0, lora_name="None",
        )
        .result
    )  # fmt: skip
    worst = 0.0
    for layer in keys:
        wanted = adapter.delta(layer)
        worst = max(worst, float((found.adapter.delta(layer) - wanted).abs().max() / wanted.abs().max()))
    return {"layers": len(found.adapter.layers), "error": worst}


def own_kind(model: Any, patched: Any, adapter: Any, keys: dict[str, str]) -> dict[str, Any]:
    """Returns the figures where a weight is one tensor, its scale in it, which is rounded anew with a scale of its own.

    "excess" is over that rounding: a step of e4m3, an eighth, or the smallest of the scale.
    """

    def floats() -> inside.Weights:
        return {key: comfy.utils.get_attr(model.model, key).dequantize().float() for key in keys.values()}

    base = floats()
    wanted = inside.exact(base, adapter, keys)
    patched.load(CPU, full_load=True)
    whole = floats()
    excess = 0.0
    for key, exactly in wanted.items():
        step = torch.maximum(exactly.abs() / 8, exactly.abs().max() / torch.finfo(FP8).max / 2**9)
        excess = max(excess, float(((whole[key].double() - exactly).abs() - step).max()))
    key = next(iter(keys.values()))
    stored = comfy.utils.get_attr(model.model, key)
    found: dict[str, Any] = {"whole": {"layers": len(keys), "excess": excess}, "stored": str(stored.storage_dtype)}
    found["whole"]["forward"] = inside.forward_error(patched, key, whole[key].double(), torch.float32)
    patched.unpatch_model(CPU)
    patched.load(CPU, lowvram_model_memory=1)  # here the forward sees the exact sum
    found["low_vram"] = {"forward": inside.forward_error(patched, key, wanted[key], torch.float32)}
    patched.unpatch_model(CPU)
    return found | {"restored": inside.same(floats(), base)}


def with_scales(model: Any, patched: Any, adapter: Any, keys: dict[str, str]) -> dict[str, Any]:
    """Returns the figures where a weight's scale is a parameter beside it."""
    weights = model.model.state_dict()
    scales = {key: weights[key.removesuffix("weight") + "scale_weight"].clone() for key in keys.values()}
    base = inside.copied(model, keys)
    wanted = inside.exact(base, adapter, keys, scales)
    patched.load(CPU, full_load=True)
    whole = inside.copied(patched, keys)
    found = {"whole": inside.off(whole, wanted, scales), "stored": str(next(iter(whole.values())).dtype)}
    key = next(iter(keys.values()))
    as_stored = whole[key].double() * scales[key].double()
    found["whole"]["forward"] = inside.forward_error(patched, key, as_stored, torch.float32)
    patched.unpatch_model(CPU)
    patched.load(CPU, lowvram_model_memory=1)
    # the same key seeds the rounding: the forward sees the very weight that merging whole stores
    found["low_vram"] = {"forward": inside.forward_error(patched, key, as_stored, torch.float32)}
    patched.unpatch_model(CPU)
    found["restored"] = inside.same(inside.copied(model, keys), base)
    return found


def moved(item: Any, device: torch.device) -> Any:
    """Returns a patch with its tensors on a device, as far as tuples and lists go; any other object is left alone."""
    if isinstance(item, torch.Tensor):
        return item.to(device, copy=True)
    if isinstance(item, tuple | list):
        return type(item)(moved(part, device) for part in item)
    return item


def gguf_like(node: Any, adapter: Any) -> dict[str, Any]:
    model, *_ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT, output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
    )
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    patched = node.execute(model=model, adapter_name=ADAPTER, strength_model=1.0).result[0]
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.float16):
        merged, base = {}, {}
        for key, weight in inside.copied(model, keys).items():
            blocks = weight.reshape(-1, BLOCK)
            scale = blocks.abs().amax(1, keepdim=True) / 127
            quantised = (blocks / scale).round().to(torch.int8)
            patches = moved(patched.patches[key], CPU)
            for _ in range(2):  # each forward dequantises anew: the first must leave no trace in the patch
                base[key] = (quantised * scale).reshape(weight.shape).to(dtype)
                merged[key] = comfy.lora.calculate_weight(patches, base[key].clone(), key, intermediate_dtype=dtype)
        found[str(dtype)] = inside.errors(merged, inside.exact(base, adapter, keys))
    return found


def main() -> None:
    nodes, package = inside.load_pack(PACK)
    adapter = inside.read_adapter(package, str(Path(MODELS, "waveft", ADAPTER)))
    print(
        json.dumps({"scaled_fp8": scaled_fp8(nodes, adapter), "gguf_like": gguf_like(nodes["WaveFTLoader"], adapter)})
    )


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
