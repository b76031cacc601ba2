"""A plan whose contributions are sorted once: made slowly, kept, and quick to use on any device.

Atomic scatter-adds do not promise an order, so the contributions are kept in turns: turn d holds the d-th contribution
of every block of entries that has more than d of them.  Within a turn no two meet, so each is a gather, a multiply and
an add: no atomics, the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from .atoms import matrix_shape
from .blocks import blocks, cells
from .places import Places
from .plan import Plan, chosen, int32, laid_out, taps_of


@dataclass(frozen=True)
class Turn:
    """Contributions that fall on different blocks.

    Attributes:
        blocks: [L] int32, where each falls; None in the first turn, which has one for every block, in their order.
        atoms: [L] int16 to int64, the coefficient of each, shifted left by the plan's `bits`, and the row of the plan's
            taps that it is multiplied by: two bytes for most layers.
    """

    blocks: Tensor | None
    atoms: Tensor

    def to(self, device: torch.device) -> Turn:
        """Returns the turn on `device`."""
        return Turn(None if self.blocks is None else self.blocks.to(device), self.atoms.to(device))


@dataclass(frozen=True)
class InTurns(Plan):
    """Where p coefficients of one layer, or of several side by side, fall.

    Attributes:
        places: the touched entries, each once.
        turns: the contributions, in the order in which they are added.
        whole: how many of the blocks' entries, the first ones, are all among `places`.
        kept: [R] int32, those of the others that are, as places behind `whole`; None where all are.
        taps: [codes, s] float32 or float64.
        basis: wavelet, mode, and the weight's shape.
        coefficients: p.
    """

    places: Places
    turns: tuple[Turn, ...]
    whole: int
    kept: Tensor | None
    taps: Tensor
    basis: tuple[str, str, tuple[int, ...]]
    coefficients: int

    @property
    def device(self) -> torch.device:
        """Where it is kept."""
        return self.turns[0].atoms.device

    @property
    def bits(self) -> int:
        """How far `Turn.atoms` hold a coefficient shifted."""
        return (len(self.taps) - 1).bit_length()

    @property
    def nbytes(self) -> int:
        """What it holds on its device, the taps aside, which all layers of one basis share."""
        turns = [part for turn in self.turns for part in (turn.blocks, turn.atoms)]
        return self.places.nbytes + sum(part.nbytes for part in (self.kept, *turns) if part is not None)

    def sums(self, values: Tensor) -> Tensor:
        """Returns IDWT(C) at the touched entries, [E] in the taps' dtype; `values`: [p]."""
        contributions = self._contributions(values.to(self.taps.dtype))
        first, *rest = self.turns
        total = contributions(first.atoms)  # [B, s]
        for turn in rest:
            assert turn.blocks is not None
            # a separate multiply and add: a fused one would round differently on some devices
            total[turn.blocks] = total.index_select(0, turn.blocks).add_(contributions(turn.atoms))
        return chosen(total, self.whole, self.kept)

    def _contributions(self, values: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns what gives taps times values of some atoms [L]: [L, s]."""
        bits, taps = self.bits, self.taps
        short = taps.shape == (4, 4) and taps.dtype == torch.float32 and self.turns[0].atoms.dtype == torch.int16
        if short and taps.device.type in ("cpu", "cuda"):  # others, Apple's among them, know no number of 16 bytes
            # all products of one layer's values and a filter of two taps, gathered 16 bytes at a time: half the time
            products = torch.outer(values, taps.view(-1)).view(torch.complex128).view(-1)
            return lambda atoms: products.index_select(0, atoms.int()).view(torch.float32).view(-1, 4)

        def product(atoms: Tensor) -> Tensor:
            found = taps.index_select(0, (atoms & ((1 << bits) - 1)).int())
            return found.mul_(values.index_select(0, (atoms >> bits).int()).unsqueeze(1))

        return product

    def to(self, device: torch.device, dtype: torch.dtype) -> InTurns:
        """Returns the plan on `device`, for arithmetic in `dtype`."""
        if self.fits(device, dtype):
            return self
        return replace(
            self,
            places=self.places.to(device),
            turns=tuple(turn.to(device) for turn in self.turns),
            kept=None if self.kept is None else self.kept.to(device),
            taps=taps_of(self.basis[0], dtype, device),
        )


def planned(wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, dtype: torch.dtype) -> InTurns:
    """Returns the plan of a layer on the CPU: as `make_plan`."""
    m, n = matrix_shape(shape)
    taps = taps_of(wavelet, dtype, torch.device("cpu"))
    found = blocks(wavelet, mode, shape, indices.cpu().numpy())
    number = cells(wavelet, mode, m).number * cells(wavelet, mode, n).number
    block, order = _ordered(found.of_coefficient, found.inside, number)
    each, bits = found.of_coefficient.shape[1], (len(taps) - 1).bit_length()
    sources = order if each == 1 else order // each
    atoms = _narrow((sources << bits) | found.codes.reshape(-1)[order], len(indices) << bits)
    fresh = np.empty(len(block), bool)
    fresh[0] = True
    np.not_equal(block[1:], block[:-1], out=fresh[1:])
    firsts, again = np.flatnonzero(fresh), np.flatnonzero(~fresh)
    turns = [Turn(None, torch.from_numpy(atoms[firsts]))]
    if len(again):
        places = np.searchsorted(firsts, again) - 1
        depths = again - firsts[places]
        for depth in range(1, int(depths.max()) + 1):
            deep = depths == depth
            turns.append(Turn(int32(places[deep]), torch.from_numpy(atoms[again[deep]])))
    where, first, kept = laid_out((wavelet, mode, shape), block[firsts])
    return InTurns(where, tuple(turns), first, kept, taps, (wavelet, mode, shape), len(indices))


def joined(plans: Sequence[InTurns]) -> InTurns:
    """Returns one plan for layers of one basis, on one device: its values and its sums are theirs, end to end.

    Its `places` are the first layer's: the layers' weights lie apart.
    """
    bits, width = plans[0].bits, plans[0].taps.shape[1]
    starts = np.cumsum([0, *(plan.coefficients for plan in plans)])
    sizes = [len(plan.turns[0].atoms) for plan in plans]
    offsets = np.cumsum([0, *sizes])
    wide = torch.int32 if int(starts[-1]) << bits < 2**31 else torch.int64
    turns = []
    for layer in zip_longest(*(plan.turns for plan in plans)):
        held = [(number, turn) for number, turn in enumerate(layer) if turn is not None]
        places = [turn.blocks + int(offsets[number]) for number, turn in held if turn.blocks is not None]
        atoms = torch.cat([turn.atoms.to(wide) + (int(starts[number]) << bits) for number, turn in held])
        turns.append(Turn(torch.cat(places) if places else None, atoms))
    kept = None
    if any(plan.kept is not None for plan in plans):
        parts = []
        for plan, size, offset in zip(plans, sizes, offsets, strict=False):
            own = torch.arange(width * size, dtype=torch.int32, device=plan.device)
            if plan.kept is not None:
                own = torch.cat([own[: plan.whole], plan.kept + plan.whole])
            parts.append(own + width * int(offset))
        kept = torch.cat(parts)
    return replace(plans[0], turns=tuple(turns), whole=0, kept=kept, coefficients=int(starts[-1]))


def _ordered(block: np.ndarray, inside: np.ndarray | bool, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the blocks in ascending order, and which contribution each is, those of one block in theirs.

    Args:
        block: [p, A], of each contribution.
        inside: [p, A], whether it lies within the weight. Those over an edge come last, `number` added to them.
        number: of blocks that there can be.
    """
    keys = (block if inside is True else block + number * ~inside).reshape(-1)
    order = np.argsort(keys, kind="stable")  # by merging runs, of which atoms in the order of their places are made
    return keys[order], order


def _narrow(array: np.ndarray, bound: int) -> np.ndarray:
    """Returns whole numbers below `bound` in as few bytes as hold them."""
    return array.astype(np.int16 if bound <= 2**15 else np.int32 if bound <= 2**31 else np.int64)
