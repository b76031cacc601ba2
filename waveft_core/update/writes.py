"""The weights of many layers, written together: all of their sums are one layer's few kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..basis.plan import Plan, joined, rounded
from .coefficients import InWeight


class Batch:
    """The weights of many layers, written together: the sums of all of them are one layer's few kernels.

    Args:
        layers: of one basis, one device and one dtype, each the only update of its weight.
    """

    def __init__(self, layers: Sequence[InWeight]) -> None:
        self._layers = list(layers)
        self._plans = [layer.update.plan for layer in layers]
        self._plan: Plan = joined(self._plans)
        self._originals = [layer.ledger.originals for layer in layers]
        self._sizes = [len(original) for original in self._originals]

    def holds(self, layers: Sequence[InWeight]) -> bool:
        """Returns whether this is still the batch of `layers`, and may be written without a look at each weight."""
        return len(layers) == len(self._layers) and all(
            layer is own
            and layer.update.plan is plan
            and layer.update.fits(layer.ledger.weight)
            and layer.ledger.originals is original
            and len(layer.ledger.updates) == 1
            and layer.update.factor == layers[0].update.factor
            and not layer.ledger.changed()
            for layer, own, plan, original in zip(layers, self._layers, self._plans, self._originals, strict=True)
        )

    def write(self) -> None:
        """Writes every layer's weight from the present values; never waits for the device."""
        first = self._layers[0]
        if first.update.factor != 0.0:
            total = self._plan.sums(torch.cat([layer.values.detach() for layer in self._layers]))
            total.mul_(first.update.factor).add_(torch.cat(self._originals).to(total.dtype))
            parts: Sequence[Tensor] = torch.split(rounded(total, first.ledger.weight.dtype), self._sizes)
        else:
            parts = self._originals
        for layer, part in zip(self._layers, parts, strict=True):
            layer.ledger.put(part)
            layer.saw()
        for layer in self._layers:
            layer.ledger.mark()  # slices of one tensor share its version: each one's write showed on the others
