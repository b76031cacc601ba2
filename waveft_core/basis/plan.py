"""A layer's plan: which entries of the weight its coefficients touch, and the exact sum that each entry receives.

An entry's sum runs over its contributions in ascending coefficient order, whatever the device or thread count.  There
are two ways to it, with the same bits: `turns.py` sorts the contributions once and keeps their order; `sweep.py` keeps
nothing and runs through the coefficients each time.  `planning.py` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .atoms import matrix_shape
from .blocks import block_entries, block_starts, block_taps, cells
from .places import Places

E4M3_LIMIT = 464.0  # half a step above float8_e4m3fn's largest number, 448


class Plan(ABC):
    """Where p coefficients of one layer fall, and what they come to there.

    Attributes:
        places: the touched entries, each once.
        taps: [codes, s] float32 or float64, an atom's entries in a block by the block's code.
        basis: wavelet, mode, and the weight's shape.
        coefficients: p.
    """

    places: Places
    taps: Tensor
    basis: tuple[str, str, tuple[int, ...]]
    coefficients: int

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it is kept."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """What it holds on its device, the taps aside, which all layers of one basis share."""

    @abstractmethod
    def sums(self, values: Tensor) -> Tensor:
        """Returns IDWT(C) at the touched entries, [E] in the taps' dtype; `values`: [p]."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> Plan:
        """Returns the plan on `device`, for arithmetic in `dtype`."""

    def fits(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Returns whether it is there, and for that arithmetic."""
        return self.taps.dtype == dtype and self.device == device

    def dense(self, values: Tensor, factor: float = 1.0) -> Tensor:
        """Returns factor * IDWT(C) in the weight's shape, on the plan's device and in its dtype; `values`: [p].

        The entries are those that a merge adds, bit for bit: the factor is multiplied in before anything is added.
        """
        content = self.sums(values).mul_(factor)
        if self.device.type == "cpu":  # numpy's zeros come in huge pages, torch's in a fault for every 4 kB
            made = torch.from_numpy(
                np.zeros(self.basis[2], np.float64 if self.taps.dtype == torch.float64 else np.float32)
            )
        else:
            made = content.new_zeros(self.basis[2])
        self.places.write(made, content)
        return made


def laid_out(basis: tuple[str, str, tuple[int, ...]], block: np.ndarray) -> tuple[Places, int, Tensor | None]:
    """Returns the entries of some blocks, how many of them lie in whole blocks, and which of the others are entries.

    Args:
        block: [B] int64, each once and ascending. Those over an edge come last, the number of all blocks added to them.

    Returns:
        The places; how many of the blocks' entries, the first ones, are all among them; those of the others that are,
        [R] int32 as places behind those, None where all are.
    """
    wavelet, mode, shape = basis
    m, n = matrix_shape(shape)
    rows, columns = cells(wavelet, mode, m), cells(wavelet, mode, n)
    number, each = rows.number * columns.number, rows.width * columns.width
    inside = int(np.searchsorted(block, number))
    starts = block_starts(wavelet, mode, shape, block[:inside])
    rest = np.empty(0, np.int64)
    if inside < len(block):
        rest = block_entries(wavelet, mode, shape, block[inside:] - number).reshape(-1)
    kept = np.flatnonzero(rest >= 0) if len(rest) and rest.min() < 0 else None
    places = Places(
        starts=int32(starts),
        corners=(0, 1, n, n + 1) if each == 4 else (0,),
        rest=int32(rest if kept is None else rest[kept]),
        paired=rows.even and columns.even,
    )
    return places, inside * each, None if kept is None else int32(kept)


def chosen(total: Tensor, whole: int, kept: Tensor | None) -> Tensor:
    """Returns those of the blocks' entries, [B, s], that are entries of the weight: [E]; as `laid_out` says."""
    flat = total.view(-1)
    return flat if kept is None else torch.cat([flat[:whole], flat[whole:].index_select(0, kept)])


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a weight of `dtype` is updated: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rounded(total: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `total` in a weight's dtype, rounded once to nearest; what overflows is infinite or NaN in all."""
    if dtype == torch.float8_e4m3fn:  # has no infinity: some versions of torch saturate
        total = total.masked_fill(total.abs() > E4M3_LIMIT, torch.nan)
    return total.to(dtype)


@lru_cache(maxsize=64)
def taps_of(wavelet: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns an atom's entries in a block by the block's code: [codes, s]."""
    return torch.from_numpy(block_taps(wavelet)).to(device, dtype)


def int32(array: np.ndarray) -> Tensor:
    """Returns whole numbers as a tensor that takes half the memory."""
    return torch.from_numpy(array.astype(np.int32))
