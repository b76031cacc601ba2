"""The same base with its features in another order: whether WaveFT needs neighbours in a weight to be neighbours.

Attention treats tokens alike, whatever their order: permuting them, as the paper says it did, changes no weight and no
result, and tests nothing. What a wavelet's cell lies on are features, the rows and columns of a weight. Here those
inside every transformer block and the ones inside every head are permuted, in all weights that read or write them, so
that the new base computes the same function to rounding, and any method trains on it as on the other. Left as they are:
the columns of cross-attention's keys and values, which are the text encoders' features.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from trainer.system.errors import UserError
from trainer.system.files import write_atomically
from trainer.system.reading import read_json

UNET = "unet"
INSIDE = re.compile(r"(.+\.attentions\.\d+)\.(.+)")
# Of a spatial transformer: which of a tensor's sides are the features inside it.
BLOCK = r"transformer_blocks\.\d+\."
ROWS = re.compile(
    rf"proj_in\.(weight|bias)|{BLOCK}(norm[123]|attn[12]\.to_out\.0|ff\.net\.2)\.(weight|bias)",
)
COLUMNS = re.compile(rf"proj_out\.weight|{BLOCK}(attn1\.to_[qkv]|attn2\.to_q|ff\.net\.0\.proj)\.weight")
HEADS = re.compile(r"(transformer_blocks\.\d+\.attn[12])\.(to_[qkv])\.weight")  # rows are the features of the heads
HEADS_OUT = re.compile(r"(transformer_blocks\.\d+\.attn[12])\.to_out\.0\.weight")  # columns are


def make(base: Path, folder: Path, seed: int = 0) -> Path:
    """Returns a folder with the base, its features permuted, made where it is not there yet.

    Args:
        base: folder of a diffusers SDXL.
        folder: for the new base.
        seed: of the permutations, each of which depends on its place's name too.

    Raises:
        UserError: the base is no such folder, or its files are in several parts.
    """
    files = sorted((base / UNET).glob("*.safetensors")) if (base / UNET).is_dir() else []
    if len(files) != 1 or not (base / UNET / "config.json").is_file():
        raise UserError(
            f'--base "{base}": expected a diffusers folder with one .safetensors file in {UNET}/, got {len(files)}. '
            "Permuted features need one."
        )
    if (folder / "model_index.json").is_file():
        return folder
    shutil.copytree(base, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(files[0].name, "model_index.json"))
    heads = head_widths(read_json(base / UNET / "config.json"))
    save_file(permute(load_file(files[0]), heads, seed), folder / UNET / files[0].name, {"format": "pt"})
    for beside in (base / UNET).glob(f"../*/{files[0].name}"):  # the VAE's file may be called the same
        if beside.parent.name != UNET:
            shutil.copy2(beside, folder / beside.parent.name / beside.name)
    write_atomically(
        folder / "model_index.json", (base / "model_index.json").read_bytes()
    )  # last: it says that all is there
    return folder


def head_widths(config: Mapping[str, object]) -> dict[int, int]:
    """Returns width of a level -> features of a head, as the UNet's configuration has them.

    `attention_head_dim` is the number of heads there, by an old mistake of diffusers, unless that is given.
    """
    widths = config["block_out_channels"]
    heads = config.get("num_attention_heads") or config["attention_head_dim"]
    assert isinstance(widths, list)
    each = heads if isinstance(heads, list) else [heads] * len(widths)
    return {width: width // count for width, count in zip(widths, each, strict=True)}


def permute(tensors: Mapping[str, torch.Tensor], heads: Mapping[int, int], seed: int) -> dict[str, torch.Tensor]:
    """Returns a UNet's tensors with the features of its transformers and heads permuted.

    Args:
        tensors: by diffusers' names.
        heads: width of a transformer -> features of one of its heads.
        seed: of the permutations.
    """
    return {name: permuted(name, held, heads, seed) for name, held in tensors.items()}


def permuted(name: str, held: torch.Tensor, heads: Mapping[int, int], seed: int) -> torch.Tensor:
    """Returns one tensor with its rows and columns where they belong."""
    if not (found := INSIDE.fullmatch(name)):
        return held
    place, inside = found.groups()
    if ROWS.fullmatch(inside):
        held = held[order(seed, place, len(held))]
    if COLUMNS.fullmatch(inside):
        held = held[:, order(seed, place, held.shape[1])]
    if match := HEADS.fullmatch(inside):
        values = match[2] == "to_v"
        held = held[within_heads(seed, f"{place}.{match[1]}", len(held), heads[len(held)], values)]
    if match := HEADS_OUT.fullmatch(inside):
        width = held.shape[1]
        held = held[:, within_heads(seed, f"{place}.{match[1]}", width, heads[width], True)]
    return held.contiguous()


def order(seed: int, place: str, size: int) -> torch.Tensor:
    """Returns a permutation that depends on seed and place alone, [size]."""
    import hashlib

    digest = hashlib.sha256(f"{seed}|features|{place}".encode()).digest()
    return torch.from_numpy(np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(size))


def within_heads(seed: int, place: str, width: int, size: int, values: bool) -> torch.Tensor:
    """Returns a permutation of a layer's heads, and of each one's features: keys' (and queries') or values'."""
    blocks = order(seed, f"{place} heads", width // size)
    inner = "values" if values else "keys"
    return torch.cat([int(block) * size + order(seed, f"{place} {inner} {int(block)}", size) for block in blocks])
