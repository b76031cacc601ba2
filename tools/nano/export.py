"""The finished base: a `StableDiffusionXLPipeline` in diffusers' layout."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from tools.nano.unet import make_scheduler

PARTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")


def export(
    out: Path, vae: AutoencoderKL, nets: torch.nn.ModuleDict, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
) -> StableDiffusionXLPipeline:
    """Writes the pipeline in fp16 in the place of an older one, and returns what was written, in fp32."""
    for name in PARTS:
        shutil.rmtree(out / name, ignore_errors=True)
    StableDiffusionXLPipeline(
        vae=copy.deepcopy(vae),
        text_encoder=copy.deepcopy(nets["text_encoder"]),
        text_encoder_2=copy.deepcopy(nets["text_encoder_2"]),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=copy.deepcopy(nets["unet"]),
        scheduler=make_scheduler(),
        add_watermarker=False,
    ).to(torch.float16).save_pretrained(out)
    return load(out)


def load(folder: Path) -> StableDiffusionXLPipeline:
    """Returns a base in fp32."""
    return StableDiffusionXLPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True, add_watermarker=False
    )
