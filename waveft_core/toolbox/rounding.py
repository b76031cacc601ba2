"""An adapter in the dtype that its file is to hold: what half the size costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..errors import Refusal
from ..format.adapter import FILE_DTYPES, Adapter, Layer, check_adapter


@dataclass(frozen=True)
class Rounded:
    """An adapter whose values were rounded.

    Attributes:
        vanished: how many coefficients became 0 by it.
        error: ||v' - v|| / ||v|| over the values of all layers: in an orthonormal basis that of dW.
    """

    adapter: Adapter
    vanished: int
    error: float


def rounded_to(adapter: Adapter, dtype: torch.dtype) -> Rounded:
    """Returns the adapter with values of `dtype`, rounded to the nearest; the adapter itself where they are already.

    Raises:
        WaveFTError: a dtype that files do not hold, or a value that is too large for it.
    """
    check_adapter(adapter)
    fail = Refusal(adapter.source)
    if dtype not in FILE_DTYPES:
        raise fail(None, "dtype", "float32, float16 or bfloat16", dtype, "Use float32.")
    if all(layer.values.dtype == dtype for layer in adapter.layers.values()):
        return Rounded(adapter, 0, 0.0)
    layers, vanished, lost, whole = {}, 0, 0.0, 0.0
    for name, layer in adapter.layers.items():
        exact, values = layer.values.double(), layer.values.to(dtype)
        if not bool(torch.isfinite(values).all()):
            largest = float(exact.abs().max())
            limit = f"at most {torch.finfo(dtype).max:g} for {str(dtype).removeprefix('torch.')}"
            raise fail(name, "values", limit, f"{largest:g}", "Use float32, or bfloat16 for half the size.")
        vanished += int(((values == 0) & (exact != 0)).sum())
        lost += float((values.double() - exact).square().sum())
        whole += float(exact.square().sum())
        layers[name] = Layer(values, layer.indices, layer.shape)
    return Rounded(replace(adapter, layers=layers), vanished, math.sqrt(lost / whole) if whole else 0.0)
