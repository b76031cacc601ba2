"""Plans of layers that are merged again and again, kept from merge to merge: which entries change, and how."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch

from ..basis.plan import Plan
from ..format.adapter import Adapter


@dataclass
class _Plans:
    """An adapter's plans by layer, None where one merge has been; and what they take."""

    by_layer: dict[str, Plan | None] = field(default_factory=dict)
    nbytes: int = 0


class Kept:
    """The plans of adapters that are merged again: at each forward in low VRAM, at each keyframe, at a new strength.

    Unless asked, a layer's first merge keeps nothing, since most models are merged once. From its second on its plan
    stays on the device, until it is dropped (the model left the device) or the adapter is gone. Beyond the limit the
    adapter that was used least recently loses its plans; a layer for which there is still no room has its plan made
    anew each time, four times as slow.

    Args:
        limit: bytes; SDXL's 560 layers at the paper's budget take 9 MB with db1, 47 MB with db2.
        at_once: keep the first merge's plans too, for where a second merge is likely.
    """

    def __init__(self, limit: int, at_once: bool = False) -> None:
        self._limit, self._at_once = limit, at_once
        self._of: weakref.WeakKeyDictionary[Adapter, _Plans] = weakref.WeakKeyDictionary()

    @property
    def limit(self) -> int:
        """Bytes; a lower one is kept to from the next plan on."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit = limit

    @property
    def nbytes(self) -> int:
        """What is kept."""
        return sum(held.nbytes for held in self._of.values())

    def plan(self, adapter: Adapter, layer: str, weight: torch.Tensor) -> Plan | None:
        """Returns a layer's plan on the weight's device; None at its first merge, unless plans are kept at once."""
        held = self._of[adapter] = self._of.pop(adapter, _Plans())  # the last one used comes last
        if layer not in held.by_layer and not self._at_once:
            held.by_layer[layer] = None
            return None
        plan = held.by_layer.get(layer)
        if plan is None or plan.device != weight.device:
            made = adapter.plan(layer, weight.dtype, weight.device)
            if plan is None:
                if not self._has_room(held, made.nbytes):
                    return made
                held.nbytes += made.nbytes
            held.by_layer[layer] = plan = made
        return plan

    def drop(self, adapter: Adapter) -> None:
        """Forgets an adapter's plans: its model was taken off the device."""
        self._of.pop(adapter, None)

    def _has_room(self, wanting: _Plans, nbytes: int) -> bool:
        for adapter, held in list(self._of.items()):
            if self.nbytes + nbytes <= self._limit:
                break
            if held is not wanting:
                del self._of[adapter]
        return self.nbytes + nbytes <= self._limit
