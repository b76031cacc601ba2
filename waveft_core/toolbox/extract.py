"""An adapter out of a weight difference: in an orthonormal basis, the largest coefficients of it are the best ones.

With C = D_m dW D_n^T and orthonormal D, ||dW - dW'||^2 is the energy of the coefficients that were dropped (Parseval):
no other choice of p places, with whatever values, comes closer to dW in the Frobenius norm than the p largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..basis.atoms import coeffs_shape
from ..basis.plan import arithmetic_dtype
from ..errors import WaveFTError
from ..format.adapter import Adapter, Layer
from ..update.spec import SDXL_ATTENTION
from .precision import Told
from .selection import (
    analyzed,
    check_basis,
    check_count,
    check_even,
    check_one,
    check_scaling,
    check_share,
    fewest,
    largest,
    largest_of_all,
)
from .sources import Source, Weighted, differences

Report = Callable[[str, float, float], object]


@dataclass(frozen=True)
class _Found:
    """What was kept of a layer: `places` [p] ascending and flat in C, C's entries there, and the whole's energy."""

    name: str
    shape: tuple[int, ...]
    places: np.ndarray
    coeffs: np.ndarray
    whole: float


def extract(
    base: Source | Weighted,
    tuned: Source | Weighted,
    *,
    coefficients: int | None = None,
    energy: float | None = None,
    total: int | None = None,
    wavelet: str = "db1",
    mode: str = "periodization",
    scaling: float = 25.0,
    targets: tuple[str, ...] | str = SDXL_ATTENTION,
    metadata: Mapping[str, str] | None = None,
    report: Report | None = None,
    rounding: Told | None = None,
) -> Adapter:
    """Returns the adapter that comes closest to `tuned` - `base`; exactly one of the three budgets is given.

    The differences are taken in float32 (float64 where a weight is float64), one dense layer at a time. Layers that do
    not differ are left out, and so is what the dtype that one of the two is stored in rounds.

    Args:
        base, tuned: a model, a mapping of components, a state dict, or weights in files.
        coefficients: the best p of each layer.
        energy: share in (0, 1]: the fewest of each layer that hold this share of its ||dW||^2.
        total: the best of all layers together; a layer may get none.
        scaling: the lambda of the new adapter; its values are C / scaling.
        targets: path suffixes, or one regular expression for the whole path, as in `Spec`.
        metadata: of the new adapter.
        report: told each layer's name, the energy kept and the whole energy; with `total`, after the last layer.
        rounding: told of each layer in which something was taken for rounding: its name, entries, the dtype.

    Raises:
        WaveFTError: `mode = "zero"`, which is no basis; an odd size; layers that only one of the two has, or whose
            shapes differ; a difference that is not finite; or two models that do not differ.
    """
    return extract_deltas(
        differences(base, tuned, targets, rounding),
        coefficients=coefficients,
        energy=energy,
        total=total,
        wavelet=wavelet,
        mode=mode,
        scaling=scaling,
        metadata=metadata,
        report=report,
    )


def extract_deltas(
    deltas: Iterable[tuple[str, Tensor]],
    *,
    coefficients: int | None = None,
    energy: float | None = None,
    total: int | None = None,
    wavelet: str = "db1",
    mode: str = "periodization",
    scaling: float = 25.0,
    metadata: Mapping[str, str] | None = None,
    report: Report | None = None,
) -> Adapter:
    """Returns the adapter that comes closest to the given differences, as `extract`.

    Args:
        deltas: layer name -> dW in the weight's own shape, float; read once, one after the other.

    Raises:
        WaveFTError: as `extract`, or a layer that comes twice.
    """
    tell = report or (lambda name, kept, whole: None)
    _check_budget(coefficients, energy, total)
    check_basis(wavelet, mode)
    check_scaling(scaling)
    found: dict[str, _Found] = {}
    seen: set[str] = set()
    pool = _Pool(total) if total is not None else None
    for name, delta in deltas:
        if name in seen:
            raise WaveFTError(f'layer "{name}": expected it once, got it twice. Leave one of the two out.')
        seen.add(name)
        layer = _kept(name, delta, wavelet, coefficients, energy, pool)
        if layer is not None:
            found[name] = layer
        if pool is not None:
            pool.trim(found)
        else:
            tell(name, _energy(layer.coeffs) if layer else 0.0, layer.whole if layer else 0.0)
    if pool is not None:
        pool.trim(found, last=True)
        for layer in found.values():
            tell(layer.name, _energy(layer.coeffs), layer.whole)
    layers = {name: _layer(layer, scaling) for name, layer in found.items() if layer.places.size}
    if not layers:
        got = "none that differs" if seen else "none"
        raise WaveFTError(f"layers: expected some that differ, got {got}. Check that the two are not one and the same.")
    return Adapter(layers, wavelet, "periodization", scaling, metadata=metadata or {})


def _check_budget(coefficients: int | None, energy: float | None, total: int | None) -> None:
    check_one({"coefficients": coefficients, "energy": energy, "total": total})
    check_count("coefficients", coefficients)
    check_share("energy", energy)
    check_count("total", total)


def _kept(
    name: str, delta: Tensor, wavelet: str, coefficients: int | None, energy: float | None, pool: _Pool | None
) -> _Found | None:
    """Returns a layer's best coefficients, None where dW is zero; the dense planes end with this call."""
    shape = tuple(delta.shape)
    check_even(name, shape, wavelet)
    if math.prod(coeffs_shape(wavelet, "periodization", shape)) >= 2**31:
        raise WaveFTError(f'layer "{name}": expected fewer than 2**31 weights, got {list(shape)}. Leave it out.')
    coeffs = analyzed(delta.detach().to(arithmetic_dtype(delta.dtype)), wavelet).reshape(-1).cpu().numpy()
    sizes = np.abs(coeffs)
    if not np.isfinite(sizes).all():
        raise WaveFTError(f'layer "{name}": expected a finite difference, got NaN or infinity. The weights are broken.')
    count = int(np.count_nonzero(sizes))
    if count == 0:
        return None
    if coefficients is not None:
        count = min(count, coefficients)
    elif energy is not None:
        count = fewest(sizes, energy)
    places = largest(sizes, count) if pool is None else pool.candidates(sizes, count)
    return _Found(name, shape, places, coeffs[places], _energy(coeffs))


class _Pool:
    """The best `total` coefficients of the layers seen so far: memory for twice as many, whatever the layers."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._edge = np.float64(0)  # what a newcomer must exceed: of equals, the earlier stays

    def candidates(self, sizes: np.ndarray, count: int) -> np.ndarray:
        """Returns the places of a layer's coefficients that may be among the best, ascending."""
        places = np.flatnonzero(sizes > self._edge)
        chosen: np.ndarray = places[largest(sizes[places], min(count, self._total))]
        return chosen

    def trim(self, found: dict[str, _Found], last: bool = False) -> None:
        """Drops from `found` what is not among the best, once there is twice the budget or no layer is to come."""
        held = list(found.values())
        count = sum(layer.places.size for layer in held)
        if count <= (self._total if last else 2 * self._total):
            return
        sizes = [np.abs(layer.coeffs) for layer in held]
        kept = largest_of_all(sizes, self._total)
        self._edge = min(
            np.float64(size[places].min()) for size, places in zip(sizes, kept, strict=True) if places.size
        )
        for layer, mine in zip(held, kept, strict=True):
            found[layer.name] = replace(layer, places=layer.places[mine], coeffs=layer.coeffs[mine])


def _layer(found: _Found, scaling: float) -> Layer:
    with np.errstate(all="ignore"):
        quotients = found.coeffs / found.coeffs.dtype.type(scaling)
    if not np.isfinite(quotients).all():
        raise WaveFTError(
            f'scaling: expected one that leaves the values of layer "{found.name}" within {found.coeffs.dtype}, got '
            f"{scaling:g}. The paper's is 25."
        )
    values = torch.from_numpy(quotients)
    return Layer(values, torch.from_numpy(found.places.astype(np.int32)), found.shape)


def _energy(coeffs: np.ndarray) -> float:
    return float(np.sum(np.square(coeffs, dtype=np.float64)))
