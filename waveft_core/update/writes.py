"""The weights of many layers, written together: as few kernels for all of them as for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..basis.places import BITS, Places
from ..basis.plan import rounded
from ..basis.turns import InTurns, joined
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
        plans = [layer.update.plan for layer in layers]
        self._plan = joined([plan for plan in plans if isinstance(plan, InTurns)])  # all: they are alike
        self._own = list(torch.split(self._originals, self._sizes))
        counts = [len(ledger.places.starts) for ledger in ledgers]
        starts = torch.cat([ledger.places.starts for ledger in ledgers])
        for ledger, original, own in zip(ledgers, self._own, torch.split(starts, counts), strict=True):
            ledger.lie_in(original, own)
        self._plans = [layer.update.plan for layer in layers]  # as they are now
        weights = [ledger.weight for ledger in ledgers]
        self._memory = storage.shared_memory(weights)
        first = [0 if self._memory is None else int(weight.storage_offset()) for weight in weights]
        self._offsets = _offsets([ledger.places for ledger in ledgers], first, starts, counts)

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
            bits, offsets = BITS[content.element_size()], self._offsets()
            if self._memory is not None:
                self._memory.view(bits).index_copy_(0, offsets, content.view(bits))
                torch.autograd.graph.increment_version(weights)
            else:
                for weight, own, part in zip(weights, torch.split(offsets, self._sizes), parts, strict=True):
                    weight.detach().view(-1).view(bits).index_copy_(0, own, part.view(bits))
        for layer, part in zip(self._layers, parts, strict=True):  # once all are: they may share one version
            layer.ledger.wrote(part)
            layer.saw()


def _offsets(
    places: Sequence[Places], first: Sequence[int], starts: Tensor, counts: Sequence[int]
) -> Callable[[], Tensor]:
    """Returns what gives the layers' entries, end to end, in memory: [E] int64.

    Args:
        first: where each layer's weight begins there.
        starts: those of all `places`, end to end; `counts` how many of each.
    """
    if any(len(own.rest) for own in places):
        held = torch.cat([own.entries().long() + begin for own, begin in zip(places, first, strict=True)])
        return (held.int() if int(held.max()) < 2**31 else held).long
    corners = [[begin + corner for corner in own.corners] for own, begin in zip(places, first, strict=True)]
    rows, each = torch.tensor(corners, device=starts.device), torch.tensor(counts, device=starts.device)

    def offsets() -> Tensor:
        spread = torch.repeat_interleave(rows, each, dim=0, output_size=len(starts))  # [B, s]
        return spread.add_(starts.unsqueeze(1)).view(-1)

    return offsets


def together_pays(layers: Sequence[InWeight]) -> bool:
    """Returns whether a batch may be made and is faster: on a CPU only for weights in one piece of memory."""
    weights = [layer.ledger.weight for layer in layers]
    if weights[0].device.type == "cpu":
        return storage.shared_memory(weights) is not None
    return all(weight.is_contiguous() for weight in weights)


def alike(layers: Sequence[InWeight]) -> bool:
    """Returns whether layers of one basis, device and dtype may be written together, without a look at each weight.

    Each must be the only update of its weight, and nobody else may have changed that.
    """
    return all(
        isinstance(layer.update.plan, InTurns)
        and layer.update.fits(layer.ledger.weight)
        and len(layer.ledger.updates) == 1
        and layer.update.factor == layers[0].update.factor
        and not layer.ledger.changed()
        for layer in layers
    )
