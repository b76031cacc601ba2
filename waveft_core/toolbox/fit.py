"""Fits an adapter's layers to the weights of what a program holds: all of them or none, and says why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import WaveFTError, listed
from ..format.adapter import Adapter
from ..format.header import is_finite


@dataclass(frozen=True)
class Target:
    """A model or its text encoders, as far as fitting goes.

    Attributes:
        title: what messages call it.
        keys: layer name -> key of the weight, in every spelling that the program knows.
        weights: by key, as they are stored.
    """

    title: str
    keys: Mapping[str, str]
    weights: Mapping[str, torch.Tensor]


def fit(target: Target, adapter: Adapter, layers: Iterable[str], source: str, strength: float) -> dict[str, str]:
    """Returns {weight key: layer}, every one of `layers`.

    Args:
        source: the file's name, for messages.

    Raises:
        WaveFTError: a layer that the target lacks, a name that fits two weights, a weight that two layers name, a
            quantised weight, another shape, or a strength at which a weight would no longer be finite.
    """
    layers = list(layers)
    _check_known(target, adapter, layers, source)
    spelled = Counter(key.replace(".", "_") for key in target.weights)
    found: dict[str, str] = {}
    for layer in layers:
        key = target.keys[layer]
        if spelled[key.replace(".", "_")] > 1:
            raise WaveFTError(
                f'adapter "{source}", layer "{layer}": expected one layer of {target.title}, got a name that fits '
                "several. Rename the layers of that model."
            )
        if key in found:
            raise WaveFTError(
                f'adapter "{source}", layers "{found[key]}" and "{layer}": expected one layer for each weight, got two '
                f'for "{key}". Remove one from the file.'
            )
        found[key] = layer
    _check_float(target, found, source)
    _check_shapes(target, adapter, found, source)
    _check_finite(target, adapter, found, source, strength)
    return found


def check_strength(strength: float, source: str) -> None:
    """Refuses a strength that is no number: a range's own check lets NaN through.

    Raises:
        WaveFTError: it is NaN or infinite.
    """
    if not is_finite(strength):
        raise WaveFTError(f'strength of "{source}": expected a finite number, got {strength}. Give, say, 1.')


def trained_for(adapter: Adapter) -> str:
    """Returns what the file says that it was trained for."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        if adapter.metadata.get(key):
            return adapter.metadata[key]
    return "a model that it does not name"


def _check_known(target: Target, adapter: Adapter, layers: Sequence[str], source: str) -> None:
    missing = [layer for layer in layers if layer not in target.keys]
    if missing:
        raise WaveFTError(
            f'adapter "{source}": expected layers of {target.title}, got {len(missing)} of {len(layers)} that it does '
            f"not have. {_remedy(adapter)} They are {listed(missing)}."
        )


def _check_float(target: Target, found: Mapping[str, str], source: str) -> None:
    for key, layer in found.items():
        weight = target.weights[key]
        # GGUF's tensors are bytes that say their kind, and are floats by the time that a patch sees them
        if not weight.is_floating_point() and not hasattr(weight, "tensor_type"):
            raise WaveFTError(
                f'adapter "{source}", layer "{layer}": expected float weights in {target.title}, got {weight.dtype}: '
                "it is quantised. Load it in fp16, bf16, fp32, fp8 or as GGUF."
            )


def _check_shapes(target: Target, adapter: Adapter, found: Mapping[str, str], source: str) -> None:
    shapes = {key: tuple(target.weights[key].shape) for key in found}
    wrong = {
        layer: f"{list(shapes[key])}, got {list(adapter.layers[layer].shape)}"
        for key, layer in found.items()
        if shapes[key] != tuple(adapter.layers[layer].shape)
    }
    if wrong:
        first, sizes = next(iter(wrong.items()))
        raise WaveFTError(
            f'adapter "{source}", layers {listed(wrong)}: expected the shapes of {target.title}, "{first}" {sizes}. '
            f"{_remedy(adapter)}"
        )


def _check_finite(target: Target, adapter: Adapter, found: Mapping[str, str], source: str, strength: float) -> None:
    """Refuses what would overflow; weights of fp8 are left to the program, which rounds them in its own way."""
    for key, layer in found.items():
        weight = target.weights[key]
        if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            continue
        # no entry of an atom is above 1; only where this bound is near is dW made and looked at
        bound = abs(strength * adapter.scaling) * float(adapter.layers[layer].values.abs().sum(dtype=torch.float64))
        if bound < torch.finfo(weight.dtype).max / 4:
            continue
        total = weight.detach().to(torch.float32, copy=True).cpu() + strength * adapter.delta(
            layer, torch.float32, "cpu"
        )
        if not bool(torch.isfinite(total.to(weight.dtype)).all()):
            largest = float(total.abs().max())
            raise WaveFTError(
                f'adapter "{source}", layer "{layer}": expected weights within {weight.dtype}, got up to {largest:g} '
                f"at strength {strength:g}. Lower the strength."
            )


def _remedy(adapter: Adapter) -> str:
    return f"The file was trained for {trained_for(adapter)}: use such a model, or choose another file."
