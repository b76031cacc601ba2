"""Files of other methods as ComfyUI's own loader merges them, beside what was trained.

methods.py COMFYUI_DIR CHECKPOINT FOLDER, which holds NAME.safetensors and NAME.expected: what each weight should gain.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import inside
import torch
from safetensors.torch import load_file

COMFYUI, CHECKPOINT, FOLDER = sys.argv[1:4]
inside.use(COMFYUI)

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def judged(model: object, path: Path, keys: dict[str, str], heard: Heard) -> dict[str, object]:
    """Returns how far the merged weights of a file are from W + what was trained, and what was logged."""
    expected = load_file(path.with_suffix(".expected"))
    heard.said.clear()
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)
    base = patched.model.state_dict()
    wanted = {}
    for name, gain in expected.items():
        layer, _, what = name.partition(".")
        key = keys[layer].removesuffix("weight") + what
        wanted[key] = (base[key].double().clone() + gain.double(), gain)
    patched.load(torch.device("cpu"), full_load=True)
    merged = patched.model.state_dict()
    error = max(float((merged[key].double() - whole).abs().max()) for key, (whole, _) in wanted.items())
    gained = max(float(gain.abs().max()) for _, gain in wanted.values())
    found = {"weights": len(wanted), "patched": len(patched.patches), "error": error, "gained": gained}
    patched.unpatch_model(torch.device("cpu"))
    return {**found, "not loaded": [words for words in heard.said if "not loaded" in words.lower()]}


def main() -> None:
    heard = Heard()
    logging.getLogger().addHandler(heard)
    model, *_ = comfy.sd.load_checkpoint_guess_config(
        CHECKPOINT, output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
    )
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    files = sorted(Path(FOLDER).glob("*.safetensors"))
    print(json.dumps({path.stem: judged(model, path, keys, heard) for path in files}))


with torch.inference_mode():  # as ComfyUI executes nodes
    main()
