"""Which of the two ways a layer's sums take: in turns that are kept, or in a sweep that keeps nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import WaveFTError, within_memory
from .atoms import filters, matrix_shape
from .blocks import cells
from .plan import Plan
from .sweep import Sweep
from .turns import planned

MOST_BLOCKS = 2**26  # of a layer: sorting them takes about 3.5 GB

# A plan in turns takes eight bytes a block: up to here half a MiB, 280 for all of SDXL's layers. A sweep keeps none of
# them, nor what was written, and what uses it takes three times as long. It marks all of the weight's blocks, five
# bytes each: where the atoms cover few of them, sorting is quicker.
KEPT_BLOCKS, MARKED_PER_BLOCK = 2**16, 32


def make_plan(wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, dtype: torch.dtype) -> Plan:
    """Returns the plan of a layer on the CPU.

    Args:
        shape: of the weight itself.
        indices: [p] int32, flat in C, ascending.
        dtype: of the arithmetic, float32 or float64.

    Raises:
        WaveFTError: more contributions than `MOST_BLOCKS` (a long filter at very many places), or too little memory.
    """
    count = block_count(wavelet, len(indices))
    if count > MOST_BLOCKS:
        raise WaveFTError(
            f"coefficients: expected at most {MOST_BLOCKS} blocks of entries that they touch in a layer, got {count} "
            f"({len(indices)} coefficients of {wavelet}). Prune the adapter, or use a shorter wavelet."
        )
    if sweeping_pays(wavelet, mode, shape, len(indices)):
        return Sweep.of(wavelet, mode, shape, indices, dtype)
    with within_memory(f"the {count} blocks that {len(indices)} coefficients of {wavelet} touch"):
        return planned(wavelet, mode, shape, indices, dtype)


def sweeping_pays(wavelet: str, mode: str, shape: tuple[int, ...], coefficients: int) -> bool:
    """Returns whether a layer's sums are made in a sweep: its plan would be large, and its atoms cover much of it."""
    m, n = matrix_shape(shape)
    count = block_count(wavelet, coefficients)
    number = cells(wavelet, mode, m).number * cells(wavelet, mode, n).number
    return count > KEPT_BLOCKS and number <= MARKED_PER_BLOCK * count


def block_count(wavelet: str, coefficients: int) -> int:
    """Returns how many blocks the atoms of so many coefficients cover, each counted for every atom."""
    return coefficients * max(1, int(filters(wavelet).shape[1]) // 2) ** 2
