"""Metadata by which user interfaces sort and recognise a file: which model it is for, and a hash of its tensors.

A1111 and its kin hide a file that has metadata, but not this, from the list of an SDXL model. Every writer of ours adds
them; `save` itself writes what it is given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from .adapter import Adapter, Layer
from .file import tensors_hash

BASE_VERSION, MODEL_HASH = "ss_base_model_version", "sshs_model_hash"
SDXL_VERSION = "sdxl_base_v1-0"
SDXL_ARCHITECTURE = "stable-diffusion-xl-v1-base/waveft"

_CONTEXT = 2048  # numbers that SDXL's cross-attention reads of each token: both text encoders' side by side
_WIDTHS = (640, 1280)
_UNET = re.compile(
    r"lora_unet_(?:input_blocks|middle_block|output_blocks)_.*_transformer_blocks_(\d+)_(attn[12])_to_(\w+)"
)


def hub_metadata(adapter: Adapter, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Returns what a file of the adapter should say beside its own metadata: the model where its layers show it, and
    the hash.

    Args:
        dtype: in which the values are written.
    """
    digest = tensors_hash(adapter, dtype)
    found = {MODEL_HASH: digest, "sshs_legacy_hash": digest[:8], "modelspec.hash_sha256": f"0x{digest}"}
    if is_sdxl(adapter.layers):
        told = {"modelspec.architecture": SDXL_ARCHITECTURE, BASE_VERSION: SDXL_VERSION}
        found |= {key: adapter.metadata.get(key) or value for key, value in told.items()}
    return found


def is_sdxl(layers: Mapping[str, Layer]) -> bool:
    """Says whether layers are those of SDXL, by their names and shapes.

    Names alone do not tell: a small model of SDXL's kind has the same.
    """
    unet = [(found, held.shape) for name, held in layers.items() if (found := _UNET.fullmatch(name))]
    context = [shape[1] for found, shape in unet if found[2] == "attn2" and found[3] in ("k", "v")]
    if context:
        return set(context) == {_CONTEXT}
    if unet:  # SD 1.5 has blocks of these widths too, one transformer deep
        return all(shape[0] in _WIDTHS for _, shape in unet) and any(int(found[1]) >= 1 for found, _ in unet)
    second = [held.shape[0] for name, held in layers.items() if name.startswith("lora_te2_text_model_encoder_")]
    return bool(second) and min(second) >= 1280
