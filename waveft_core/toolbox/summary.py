"""What an adapter is and where its energy lies: by block, by kind of layer, by sub-band (the paper's figure 7).

The energy of a coefficient is (scaling * value)^2; in an orthonormal basis their sum is ||dW||_F^2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..basis.atoms import IDENTITY, coeffs_shape
from ..basis.norm import norm as norm_of
from ..errors import Refusal
from ..format.adapter import Adapter, Layer, check_adapter
from ..format.disk import size_of
from .sources import Source

BANDS = ("aa", "ad", "da", "dd")
_ORDER = ("input_blocks", "middle_block", "output_blocks", "down_blocks", "mid_block", "up_blocks")


def summarize(
    adapter: Adapter, base: Source | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Returns what `inspect` tells of an adapter; JSON-ready.

    Args:
        base: the weights that it was trained on, against whose norms those of dW are set.
        progress: told 1 for each layer that is read, and the number of layers.

    Returns:
        `source`, `base_model` (what its metadata say it was trained for, or None), `wavelet`, `mode`, `scaling`,
        `locations`, `layers`, `coefficients` (`total`, and `min`, `median`, `max` per layer), `weights` (entries of the
        adapted layers), `bytes` (of its file), `norm` (||dW||_F over all layers; with a base `base_norm` and
        `relative`), `energy` (`total`, and by `block`, `kind` and `band`), `by_layer` (by name: `shape`,
        `coefficients`, `energy`, `norm`, with a base `relative`, and the energy by `band`), `metadata`.

    Raises:
        WaveFTError: a layer that the base lacks or has in another shape.
    """
    check_adapter(adapter)
    by_layer: dict[str, dict[str, Any]] = {}
    base_energy = 0.0
    for name, layer in adapter.layers.items():
        scaled = _scaled(adapter, layer)
        energy = np.square(scaled)
        norm = norm_of(adapter.wavelet, adapter.mode, layer.shape, layer.indices.cpu().numpy(), scaled)
        told = {
            "shape": list(layer.shape),
            "coefficients": layer.values.numel(),
            "energy": float(energy.sum()),
            "norm": norm,
            "band": _by_band(adapter, layer, energy),
        }
        if base is not None:
            against = _base_norm(adapter, name, layer, base)
            base_energy += against**2
            told["relative"] = norm / against if against else None
            if progress is not None:
                progress(1, len(adapter.layers))
        by_layer[name] = told
    counts = [layer.values.numel() for layer in adapter.layers.values()]
    norm = math.sqrt(sum(told["norm"] ** 2 for told in by_layer.values()))
    said = adapter.metadata
    return {
        "source": adapter.source or None,
        "base_model": said.get("modelspec.architecture") or said.get("ss_base_model_version"),
        **{key: getattr(adapter, key) for key in ("wavelet", "mode", "scaling", "locations")},
        "layers": len(counts),
        "coefficients": {
            "total": sum(counts),
            "min": min(counts),
            "median": float(np.median(counts)),
            "max": max(counts),
        },
        "weights": sum(math.prod(layer.shape) for layer in adapter.layers.values()),
        "bytes": size_of(adapter.source) if adapter.source else None,
        "norm": norm,
        **({"base_norm": math.sqrt(base_energy), "relative": norm / math.sqrt(base_energy)} if base_energy else {}),
        "energy": _grouped(by_layer),
        "by_layer": by_layer,
        "metadata": dict(said),
    }


def block_of(name: str) -> str:
    """Returns the block of a layer, such as `input_blocks.4` or `te1 layer 3`: its name up to its first number."""
    component, path = _parts(name)
    path = path.removeprefix("text_model_")
    middle = next((block for block in ("middle_block", "mid_block") if path.startswith(block)), None)
    found = re.match(r"(?:(.*?)_)?(\d+)(?=_|$)", path)
    if middle or not found:
        block = middle or path
    elif component.startswith("te"):
        block = f"layer {found[2]}"
    else:
        block = f"{found[1]}.{found[2]}" if found[1] else found[2]
    return block if component in ("", "unet") else f"{component} {block}"


def kind_of(name: str) -> str:
    """Returns the kind of a layer, such as `attn1_to_q`: its name from the last numbered block on."""
    _, path = _parts(name)
    inner = re.sub(r"^.*(?:blocks?|layers?|attentions|resnets)_\d+_(?=.)", "", path)
    return re.sub(r"^(\d+_)+(?=\D)", "", inner)


def band_of(adapter: Adapter, layer: Layer) -> np.ndarray:
    """Returns which of `BANDS` each coefficient lies in, [p]; `identity` has none and must not be asked for."""
    across, along = coeffs_shape(adapter.wavelet, adapter.mode, layer.shape)
    row, column = np.divmod(layer.indices.cpu().numpy(), along)
    found: np.ndarray = 2 * (row >= across // 2) + (column >= along // 2)
    return found


def _parts(name: str) -> tuple[str, str]:
    """Returns a layer's component ("" where it has none) and the rest of its name."""
    found = re.match(r"lora_(?:(unet|te\d)_)?(.*)", name)
    return (found[1] or "", found[2]) if found else ("", name)


def _scaled(adapter: Adapter, layer: Layer) -> np.ndarray:
    scaled: np.ndarray = layer.values.detach().double().cpu().numpy() * adapter.scaling
    return scaled


def _by_band(adapter: Adapter, layer: Layer, energy: np.ndarray) -> dict[str, float]:
    if adapter.wavelet == IDENTITY:
        return {}
    sums = np.bincount(band_of(adapter, layer), weights=energy, minlength=4)
    return dict(zip(BANDS, map(float, sums), strict=True))


def _base_norm(adapter: Adapter, name: str, layer: Layer, base: Source) -> float:
    fail = Refusal(adapter.source)
    remedy = "Give the base that it was trained on."
    if name not in base.slots:
        raise fail(name, "layer", "one that the base has", "no such layer there", remedy)
    if tuple(base.slots[name].shape) != layer.shape:
        raise fail(name, "weight of the base", list(layer.shape), list(base.slots[name].shape), remedy)
    norm = float(torch.linalg.vector_norm(base.read(name).detach().to(torch.float32), dtype=torch.float64))
    if not math.isfinite(norm):
        raise fail(name, "weight of the base", "finite numbers", "NaN or infinity", "The base is damaged.")
    return norm


def _grouped(by_layer: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the energy in all and by block, in the network's order, by kind and by sub-band."""
    blocks: dict[str, dict[str, float]] = {}
    kinds: dict[str, float] = {}
    bands = dict.fromkeys(BANDS, 0.0) if any(told["band"] for told in by_layer.values()) else {}
    for name in sorted(by_layer, key=_place):
        told = by_layer[name]
        block = blocks.setdefault(block_of(name), {"total": 0.0, **dict.fromkeys(bands, 0.0)})
        block["total"] += told["energy"]
        kind = kind_of(name)
        kinds[kind] = kinds.get(kind, 0.0) + told["energy"]
        for band, energy in told["band"].items():
            block[band] += energy
            bands[band] += energy
    total = sum(told["energy"] for told in by_layer.values())
    return {"total": total, "block": blocks, "kind": dict(sorted(kinds.items())), "band": bands}


def _place(name: str) -> tuple[object, ...]:
    """Returns what sorts layers as the network runs through them: the UNet's ways down, across and up, then others."""
    component, path = _parts(name)
    side = next((place for place, block in enumerate(_ORDER) if path.startswith(block)), len(_ORDER))
    number = re.search(r"\d+", path)
    return (component not in ("", "unet"), component, side, int(number[0]) if number else -1, name)
