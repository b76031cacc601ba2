"""Checkpoints of random weights, exact in architecture, that ComfyUI takes for SDXL's.

    COMFYUI_PYTHON tests/comfyui/checkpoints.py COMFYUI_DIR micro|narrow|sdxl FILE [--no-clip] [--no-vae] [--seed 0]

Names and shapes come from ComfyUI's own modules on the meta device. A tensor depends on its name and the seed alone,
and is made and written by itself: the 6.9 GB of `sdxl` need less than 1 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

UNET: dict[str, Any] = {  # SDXL's, in ComfyUI's words
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048, "num_head_channels": 64,
    "num_heads": -1, "adm_in_channels": 2816, "num_classes": "sequential", "use_spatial_transformer": True,
    "use_linear_in_transformer": True, "use_checkpoint": False, "legacy": False, "use_temporal_attention": False,
    "use_temporal_resblock": False,
}  # fmt: skip
VAE: dict[str, Any] = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
# ComfyUI tells an SDXL by model_channels, transformer_depth, context_dim and adm_in_channels, and reads the rest off
# the file: so the rest may shrink.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sdxl": {},  # 560 attention layers, 2.6 billion parameters
    "narrow": {"channel_mult": [1, 1, 1]},  # the same 560 names, every width 320
    "micro": {  # the least that passes for a relative of SDXL: 88 attention layers, 74 million parameters
        "channel_mult": [1, 1, 1], "num_res_blocks": [1, 1, 1], "transformer_depth": [0, 2, 5],
        "transformer_depth_output": [0, 0, 1, 1, 1, 1], "transformer_depth_middle": -2,
    },
}  # fmt: skip


def shapes(architecture: str, clip: bool = True, vae: bool = True) -> dict[str, tuple[int, ...]]:
    """Returns {key: shape} of a checkpoint; `comfy` must be importable."""
    import comfy.ops
    import comfy.sdxl_clip
    import comfy.supported_models
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    config = UNET | ARCHITECTURES[architecture]
    lists = {key: list(value) if isinstance(value, list) else value for key, value in config.items()}  # it pops
    with torch.device("meta"):
        parts = {"model.diffusion_model.": UNetModel(**lists, device="meta", operations=comfy.ops.disable_weight_init)}
        if vae:
            parts["first_stage_model."] = AutoencoderKL(ddconfig=VAE, embed_dim=4)
        found = {
            f"{prefix}{key}": tuple(weight.shape)
            for prefix, part in parts.items()
            for key, weight in part.state_dict().items()
        }
        if clip:
            encoders = comfy.sdxl_clip.SDXLClipModel(device="meta", dtype=torch.float16).state_dict()
            encoders = comfy.supported_models.SDXL(dict(config)).process_clip_state_dict_for_saving(encoders)
            found |= {key: tuple(weight.shape) for key, weight in encoders.items()}
    return found


def tensor(key: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Returns a tensor that keeps a signal's size from layer to layer: float16, the position numbers int64."""
    if key.endswith("position_ids"):
        return torch.arange(77).expand(shape).contiguous()
    if key.endswith("logit_scale"):
        return torch.ones(shape, dtype=torch.float16)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {key}".encode()))
    drawn = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return (0.02 * drawn + (0.0 if key.endswith("bias") else 1.0)).half()  # the others are the norms' gains
    if "embedding" in key:
        return (0.02 * drawn).half()
    return (drawn / math.sqrt(math.prod(shape[1:]))).half()


def write(path: Path, keys: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
    """Writes a safetensors file, tensor by tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for key, shape in keys.items():
        dtype, width = ("I64", 8) if key.endswith("position_ids") else ("F16", 2)
        end = at + width * math.prod(shape)
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, shape in keys.items():
            file.write(tensor(key, shape, seed).numpy().tobytes())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes a checkpoint of random weights in SDXL's architecture.")
    parser.add_argument("comfyui", help="a ComfyUI checkout")
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--no-clip", action="store_true", help="leave out the text encoders (1.6 GB)")
    parser.add_argument("--no-vae", action="store_true", help="leave out the VAE (0.2 GB)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    sys.path.insert(0, options.comfyui)
    import comfy.options  # noqa: F401 - keeps comfy.cli_args from reading our command line
    from comfy.cli_args import args

    args.cpu = True  # before model_management looks for CUDA
    write(options.file, shapes(options.architecture, not options.no_clip, not options.no_vae), options.seed)
    print(f"{options.file}: {options.architecture}, {options.file.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
