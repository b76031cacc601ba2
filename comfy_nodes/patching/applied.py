"""What WaveFT adapters a MODEL or CLIP carries, and how strongly: read off its patches, so that it is always true.

A list kept beside the patches would be wrong after a model merge, which multiplies strengths, and would not know what
stock LoRA nodes applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..sockets import Carried
from .layerpatch import WaveFTPatch


@dataclass(frozen=True)
class Applied:
    """An adapter on a model.

    Attributes:
        strengths: by layer: one number for all of them, unless models were merged block by block.
    """

    carried: Carried
    strengths: Mapping[str, float]


def applied(model: Any) -> list[Applied]:
    """Returns the adapters on a MODEL (or on a CLIP's `patcher`), in the order in which they were first applied."""
    found: dict[int, tuple[Carried, dict[str, float]]] = {}
    for patches in model.patches.values():
        for patch, strength in _contributions(patches):
            _, strengths = found.setdefault(id(patch.carried), (patch.carried, {}))
            strengths[patch.layer] = strengths.get(patch.layer, 0.0) + strength
    left = [
        Applied(carried, {layer: strength for layer, strength in strengths.items() if strength != 0})
        for carried, strengths in found.values()
    ]
    return [one for one in left if one.strengths]


def _contributions(patches: Iterable[Sequence[Any]]) -> list[tuple[WaveFTPatch, float]]:
    """Returns our patches in one weight's list and the factor of each, as ComfyUI's merge arrives at it.

    A patch is (strength, value, strength_model, ...): what is there already is multiplied by strength_model, then
    strength * value is added. A value that is a list is another model's weight and its own patches.
    """
    found: list[tuple[WaveFTPatch, float]] = []
    for strength, value, strength_model, *_ in patches:
        if isinstance(value, tuple) and len(value) == 2 and value[0] == "set":
            found = []
            continue
        found = [(patch, held * strength_model) for patch, held in found]
        if isinstance(value, WaveFTPatch):
            found.append((value, strength))
        elif isinstance(value, list):
            found += [(patch, held * strength) for patch, held in _contributions(value[1:])]
    return found
