"""Adapter arithmetic: sums in one basis (exact), fewer coefficients, another basis; dW is linear in the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import WaveFTError, within_memory
from ..format.adapter import Adapter, Layer, check_adapter, check_pairs
from ..format.header import is_finite
from .selection import (
    analyzed,
    check_basis,
    check_count,
    check_even,
    check_one,
    check_share,
    fewest,
    largest,
    largest_of_all,
)

MAX_ENTRIES = 2**25  # of a layer: SDXL's largest has 29 million
MOST_ENTRIES = 2**33  # of all layers: all of SDXL's UNet has 2.6 thousand million
_SHARED = ("modelspec.", "ss_")  # metadata that say what an adapter is for, whatever was done to it


def combine(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """Returns the adapter whose dW is the weighted sum of the parts': exact, in float64 and rounded once.

    Each layer has the union of the parts' positions; a layer that only some parts have is kept, as is a position whose
    sum is 0. The scaling is the parts' own where they agree, else the first's, the others folded into the values. For
    `db1` and even sizes both modes are one basis, and may be mixed.

    Args:
        parts: adapters and their weights (the strengths that they would have been applied at):
            `[(load("a.safetensors"), 0.8), ...]`.

    Returns:
        float32 values, float64 where a part's are; metadata that say what the adapter is for, where all parts agree.

    Raises:
        WaveFTError: no parts, a weight that is not finite, different bases, or a layer of different shapes.
    """
    check_pairs(parts)
    parts = list(parts)
    if not parts:
        raise WaveFTError("combine: expected at least one adapter, got none. Give some.")
    for adapter, weight in parts:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not is_finite(weight):
            raise WaveFTError(f"{_called(adapter)}, weight: expected a finite number, got {weight!r}. Give, say, 1.")
    adapters = [adapter for adapter, _ in parts]
    wavelet, mode = _basis(adapters)
    scaling = _scaling(adapters)
    factors = [weight * _ratio(adapter.scaling, scaling) for adapter, weight in parts]
    names = sorted({name for adapter in adapters for name in adapter.layers})
    layers = {name: _sum(name, adapters, factors) for name in names}
    return Adapter(layers, wavelet, mode, scaling, _agreed(adapters), shared_metadata(adapters))


def reproject(
    adapter: Adapter,
    wavelet: str,
    mode: str = "periodization",
    coefficients: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    max_entries: int = MAX_ENTRIES,
) -> tuple[Adapter, float]:
    """Returns the adapter in another orthonormal basis, and the error made: ||dW - dW'|| / ||dW|| over all layers.

    Args:
        coefficients: the largest that each layer keeps; as many as it had by default.
        progress: told 1 for each layer that is rewritten, and the number of layers.
        max_entries: the largest dW to make, since a shape in a file is only a claim; `MOST_ENTRIES` in all.

    Raises:
        WaveFTError: `mode = "zero"`, which is no basis, an odd size, larger layers, or too little memory.
    """
    check_adapter(adapter)
    check_basis(wavelet, mode)
    check_count("coefficients", coefficients)
    for name, layer in adapter.layers.items():
        check_even(name, layer.shape, wavelet)
    check_entries(adapter)
    layers: dict[str, Layer] = {}
    lost = whole = 0.0
    for name, layer in adapter.layers.items():
        delta = adapter.delta(name, torch.float64, max_entries=max_entries)
        with within_memory(f'layer "{name}", the coefficients of {list(layer.shape)}'):
            coeffs = analyzed(delta, wavelet).reshape(-1).cpu().numpy()
        whole += float(np.square(coeffs).sum())
        sizes = np.abs(coeffs)
        count = min(coefficients or layer.values.numel(), max(1, int(np.count_nonzero(sizes))))
        places = largest(sizes, count)
        values = torch.from_numpy(coeffs[places] / (adapter.scaling or 1.0)).to(_wide(layer.values.dtype))
        coeffs[places] -= values.double().numpy() * adapter.scaling  # what is left is lost, the rounding with it
        lost += float(np.square(coeffs).sum())
        layers[name] = Layer(values, torch.from_numpy(places.astype(np.int32)), layer.shape)
        if progress is not None:
            progress(1, len(adapter.layers))
    made = Adapter(layers, wavelet, mode, adapter.scaling, None, shared_metadata([adapter]))
    return made, math.sqrt(lost / whole) if whole else 0.0


def prune(
    adapter: Adapter, *, coefficients: int | None = None, keep: float | None = None, energy: float | None = None
) -> Adapter:
    """Returns the adapter with its largest coefficients alone; exactly one of the three says how many.

    Equal magnitudes are settled by the order of layers, then by place. A layer that keeps none is dropped.

    Args:
        coefficients: for each layer; one that has fewer keeps them all.
        keep: share in (0, 1] of the number of all coefficients, the largest of the whole adapter.
        energy: share in (0, 1]: the fewest of the whole adapter that hold this share of the sum of values^2 (in an
            orthonormal basis, of ||dW||^2).

    Raises:
        WaveFTError: other than one of the three, one out of range, or an energy share of an adapter of zeros.
    """
    check_adapter(adapter)
    check_one({"coefficients": coefficients, "keep": keep, "energy": energy})
    check_count("coefficients", coefficients)
    check_share("keep", keep)
    check_share("energy", energy)
    sizes = [np.abs(_float64(layer.values)) for layer in adapter.layers.values()]
    if coefficients is not None:
        kept = [largest(size, coefficients) for size in sizes]
    else:
        every = np.concatenate(sizes)
        count = max(1, math.floor(keep * every.size + 0.5)) if keep is not None else fewest(every, energy or 1.0)
        if count == 0:
            raise WaveFTError(f"{_called(adapter)}, energy: expected values other than 0, got zeros. Use keep.")
        kept = largest_of_all(sizes, count)
    if all(places.size == size.size for places, size in zip(kept, sizes, strict=True)):
        return adapter
    layers = {
        name: _picked(layer, torch.from_numpy(places))
        for (name, layer), places in zip(adapter.layers.items(), kept, strict=True)
        if places.size
    }
    return Adapter(layers, adapter.wavelet, adapter.mode, adapter.scaling, None, shared_metadata([adapter]))


def energy(adapter: Adapter) -> float:
    """Returns the sum of (scaling * values)^2, in float64: ||dW||_F^2 over all layers in an orthonormal basis."""
    scaled = (adapter.scaling * _float64(layer.values) for layer in adapter.layers.values())  # its square may overflow
    return sum(float(np.square(held).sum()) for held in scaled)


def check_entries(adapter: Adapter) -> None:
    """Refuses to make the dW of all layers, one after the other, where their claimed shapes would keep it for hours.

    Raises:
        WaveFTError: more than `MOST_ENTRIES` entries in all.
    """
    entries = sum(math.prod(layer.shape) for layer in adapter.layers.values())
    if entries > MOST_ENTRIES:
        raise WaveFTError(
            f"{_called(adapter)}, layers: expected at most {MOST_ENTRIES} weights in all, got {entries} by the shapes "
            "that it claims. Get the file from its maker."
        )


def _basis(adapters: list[Adapter]) -> tuple[str, str]:
    """Returns the wavelet and mode that all adapters share."""
    first = adapters[0]
    even = all(
        layer.shape[0] % 2 == 0 and math.prod(layer.shape[1:]) % 2 == 0
        for adapter in adapters
        for layer in adapter.layers.values()
    )
    for adapter in adapters[1:]:
        one_basis = adapter.mode == first.mode or (first.wavelet == "db1" and even)
        if adapter.wavelet != first.wavelet or not one_basis:
            raise WaveFTError(
                f"{_called(adapter)}, basis: expected that of the first, {first.wavelet} {first.mode}, "
                f"got {adapter.wavelet} {adapter.mode}. Bring it there with reproject, which says what is lost."
            )
    mixed = any(adapter.mode != first.mode for adapter in adapters)
    return first.wavelet, "periodization" if mixed else first.mode


def _scaling(adapters: list[Adapter]) -> float:
    """Returns the first scaling that can be divided by; a scaling of 0 stands for a dW of 0."""
    return next((adapter.scaling for adapter in adapters if adapter.scaling), 0.0)


def _ratio(scaling: float, common: float) -> float:
    return 1.0 if scaling == common else scaling / common  # a common 0 is everyone's


def _sum(name: str, adapters: list[Adapter], factors: list[float]) -> Layer:
    """Returns one layer's weighted sum over the union of positions."""
    held = [
        (adapter.layers[name], factor, adapter)
        for adapter, factor in zip(adapters, factors, strict=True)
        if name in adapter.layers
    ]
    shape = held[0][0].shape
    for layer, _, adapter in held:
        if layer.shape != shape:
            raise WaveFTError(
                f'{_called(adapter)}, layer "{name}": expected shape {list(shape)} as in the others, '
                f"got {list(layer.shape)}. They were trained for different models."
            )
    indices = np.unique(np.concatenate([layer.indices.cpu().numpy() for layer, _, _ in held]))
    total = np.zeros(indices.size)
    for layer, factor, _ in held:
        with np.errstate(all="ignore"):  # what overflows is refused below
            total[np.searchsorted(indices, layer.indices.cpu().numpy())] += factor * _float64(layer.values)
    dtype = torch.float64 if any(layer.values.dtype == torch.float64 for layer, _, _ in held) else torch.float32
    if not np.abs(total).max() <= torch.finfo(dtype).max:
        raise WaveFTError(f'layer "{name}": expected sums within {dtype}, got larger ones. Use smaller weights.')
    return Layer(torch.from_numpy(total).to(dtype), torch.from_numpy(indices.astype(np.int32)), shape)


def _picked(layer: Layer, places: Tensor) -> Layer:
    places = places.to(layer.indices.device)
    return Layer(layer.values[places], layer.indices[places], layer.shape)


def _float64(values: Tensor) -> np.ndarray:
    held: np.ndarray = values.detach().double().cpu().numpy()
    return held


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _agreed(adapters: list[Adapter]) -> str | None:
    found = {adapter.locations for adapter in adapters}
    return found.pop() if len(found) == 1 else None


def shared_metadata(adapters: list[Adapter]) -> Mapping[str, str]:
    """Returns the metadata that say what the adapters are for, where all of them say the same."""
    first = adapters[0].metadata
    return {
        key: value
        for key, value in first.items()
        if key.startswith(_SHARED) and all(adapter.metadata.get(key) == value for adapter in adapters)
    }


def _called(adapter: Adapter) -> str:
    return f'adapter "{adapter.source}"' if adapter.source else "adapter"
