"""What ComfyUI merged against what it should have: float64 and PyWavelets, sharing no code with the core."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pywt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from waveft_core import Adapter, Layer, save

ATTENTION = "*attn?.to_*.weight"  # DumpWeights' pattern for the layers that adapters change
TEXT_SHAPES = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    "lora_te1_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": (1280, 1280),
}


def layer_name(key: str) -> str:
    """Returns kohya's name for a weight's key, in a checkpoint or in ComfyUI."""
    inner = key.removeprefix("model.").removeprefix("diffusion_model.").removesuffix(".weight")
    return f"lora_unet_{inner.replace('.', '_')}"


def is_attention(key: str) -> bool:
    """Says whether a key is that of an attention layer's weight in the UNet."""
    return "diffusion_model." in key and ".attn" in key and ".to_" in key and key.endswith(".weight")


def attention_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Returns {layer: shape} of a checkpoint, from its header."""
    with safe_open(checkpoint, framework="pt") as file:
        keys = [key for key in file.keys() if is_attention(key)]  # noqa: SIM118 - it is no mapping
        return {layer_name(key): tuple(file.get_slice(key).get_shape()) for key in keys}


def attention_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Returns {layer: weight} of a checkpoint."""
    return {layer_name(key): weight for key, weight in load_file(checkpoint).items() if is_attention(key)}


def write_adapter(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int = 0, p: int = 2592, **basis) -> Path:
    """Writes an adapter of random coefficients, p in each layer, and returns its path.

    Args:
        basis: what differs from `db1`, `periodization` and scaling 25.
    """
    generator, layers = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        indices = torch.randperm(shape[0] * shape[1], generator=generator)[:p].sort().values.int()
        layers[name] = Layer(torch.randn(p, generator=generator) * 0.01, indices, shape)
    fields = {"wavelet": "db1", "mode": "periodization", "scaling": 25.0, **basis}
    save(Adapter(layers=layers, metadata={"modelspec.architecture": "test/waveft"}, **fields), path)
    return path


def write_lora(path: Path, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Path:
    """Writes a random LoRA of rank 1 by kohya's names, in fp16 as LoRAs are, and returns its path."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, (m, n) in shapes.items():
        tensors[f"{name}.lora_up.weight"] = torch.randn(m, 1, generator=generator).half() * 0.01
        tensors[f"{name}.lora_down.weight"] = torch.randn(1, n, generator=generator).half()
        tensors[f"{name}.alpha"] = torch.tensor(1.0).half()
    save_file(tensors, path)
    return path


def oracle(path: Path) -> Iterator[tuple[str, Tensor, float]]:
    """Yields (layer, dW float64, scaling * max|C|) of a file, read by hand and transformed by PyWavelets."""
    tensors = load_file(path)
    header = json.loads(bytes(tensors["waveft.header"].tolist()))
    assert header["mode"] == "periodization"
    for name in (key.removesuffix(".waveft_values") for key in tensors if key.endswith(".waveft_values")):
        m, n = tensors[f"{name}.waveft_shape"].tolist()
        coeffs = np.zeros(m * n)
        coeffs[tensors[f"{name}.waveft_indices"].numpy()] = tensors[f"{name}.waveft_values"].double().numpy()
        (aa, ad), (da, dd) = (np.hsplit(half, 2) for half in np.vsplit(coeffs.reshape(m, n), 2))
        delta = pywt.idwt2((aa, (da, ad, dd)), header["wavelet"], "periodization")
        yield name, torch.from_numpy(header["scaling"] * delta), header["scaling"] * float(np.abs(coeffs).max())


def largest_error(
    merged: Mapping[str, Tensor], base: Mapping[str, Tensor], changes: Iterable[tuple[Path, float]]
) -> float:
    """Returns the largest |merged - (base + sum of strength * dW)| over every layer, in float64.

    Each entry may be off by one rounding to the storage dtype (half a unit in the last place) and by float32's
    arithmetic on its terms: 4 eps of |W| and of the largest coefficient (terms may cancel). What no coefficient touches
    must be W bit for bit.

    Args:
        changes: the (file, strength) that are applied; together they hold exactly the layers of `merged`.

    Raises:
        AssertionError: an entry is off by more, or a layer is missing or unchanged.
    """
    totals: dict[str, tuple[Tensor, Tensor, float]] = {}
    for path, strength in changes:
        for layer, delta, largest in oracle(path):
            change, touched, terms = totals.get(layer, (torch.zeros(()), torch.zeros((), dtype=torch.bool), 0.0))
            totals[layer] = (change + strength * delta, touched | (delta != 0), terms + abs(strength) * largest)
    assert set(totals) == set(merged) == set(base)
    worst = 0.0
    for layer, (change, touched, terms) in totals.items():
        got, before = merged[layer], base[layer]
        assert got.dtype == before.dtype
        exact = before.double() + change
        error, info = (got.double() - exact).abs(), torch.finfo(got.dtype)
        tiny = info.smallest_normal * info.eps / 2
        slack = 4 * torch.finfo(torch.float32).eps * (before.double().abs() + terms)
        excess = float((error - info.eps / 2 * exact.abs() - tiny - slack).max())
        assert excess <= 0, (layer, excess)
        assert torch.equal(got[~touched], before[~touched]), layer
        assert not torch.equal(got, before), layer
        worst = max(worst, float(error.max()))
    return worst


def assert_same(weights: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
    """Asserts that two models' weights are the same, bit for bit."""
    assert set(weights) == set(others)
    different = [layer for layer, weight in weights.items() if not torch.equal(weight, others[layer])]
    assert not different, f"{len(different)} of {len(weights)} layers differ: {different[:3]}"
