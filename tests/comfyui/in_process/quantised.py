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


def scaled_fp8(node: Any, adapter: Any) -> dict[str, Any]:
    model, *_ = comfy.sd.load_state_dict_guess_config(scaled_checkpoint(), output_vae=False, output_clip=False)
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    weights = model.model.state_dict()
    scales = {key: weights[key.removesuffix("weight") + "scale_weight"].clone() for key in keys.values()}
    base = inside.copied(model, keys)
    wanted = inside.exact(base, adapter, keys, scales)
    patched = node.execute(model=model, adapter_name=ADAPTER, strength_model=1.0).result[0]
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
    node = nodes["WaveFTLoader"]
    print(json.dumps({"scaled_fp8": scaled_fp8(node, adapter), "gguf_like": gguf_like(node, adapter)}))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
