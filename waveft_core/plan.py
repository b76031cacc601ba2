"""A layer's plan: which entries of the weight its coefficients touch, and the exact sum that each entry receives.

An entry's sum runs over its contributions in ascending coefficient order, whatever the device or thread count.  Atomic
scatter-adds do not promise an order, so the contributions are stored as jagged diagonals: diagonal d holds the d-th
contribution of every entry that has more than d of them, and the entries are sorted by how many they have.  Each
diagonal is then one gather, one multiply and one add over a prefix: no padding, no atomics, the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .atoms import atoms


@dataclass(frozen=True)
class Plan:
    """Where p coefficients of one layer fall.

    Attributes:
        entries: [E] int32, the touched entries, flat in the weight, each once.
        sources: [Q] int32, the coefficient of each contribution, diagonal after diagonal.
        taps: [Q] float32 or float64, its factor.
        lengths: how long each diagonal is, never growing; the first is E.
        basis: wavelet, mode, the weight's shape and the indices that it was made from.
    """

    entries: Tensor
    sources: Tensor
    taps: Tensor
    lengths: tuple[int, ...]
    basis: tuple[str, str, tuple[int, ...], Tensor]

    def sums(self, values: Tensor) -> Tensor:
        """Returns IDWT(C) at the touched entries, [E] in the taps' dtype; `values`: [p]."""
        values = values.to(self.taps.dtype)
        start = self.lengths[0]
        total = values.index_select(0, self.sources[:start]).mul_(self.taps[:start])
        for length in self.lengths[1:]:
            span = slice(start, start + length)
            # a separate multiply and add: a fused one would round differently on some devices
            total[:length].add_(values.index_select(0, self.sources[span]).mul_(self.taps[span]))
            start += length
        return total

    def to(self, device: torch.device, dtype: torch.dtype) -> Plan:
        """Returns the plan on `device`, for arithmetic in `dtype`."""
        plan = self if self.taps.dtype == dtype else make_plan(*self.basis, dtype)
        if plan.entries.device == device:
            return plan
        return replace(
            plan, entries=plan.entries.to(device), sources=plan.sources.to(device), taps=plan.taps.to(device)
        )


def make_plan(wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, dtype: torch.dtype) -> Plan:
    """Returns the plan of a layer on the CPU.

    Args:
        shape: of the weight itself.
        indices: [p] int32, flat in C, ascending.
        dtype: of the arithmetic, float32 or float64.
    """
    entries, taps = atoms(wavelet, mode, shape, indices.cpu().numpy())
    width = entries.shape[1]
    flat = entries.reshape(-1)
    kept = np.flatnonzero(flat >= 0) if (flat < 0).any() else np.arange(flat.size)
    order = kept[np.argsort(flat[kept], kind="stable")]  # by entry, then by coefficient
    ordered = flat[order]
    firsts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts = np.diff(np.r_[firsts, ordered.size])
    ranked = np.argsort(-counts, kind="stable")
    firsts, counts = firsts[ranked], counts[ranked]
    lengths = tuple(int(np.searchsorted(-counts, -depth)) for depth in range(int(counts[0])))
    picks = np.concatenate([order[firsts[:length] + depth] for depth, length in enumerate(lengths)])
    return Plan(
        entries=torch.from_numpy(ordered[firsts].astype(np.int32)),
        sources=torch.from_numpy((picks // width).astype(np.int32)),
        taps=torch.from_numpy(taps.reshape(-1)[picks]).to(dtype),
        lengths=lengths,
        basis=(wavelet, mode, shape, indices),
    )


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a weight of `dtype` is updated: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32
