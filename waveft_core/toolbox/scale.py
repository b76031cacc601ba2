"""An adapter turned up or down, layer by layer and sub-band by sub-band; dW is linear in the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch

from ..basis.atoms import IDENTITY
from ..errors import Refusal, listed
from ..format.adapter import Adapter, Layer, check_adapter
from ..format.header import is_finite
from .algebra import shared_metadata
from .summary import BANDS, band_of

Factor: TypeAlias = float | Mapping[str, float]


def scale(adapter: Adapter, factors: Mapping[str, Factor]) -> Adapter:
    """Returns the adapter with each layer's values multiplied; what is multiplied by 0 is dropped.

    The products are made in float64 and rounded once, to float32 (float64 where the values are). A layer that is not
    named is kept as it is, a layer of which nothing is left is dropped.

    Args:
        factors: by layer name: a number, or numbers by sub-band ("aa", "ad", "da", "dd"; one that is missing is 1).

    Returns:
        the adapter itself where every factor is 1.

    Raises:
        WaveFTError: a layer that the adapter lacks, a factor that is not finite, no such sub-band, sub-bands of
            `identity` (which has none), or nothing left.
    """
    check_adapter(adapter)
    fail = Refusal(adapter.source)
    unknown = [name for name in factors if name not in adapter.layers]
    if unknown:
        raise fail(None, "factors", "layers of the adapter", listed(unknown), f"It has {listed(adapter.layers, 3)}.")
    made: dict[str, Layer] = {}
    changed = False
    for name, layer in adapter.layers.items():
        factor = _by_coefficient(adapter, name, layer, factors.get(name, 1.0), fail)
        if factor is None:
            made[name] = layer
            continue
        changed = True
        kept = np.flatnonzero(factor)
        if kept.size:
            made[name] = _multiplied(layer, factor, kept)
    if not changed:
        return adapter
    if not made:
        raise fail(None, "factors", "some coefficients left", "0 for every one", "Raise a factor, or use strength 0.")
    return Adapter(made, adapter.wavelet, adapter.mode, adapter.scaling, None, shared_metadata([adapter]))


def _by_coefficient(adapter: Adapter, name: str, layer: Layer, factor: Factor, fail: Refusal) -> np.ndarray | None:
    """Returns each coefficient's factor, [p] float64; None where all are 1."""
    by_band = factor if isinstance(factor, Mapping) else dict.fromkeys(BANDS, factor)
    wrong = [band for band in by_band if band not in BANDS]
    if wrong:
        raise fail(name, "factor", "the sub-bands aa, ad, da, dd", listed(wrong), "Correct the name.")
    given = [by_band.get(band, 1.0) for band in BANDS]
    if not all(is_finite(number) for number in given):
        raise fail(name, "factor", "finite numbers", given, "Correct the number.")
    numbers = [float(number) for number in given]
    if numbers == [1.0] * len(BANDS):
        return None
    if len(set(numbers)) == 1:
        return np.full(layer.values.numel(), numbers[0])
    if adapter.wavelet == IDENTITY:
        raise fail(
            name,
            "factor",
            "one number, since identity has no sub-bands",
            numbers,
            "Use the same for aa, ad, da and dd.",
        )
    found: np.ndarray = np.array(numbers)[band_of(adapter, layer)]
    return None if bool((found == 1.0).all()) else found


def _multiplied(layer: Layer, factor: np.ndarray, kept: np.ndarray) -> Layer:
    places = torch.from_numpy(kept).to(layer.indices.device)
    product = layer.values.double().cpu().numpy()[kept] * factor[kept]
    dtype = torch.float64 if layer.values.dtype == torch.float64 else torch.float32
    values = torch.from_numpy(product).to(layer.values.device, dtype)
    return Layer(values, layer.indices[places], layer.shape)
