"""Which weight ComfyUI means by each of its spellings of a layer's name.

keys.py COMFYUI_DIR CHECKPOINT
"""

from __future__ import annotations

import json
import sys

import inside

COMFYUI, CHECKPOINT = sys.argv[1:3]
inside.use(COMFYUI)

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402

model, *_ = comfy.sd.load_checkpoint_guess_config(CHECKPOINT, output_vae=False, output_clip=False)
print(json.dumps(dict(comfy.lora.model_lora_keys_unet(model.model, {}))))
