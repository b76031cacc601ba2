"""Test helper, an extension of its own: GET /probe/weights?out=FILE writes the loaded model's attention weights.

Keys are the layer names of WaveFT files. What is written is what lies in the modules at that moment: A1111 and Forge
change it during a generation and leave it so until the next one. Where a UI merges at every forward instead, it is what
the next forward would make of it, rounded to what lies there.

With WAVEFT_PROBE_LOW_VRAM=1 in the environment a Forge or kin loads every model as on a device that has no memory to
spare, which none of them does for a CPU.
"""

import inspect
import os
import re
import sys

import torch
from fastapi import FastAPI
from modules import script_callbacks, shared
from safetensors.torch import save_file

TE2 = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.")


def weights() -> dict[str, torch.Tensor]:
    model = shared.sd_model
    found = {}
    if hasattr(model, "forge_objects"):
        unet = model.forge_objects.unet.model.diffusion_model
        clip = model.forge_objects.clip
        held = clip.cond_stage_model
        encoders = {"te1": getattr(held, "clip_l", None), "te2": getattr(held, "clip_g", None)}
    else:
        unet = model.model.diffusion_model
        encoders = {f"te{i + 1}": e.wrapped for i, e in enumerate(model.conditioner.embedders[:2])}
    for name, value in unet.named_parameters():
        if re.search(r"attn[12]\.to_(q|k|v|out\.0)\.weight$", name):
            found["lora_unet_" + name.removesuffix(".weight").replace(".", "_")] = used(unet, name, value)
    for prefix, encoder in encoders.items():
        for name, value in encoder.named_parameters() if encoder is not None else ():
            value, name = used(encoder, name, value), name.replace("original_name.", "")
            if "self_attn" in name and name.endswith("_proj.weight"):
                inner = name[name.index("encoder.layers") :].removesuffix(".weight").replace(".", "_")
                found[f"lora_{prefix}_text_model_{inner}"] = value
            elif place := TE2.search(name):
                stem = f"lora_{prefix}_text_model_encoder_layers_{place[1]}_self_attn_"
                if name.endswith("in_proj_weight"):
                    for part, third in zip("qkv", value.chunk(3), strict=True):
                        found[stem + f"{part}_proj"] = third
                elif name.endswith("out_proj.weight"):
                    found[stem + "out_proj"] = value
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def used(model, name: str, value: torch.Tensor) -> torch.Tensor:
    """Returns a weight as the next forward will have it."""
    module = model.get_submodule(name.rpartition(".")[0])
    functions = getattr(module, "weight_function", ())
    merged_later = getattr(module, "forge_online_loras", {}).get("weight") if name.endswith(".weight") else None
    if not name.endswith(".weight") or not (functions or merged_later):
        return value
    with torch.inference_mode():
        wide = value.to(torch.float32, copy=True)
        for function in functions:
            wide = function(wide)
        if merged_later:
            merge = sys.modules["backend.patcher.lora"].merge_lora_to_weight
            wide = merge(patches=merged_later, weight=wide, computation_dtype=torch.float32)
        return wide.to(value.dtype)


def hold_back() -> None:
    """Has the UI load all models as where a device has no memory to spare."""
    names = ("backend.memory_management", "ldm_patched.modules.model_management")
    managing = next(sys.modules[name] for name in names if name in sys.modules)
    load = managing.LoadedModel.model_load
    least = 0.1 if "lowvram_model_memory" in inspect.signature(load).parameters else 0  # as each does for NO_VRAM

    def model_load(self, _=None, *more, **named):
        return load(self, least, *more, **named)

    managing.LoadedModel.model_load = model_load


if os.environ.get("WAVEFT_PROBE_LOW_VRAM"):
    hold_back()


def started(_, app: FastAPI) -> None:
    @app.get("/probe/weights")
    def write(out: str):
        found = weights()
        save_file(found, out)
        return {"tensors": len(found), "dtypes": sorted({str(v.dtype) for v in found.values()})}


script_callbacks.on_app_started(started)
