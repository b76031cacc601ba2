"""Differences of two models that the storage of their weights explains: rounding is no training.

A fine-tune that is stored in bf16 differs from its fp32 base in nearly every entry of every layer, trained or not, by
up to half a step of bf16.  An entry that the base's own value rounds to is no difference; nor is a layer of a base that
was itself rounded, where no entry of the other model lies further off than the two roundings.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..basis.plan import arithmetic_dtype
from ..errors import WaveFTError, plural
from ..format.adapter import Adapter

# told: layer, entries that differed and were taken for rounding, and the dtype whose rounding it is
Told = Callable[[str, int, torch.dtype], object]

_NARROW = (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16)
_OFTEN = (torch.bfloat16, torch.float16)  # in which models are kept, whatever a later file's dtype


class TakenForRounding:
    """What of the differences was taken for the rounding of a dtype: told layer by layer, said in lines."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, str]] = {}

    def __call__(self, name: str, entries: int, dtype: torch.dtype) -> None:
        """Takes a layer in which `entries` entries differ by the rounding of `dtype` alone."""
        self._layers[name] = entries, str(dtype).removeprefix("torch.")

    def lines(self, made: Adapter) -> Iterator[str]:
        """Yields what to say of it, `made` being the adapter that came of the rest."""
        for dtype in sorted({dtype for _, dtype in self._layers.values()}):
            found = {name: entries for name, (entries, own) in self._layers.items() if own == dtype}
            whole = len(found.keys() - made.layers.keys())
            entries = sum(count for name, count in found.items() if name in made.layers)
            if whole:
                yield f"taken for the rounding of {dtype}, not for training: {plural(whole, 'whole layer')}"
            if entries:
                parts = plural(len(found) - whole, "other layer" if whole else "layer")
                yield f"taken for the rounding of {dtype}, not for training: {plural(entries, 'weight')} in {parts}"

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Adds to a refusal, inside, that all which differs was taken for rounding."""
        try:
            yield
        except WaveFTError as error:
            if not self._layers or "that differ" not in str(error):
                raise
            dtypes = ", ".join(sorted({dtype for _, dtype in self._layers.values()}))
            layers = plural(len(self._layers), "layer")
            raise WaveFTError(f"{error} What differs, in {layers}, is the rounding of {dtypes}.") from None


def difference(name: str, before: Tensor, after: Tensor, told: Told | None = None) -> Tensor:
    """Returns after - before without what storage explains: float32, float64 where one of the two is.

    Args:
        name: the layer's, for `told`.
        before, after: float weights of one shape.
        told: told of rounding, where there was some.
    """
    wide = arithmetic_dtype(torch.promote_types(arithmetic_dtype(before.dtype), arithmetic_dtype(after.dtype)))
    with torch.no_grad():
        base, tuned = before.to(wide), after.to(before.device, wide)
        delta = tuned - base
        changed = delta != 0
        entries = int(changed.sum())
        if not entries:
            return delta
        best, found = torch.zeros_like(changed), None
        for dtype in _held_in(tuned, after.dtype):
            same = changed & (_rounded(base, dtype) == tuned)
            if int(same.sum()) > int(best.sum()):
                best, found = same, dtype
        delta[best] = 0
        if not bool(best[changed].all()):
            coarse = _coarser(base, before.dtype, tuned, after.dtype)
            if coarse is not None:
                delta.zero_()
                best, found = changed, coarse
    if told is not None and found is not None:
        told(name, int(best.sum()), found)
    return delta


def unrounded(name: str, base: Tensor, delta: Tensor, dtype: torch.dtype, told: Told | None = None) -> Tensor:
    """Returns a stored difference, or zeros where it is what rounding the base gives, whole.

    Args:
        name: the layer's, for `told`.
        base: the weight that it is a difference of.
        delta: float32 or float64, in the base's shape.
        dtype: that `delta` was stored in.
        told: told of rounding.
    """
    entries = int((delta != 0).sum())
    if not entries or base.is_meta or not base.is_floating_point():
        return delta
    wide = base.to(delta.device, delta.dtype)
    for kind in _OFTEN:
        if torch.equal((_rounded(wide, kind) - wide).to(dtype).to(delta.dtype), delta):
            if told is not None:
                told(name, entries, kind)
            return torch.zeros_like(delta)
    return delta


def _held_in(weight: Tensor, dtype: torch.dtype) -> Iterator[torch.dtype]:
    """Yields the narrow dtypes that hold each number of a weight as it is; its file's own dtype may be a wider one."""
    for kind in dict.fromkeys((*((dtype,) if dtype in _NARROW else ()), *_OFTEN)):
        if kind == dtype or torch.equal(_rounded(weight, kind), weight):
            yield kind


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a weight as a file of `dtype` holds it; fp8 has no infinity, and its largest number stands for more."""
    if dtype.itemsize == 1:
        most = torch.finfo(dtype).max
        weight = weight.clamp(-most, most)
    return weight.to(dtype).to(weight.dtype)


def _coarser(base: Tensor, before: torch.dtype, tuned: Tensor, after: torch.dtype) -> torch.dtype | None:
    """Returns the dtype of a base whose own rounding explains every entry of a layer, None where none does.

    To such a base the difference would be none either: added and rounded, it leaves the base's bits. Training is not
    taken for it: a layer has entries near 0, whose steps are far smaller than what training changes them by.
    """
    spare = torch.zeros_like(tuned)
    for kind in _held_in(tuned, after):
        spare = _half_step(tuned, kind)
        break
    for kind in _held_in(base, before):
        if bool(((tuned - base).abs() <= _half_step(base, kind) + spare).all()):
            return kind
    return None


def _half_step(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns half the distance of neighbouring numbers of `dtype` around each entry."""
    info = torch.finfo(dtype)
    lowest = round(math.log2(info.smallest_normal)) + 1  # below it the steps stay as they are
    exponent = torch.frexp(weight)[1].masked_fill(weight == 0, lowest).clamp(min=lowest)
    return torch.ldexp(torch.ones_like(weight), exponent - 2 + round(math.log2(info.eps)))
