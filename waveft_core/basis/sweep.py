"""A plan that keeps nothing but the coefficients' places: the sums are made in one run through them, each time.

For long filters, whose contributions are many times the coefficients: db8 has 64 blocks in each atom.  Marks of the
weight's blocks say which are touched and number them without a sort; then one scatter-add runs through the
contributions in ascending coefficient order.  On the CPU that add is one loop on one thread, so that the bits are those
of the turns; a GPU's promises no order, and gets a plan in turns.
"""

from __future__ import annotations

import contextlib
import weakref
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import within_memory
from .atoms import matrix_shape
from .blocks import blocks, cells
from .places import Places
from .plan import Plan, chosen, laid_out, taps_of
from .turns import planned

_AT_ONCE = 2**15  # contributions: what is made of them stays in a core's cache


@dataclass(frozen=True)
class _Marked:
    """What a sweep needs to know of its layer, for one use or a few in a row.

    Attributes:
        places: the touched entries.
        number: of touched blocks.
        whole, kept: as `laid_out` says.
        ranks: [p, A] int32, which of the touched blocks each contribution falls on.
        codes: [p, A] int16, the row of the plan's taps that it is multiplied by.
    """

    places: Places
    number: int
    whole: int
    kept: Tensor | None
    ranks: Tensor
    codes: Tensor


@dataclass(frozen=True, eq=False)
class Sweep(Plan):
    """Where p coefficients of one layer fall, on the CPU, found anew for each use.

    Attributes:
        indices: [p] int32, flat in C, ascending.
        taps, basis: as `Plan` has them.
    """

    indices: Tensor
    taps: Tensor
    basis: tuple[str, str, tuple[int, ...]]

    @classmethod
    def of(cls, wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, dtype: torch.dtype) -> Sweep:
        """Returns the plan of a layer: as `make_plan`."""
        own = indices.to("cpu", copy=True)  # an adapter's may be changed by whoever holds it
        return cls(own, taps_of(wavelet, dtype, torch.device("cpu")), (wavelet, mode, shape))

    @property
    def coefficients(self) -> int:  # type: ignore[override]
        """P."""
        return len(self.indices)

    @property
    def places(self) -> Places:  # type: ignore[override]  # noqa: D102 - as the plan's
        return self._marked().places

    @property
    def device(self) -> torch.device:  # noqa: D102
        return self.taps.device

    @property
    def nbytes(self) -> int:  # noqa: D102
        return self.indices.nbytes

    def sums(self, values: Tensor) -> Tensor:  # noqa: D102
        marked, values = self._marked(), values.to(self.taps.dtype)
        each, size = marked.ranks.shape[1], self.taps.shape[1]
        with self._within_memory():
            # -0.0 is what leaves the first contribution as it is, a zero's sign too
            total = torch.full((marked.number * size,), -0.0, dtype=self.taps.dtype)
            corners = torch.arange(size, dtype=torch.int32)
            step = max(1, _AT_ONCE // each)
            for start in range(0, len(values), step):
                some = slice(start, start + step)
                parts = self.taps.index_select(0, marked.codes[some].reshape(-1).int()).view(-1, each * size)
                parts.mul_(values[some].unsqueeze(1))  # [.., A * s]: a product and an add, never fused, as in turns
                entries = torch.add(corners, marked.ranks[some].reshape(-1, 1), alpha=size)
                total.index_add_(0, entries.view(-1), parts.view(-1))  # one axis: a loop in this order
            return chosen(total, marked.whole, marked.kept)

    def to(self, device: torch.device, dtype: torch.dtype) -> Plan:  # noqa: D102
        if self.fits(device, dtype):
            return self
        if device.type == "cpu":
            return replace(self, taps=taps_of(self.basis[0], dtype, device))
        with self._within_memory():
            return planned(*self.basis, self.indices, dtype).to(device, dtype)

    def _within_memory(self) -> contextlib.AbstractContextManager[None]:
        return within_memory(f"the blocks that {len(self.indices)} coefficients of {self.basis[0]} touch")

    def _marked(self) -> _Marked:
        """Returns what is known of the layer; that of the last one asked for is at hand, since uses come in a row."""
        found = _LAST.get(self)
        if found is None:
            with self._within_memory():
                found = self._mark()
            _LAST.clear()
            _LAST[self] = found
        return found

    def _mark(self) -> _Marked:
        wavelet, mode, shape = self.basis
        m, n = matrix_shape(shape)
        number = cells(wavelet, mode, m).number * cells(wavelet, mode, n).number
        found = blocks(wavelet, mode, shape, self.indices.numpy())
        block = found.of_coefficient.astype(np.intp)  # numpy would turn any other into these each time
        edges = np.empty(0, np.intp)
        if found.inside is not True:  # they come last
            edges, which = np.unique(block[~found.inside], return_inverse=True)
            block[~found.inside] = number + which
        marks = np.zeros(number + len(edges), bool)
        marks[block] = True
        touched = np.flatnonzero(marks).astype(np.int32)  # a weight has fewer than 2**31 entries
        ranks = np.empty(len(marks), np.int32)  # only what is marked is written, and read
        ranks[touched] = np.arange(len(touched), dtype=np.int32)
        touched[len(touched) - len(edges) :] = edges + number
        where, first, kept = laid_out(self.basis, touched)
        codes = torch.from_numpy(found.codes)
        return _Marked(where, len(touched), first, kept, torch.from_numpy(ranks[block]), codes)


_LAST: weakref.WeakKeyDictionary[Sweep, _Marked] = weakref.WeakKeyDictionary()  # one, and no longer than its plan
