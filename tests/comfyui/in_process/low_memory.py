"""Whole and at each forward (`LowVramPatch`), in every storage dtype; text encoders too.

low_memory.py COMFYUI_DIR PACK CHECKPOINT MODELS_DIR ADAPTER
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
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
from comfy.model_patcher import LowVramPatch  # noqa: E402

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
CPU = torch.device("cpu")


# Whether LowVramPatch rounds to the storage dtype itself, as it did until ComfyUI handed it weights to compute with.
ROUNDS = not hasattr(LowVramPatch, "prepare")


def merged_at_forward(model: Any, keys: dict[str, str], compute: torch.dtype) -> inside.Weights:
    """Returns what ComfyUI's LowVramPatch makes of each weight: in its storage dtype, or in `compute`."""
    modules = dict(model.model.named_modules())
    merged = {}
    for key in keys.values():
        module = modules[key.removesuffix(".weight")]
        (patch,) = module.weight_function
        weight = module.weight.detach()
        merged[key] = patch(weight.clone() if ROUNDS else weight.to(compute, copy=True))
    return merged


def text_figures(clip: Any, text: Any, adapter: Any, keys: dict[str, str]) -> dict[str, Any]:
    weights = clip.cond_stage_model.state_dict
    base = {key: weights()[key].clone() for key in keys.values()}
    comfy.model_management.load_models_gpu([text.patcher], force_full_load=True)
    figures = inside.errors(weights(), inside.exact(base, adapter, keys))
    comfy.model_management.load_models_gpu([clip.patcher], force_full_load=True)
    return figures | {"restored": inside.same(weights(), base)}


def figures_of(dtype: torch.dtype, node: Any, adapter: Any, kept: Any) -> dict[str, Any]:
    is_small = dtype.itemsize == 1
    judge, compute = (inside.off, torch.float32) if is_small else (inside.errors, dtype)
    options = {"dtype": dtype}
    texts = {"dtype": torch.float32} if is_small else options
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT, output_vae=False, model_options=options, te_model_options=texts
    )
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    text_keys = {layer: names[layer] for layer in adapter.layers if layer.startswith("lora_te")}
    base = inside.copied(model, keys)
    wanted = inside.exact(base, adapter, keys)
    patched, text, report, *_ = node.execute(
        model=model, adapter_name=ADAPTER, strength_model=1.0, clip=clip, strength_clip=1.0
    ).result

    found: dict[str, Any] = {"report": report, "stored": str(next(iter(base.values())).dtype)}
    patched.load(CPU, full_load=True)
    found["whole"] = judge(inside.copied(patched, keys), wanted)
    patched.unpatch_model(CPU)
    patched.load(CPU, lowvram_model_memory=1)
    merged = merged_at_forward(patched, keys, compute)
    found["low_vram"] = (judge if ROUNDS else inside.errors)(merged, wanted)
    found["again"] = inside.same(merged_at_forward(patched, keys, compute), merged)  # from plans that were kept
    key = next(iter(keys.values()))
    found["low_vram"]["forward"] = inside.forward_error(patched, key, wanted[key].to(compute), compute)
    found["kept"] = kept.nbytes
    patched.detach()
    found["left"] = kept.nbytes
    found["restored"] = inside.same(inside.copied(model, keys), base)
    found["text"] = text_figures(clip, text, adapter, text_keys)
    return found


def main() -> None:
    nodes, package = inside.load_pack(PACK)
    adapter = inside.read_adapter(package, str(Path(MODELS, "waveft", ADAPTER)))
    kept = sys.modules[f"{package.__name__}.patching.layerpatch"]._KEPT
    print(json.dumps({str(dtype): figures_of(dtype, nodes["WaveFTLoader"], adapter, kept) for dtype in DTYPES}))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
