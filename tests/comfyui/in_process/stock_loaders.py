"""LoRAs as other packs load them: with ComfyUI's own functions, on a state dict that they may have changed.

stock_loaders.py COMFYUI_DIR PACK CHECKPOINT MODELS_DIR ADAPTER LORA
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import inside
import torch

COMFYUI, PACK, CHECKPOINT, MODELS, ADAPTER, LORA = sys.argv[1:7]
inside.use(COMFYUI, MODELS)

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import comfy.weight_adapter  # noqa: E402

WARNINGS: list[str] = []
COUNT = 20


class Heard(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        WARNINGS.append(record.getMessage())


def loaded(lora: dict[str, torch.Tensor], keys: dict[str, str]) -> dict[str, Any]:
    return dict(comfy.lora.load_lora(lora, keys))


def cost_us(keys: dict[str, str]) -> float:
    """Returns how much longer a plain LoRA takes for our class, by name and file, in microseconds."""
    lora = comfy.utils.load_torch_file(LORA)
    kind = comfy.weight_adapter.adapters[-1]
    began = time.perf_counter()
    for _ in range(COUNT):
        for name in keys:
            kind.load(name, lora, None, None, set())
    return (time.perf_counter() - began) / COUNT / len(keys) * 1e6


def main() -> None:
    nodes, package = inside.load_pack(PACK)
    stock = importlib.import_module(f"{package.__name__}.patching.stock")
    twin = Path(MODELS).parent / "twin"
    twin.symlink_to(PACK)
    inside.load_pack(str(twin))
    kinds = [kind.__name__ for kind in comfy.weight_adapter.adapters]
    found: dict[str, Any] = {"kinds named WaveFTAdapter": kinds.count("WaveFTAdapter")}

    model, *_ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT, output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
    )
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    found["us for each name of a plain LoRA"] = cost_us(keys)
    logging.getLogger().addHandler(Heard())
    lora = comfy.utils.load_torch_file(ADAPTER, safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)
    found["layers"] = len(patched.patches)
    found["not loaded"] = [words for words in WARNINGS if "not loaded" in words.lower()]
    Path(MODELS, "waveft/a.safetensors").symlink_to(ADAPTER)
    ours = nodes["WaveFTLoader"].execute(model=model, adapter_name="a.safetensors", strength_model=0.7).result[0]
    weights = {}
    for name, one in (("theirs", patched), ("ours", ours)):
        one.load(torch.device("cpu"), full_load=True)
        weights[name] = inside.copied(one, inside.attention_keys(one))
        one.unpatch_model(torch.device("cpu"))
    found["same as ours"] = inside.same(weights["theirs"], weights["ours"])

    first, second = (next(iter(loaded(lora, keys).values())).carried for _ in range(2))
    found["read once"] = first is second
    name = next(name for name in lora if name.endswith(".waveft_values"))
    layer = name.removesuffix(".waveft_values")
    halved = loaded(lora | {name: lora[name] / 2}, keys)[keys[layer]].carried.adapter
    found["read anew when a tensor is exchanged"] = torch.equal(halved.layers[layer].values, lora[name] / 2)
    rest = loaded({key: tensor for key, tensor in lora.items() if not key.startswith(f"{layer}.")}, keys)
    found["a removed layer stays out"] = len(rest) == 87 and keys[layer] not in rest
    del lora, patched, ours, first, second, halved, rest
    gc.collect()
    found["forgotten with the file"] = not stock._READ
    print(json.dumps(found))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
