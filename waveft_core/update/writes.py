"""The weights of many layers, written together: as few kernels for all of them as for one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..basis.plan import Plan, joined, rounded
from . import storage
from .coefficients import InWeight


class Batch:
    """The weights of many layers, written together: the sums of all of them are one layer's few kernels.

    What the layers keep becomes slices of the batch's own tensors. Where the weights lie in one piece of memory
    (`storage.lay_together`), one kernel puts all of them into it; else there is one for each.

    Args:
        layers: that are `alike`.
    """

    def __init__(self, layers: Sequence[InWeight]) -> None:
        self._layers = list(layers)
        ledgers = [layer.ledger for layer in layers]
        self._sizes = [len(ledger.originals) for ledger in ledgers]
        self._originals = torch.cat([ledger.originals for ledger in ledgers])
        self._offsets = torch.cat([ledger.offsets for ledger in ledgers])
        self._plan: Plan = joined([layer.update.plan for layer in layers])
        self._own = list(torch.split(self._originals, self._sizes))
        for ledger, original, offsets in zip(ledgers, self._own, torch.split(self._offsets, self._sizes), strict=True):
            ledger.lie_in(original, offsets)
        self._plans = [layer.update.plan for layer in layers]
        weights = [ledger.weight for ledger in ledgers]
        self._memory = storage.shared_memory(weights)
        self._starts: tuple[Tensor, Tensor] | None = None
        if self._memory is not None:
            each = [weight.storage_offset() for weight in weights], self._sizes
            self._starts = tuple(torch.tensor(one, device=self._offsets.device) for one in each)  # type: ignore[assignment]

    def holds(self, layers: Sequence[InWeight]) -> bool:
        """Returns whether this is still the batch of `layers`, and may be written without a look at each weight."""
        return (
            len(layers) == len(self._layers)
            and all(
                layer is own and layer.update.plan is plan and layer.ledger.originals is original
                for layer, own, plan, original in zip(layers, self._layers, self._plans, self._own, strict=True)
            )
            and alike(layers)
        )

    def write(self) -> None:
        """Writes every layer's weight from the present values; never waits for the device."""
        first = self._layers[0]
        content, parts = self._originals, self._own
        if first.update.factor != 0.0:
            total = self._plan.sums(storage.end_to_end([layer.values for layer in self._layers]))
            total.mul_(first.update.factor).add_(self._originals.to(total.dtype))
            content = rounded(total, first.ledger.weight.dtype)
            parts = list(torch.split(content, self._sizes))
        weights = [layer.ledger.weight for layer in self._layers]
        with torch.no_grad():  # not through .data: autograd must see a rewrite between a forward and its backward
            if self._memory is not None and self._starts is not None:
                starts, sizes = self._starts
                places = torch.repeat_interleave(starts, sizes, output_size=len(content)).add_(self._offsets)
                storage.write(self._memory, places, content)
                torch.autograd.graph.increment_version(weights)
            else:
                places = self._offsets.long()
                for weight, place, part in zip(weights, torch.split(places, self._sizes), parts, strict=True):
                    storage.write(weight, place, part)
        for layer, part in zip(self._layers, parts, strict=True):  # once all are: they may share one version
            layer.ledger.wrote(part)
            layer.saw()


def alike(layers: Sequence[InWeight]) -> bool:
    """Returns whether layers of one basis, device and dtype may be written together, without a look at each weight.

    Each must be the only update of its weight, and nobody else may have changed that.
    """
    return all(
        layer.update.fits(layer.ledger.weight)
        and len(layer.ledger.updates) == 1
        and layer.update.factor == layers[0].update.factor
        and not layer.ledger.changed()
        for layer in layers
    )
