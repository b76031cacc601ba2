"""A layer's plan: which entries of the weight its coefficients touch, and the exact sum that each entry receives.

An entry's sum runs over its contributions in ascending coefficient order, whatever the device or thread count.  Atomic
scatter-adds do not promise an order, so the contributions are kept in turns: turn d holds the d-th contribution of
every block of entries that has more than d of them.  Within a turn no two meet, so each is a gather, a multiply and an
add: no atomics, the same bits everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from ..errors import WaveFTError, within_memory
from .atoms import filters
from .blocks import block_entries, blocks

MOST_BLOCKS = 2**26  # of a layer: making their plan takes about 3.5 GB
E4M3_LIMIT = 464.0  # half a step above float8_e4m3fn's largest number, 448


@dataclass(frozen=True)
class Turn:
    """Contributions that fall on different blocks.

    Attributes:
        blocks: [L] int32, where each falls; None in the first turn, which has one for every block, in their order.
        sources: [L] int32, the coefficient of each.
        codes: [L] int16, the row of the plan's taps that it is multiplied by.
    """

    blocks: Tensor | None
    sources: Tensor
    codes: Tensor

    def to(self, device: torch.device) -> Turn:
        """Returns the turn on `device`."""
        moved = None if self.blocks is None else self.blocks.to(device)
        return Turn(moved, self.sources.to(device), self.codes.to(device))


@dataclass(frozen=True)
class Plan:
    """Where p coefficients of one layer, or of several side by side, fall.

    Attributes:
        entries: [E] int32, the touched entries, flat in the weight, each once.
        turns: the contributions, in the order in which they are added.
        kept: [E] int32, the places of `entries` among all the blocks' entries; None where all are kept.
        taps: [codes, s] float32 or float64.
        basis: wavelet, mode, the weight's shape and the indices that it was made from.
    """

    entries: Tensor
    turns: tuple[Turn, ...]
    kept: Tensor | None
    taps: Tensor
    basis: tuple[str, str, tuple[int, ...], Tensor]

    @property
    def nbytes(self) -> int:
        """What it holds on its device, the taps aside, which all layers of one basis share."""
        turns = [part for turn in self.turns for part in (turn.blocks, turn.sources, turn.codes)]
        return sum(part.nbytes for part in (self.entries, self.kept, *turns) if part is not None)

    def sums(self, values: Tensor) -> Tensor:
        """Returns IDWT(C) at the touched entries, [E] in the taps' dtype; `values`: [p]."""
        values = values.to(self.taps.dtype)
        first, *rest = self.turns
        total = self._contributions(first, values)  # [B, s]
        for turn in rest:
            assert turn.blocks is not None
            # a separate multiply and add: a fused one would round differently on some devices
            total[turn.blocks] = total.index_select(0, turn.blocks).add_(self._contributions(turn, values))
        flat = total.view(-1)
        return flat if self.kept is None else flat.index_select(0, self.kept)

    def dense(self, values: Tensor, factor: float = 1.0) -> Tensor:
        """Returns factor * IDWT(C) in the weight's shape, on the plan's device and in its dtype; `values`: [p].

        The entries are those that a merge adds, bit for bit: the factor is multiplied in before anything is added.
        """
        shape = self.basis[2]
        made = self.taps.new_zeros(math.prod(shape))
        return made.index_copy_(0, self.entries.long(), self.sums(values).mul_(factor)).view(shape)

    def _contributions(self, turn: Turn, values: Tensor) -> Tensor:
        taps = self.taps.index_select(0, turn.codes.int())  # [L, s]
        return taps.mul_(values.index_select(0, turn.sources).unsqueeze(1))

    def to(self, device: torch.device, dtype: torch.dtype) -> Plan:
        """Returns the plan on `device`, for arithmetic in `dtype`."""
        if self.taps.dtype == dtype and self.entries.device == device:
            return self
        return replace(
            self,
            entries=self.entries.to(device),
            turns=tuple(turn.to(device) for turn in self.turns),
            kept=None if self.kept is None else self.kept.to(device),
            taps=_taps(*self.basis[:2], dtype, device),
        )


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
    with within_memory(f"the {count} blocks that {len(indices)} coefficients of {wavelet} touch"):
        return _planned(wavelet, mode, shape, indices, dtype)


def block_count(wavelet: str, coefficients: int) -> int:
    """Returns how many blocks the atoms of so many coefficients cover, each counted for every atom."""
    return coefficients * max(1, int(filters(wavelet).shape[1]) // 2) ** 2


def _planned(wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, dtype: torch.dtype) -> Plan:
    found = blocks(wavelet, mode, shape, indices.cpu().numpy())
    each = found.of_coefficient.shape[1]
    block, contribution = _ordered(found.of_coefficient.reshape(-1))
    firsts = np.flatnonzero(np.diff(block, prepend=-1))
    counts = np.diff(firsts, append=block.size)
    entries = block_entries(wavelet, mode, shape, block[firsts]).reshape(-1)
    kept = np.flatnonzero(entries >= 0) if entries.min() < 0 else None
    codes = found.codes.reshape(-1)
    turns = []
    for depth in range(int(counts.max())):
        deep = np.flatnonzero(counts > depth)
        picks = contribution[firsts[deep] + depth]
        turns.append(Turn(_int32(deep) if depth else None, _int32(picks // each), _int16(codes[picks])))
    return Plan(
        entries=_int32(entries if kept is None else entries[kept]),
        turns=tuple(turns),
        kept=None if kept is None else _int32(kept),
        taps=_taps(wavelet, mode, dtype, torch.device("cpu")),
        basis=(wavelet, mode, shape, indices),
    )


def joined(plans: Sequence[Plan]) -> Plan:
    """Returns one plan for layers of one basis, on one device: its values and its sums are theirs, end to end.

    It has no `entries`: they stay with the layers, whose weights lie apart.
    """
    starts = np.cumsum([0, *(len(plan.basis[3]) for plan in plans)])
    sizes = [len(plan.turns[0].sources) for plan in plans]
    offsets = np.cumsum([0, *sizes])
    width = plans[0].taps.shape[1]
    turns = []
    for layer in zip_longest(*(plan.turns for plan in plans)):
        held = [(number, turn) for number, turn in enumerate(layer) if turn is not None]
        places = [turn.blocks + int(offsets[number]) for number, turn in held if turn.blocks is not None]
        turns.append(
            Turn(
                torch.cat(places) if places else None,
                torch.cat([turn.sources + int(starts[number]) for number, turn in held]),
                torch.cat([turn.codes for _, turn in held]),
            )
        )
    kept = None
    if any(plan.kept is not None for plan in plans):
        device = plans[0].entries.device
        parts = [
            torch.arange(width * size, device=device) if p.kept is None else p.kept
            for p, size in zip(plans, sizes, strict=True)
        ]
        kept = torch.cat([part + width * int(start) for part, start in zip(parts, offsets, strict=False)])
    return replace(plans[0], entries=plans[0].entries[:0], turns=tuple(turns), kept=kept)


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a weight of `dtype` is updated: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def rounded(total: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns `total` in a weight's dtype, rounded once to nearest; what overflows is infinite or NaN in all."""
    if dtype == torch.float8_e4m3fn:  # has no infinity: some versions of torch saturate
        total = total.masked_fill(total.abs() > E4M3_LIMIT, torch.nan)
    return total.to(dtype)


@lru_cache(maxsize=64)
def _taps(wavelet: str, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(blocks(wavelet, mode, (2, 2), np.zeros(1, np.int32)).taps).to(device, dtype)


def _ordered(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the blocks in ascending order and which contribution each is, those of one block in ascending order."""
    bits = max(1, int(block.size - 1).bit_length())
    keys = np.sort((block << bits) | np.arange(block.size))  # all different: a fast sort need not be stable
    return keys >> bits, keys & ((1 << bits) - 1)


def _int32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int32))


def _int16(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int16))
