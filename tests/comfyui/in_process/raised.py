"""A merge that raises half-way, as a stock loader's would on a file that does not fit: what is left of the base.

raised.py COMFYUI_DIR PACK CHECKPOINT MODELS_DIR ADAPTER
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

import comfy.sd  # noqa: E402
from comfy.model_management import load_models_gpu  # noqa: E402
from comfy.weight_adapter import WeightAdapterBase  # noqa: E402


class Refusing(WeightAdapterBase):
    """A patch that raises when it is merged."""

    name, loaded_keys, weights = "refusing", set[str](), list[Any]()

    def calculate_weight(self, weight, *_):  # type: ignore
        raise ValueError("half-way")


def main() -> None:
    nodes, package = inside.load_pack(PACK)
    adapter = inside.read_adapter(package, str(Path(MODELS, "waveft", ADAPTER)))
    model, *_ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT, output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
    )
    keys = {layer: key for layer, key in inside.attention_keys(model).items() if layer in adapter.layers}
    base = inside.copied(model, keys)
    patched = nodes["WaveFTLoader"].execute(model=model, adapter_name=ADAPTER, strength_model=1.0).result[0]
    broken, found = patched.clone(), {}
    broken.add_patches({list(keys.values())[len(keys) // 2]: Refusing()})
    try:
        load_models_gpu([broken])
    except ValueError as error:
        found["raised"] = str(error)
    load_models_gpu([model])
    found["restored"] = inside.same(inside.copied(model, keys), base)
    load_models_gpu([patched])
    found["next"] = inside.errors(inside.copied(patched, keys), inside.exact(base, adapter, keys))
    print(json.dumps(found))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
