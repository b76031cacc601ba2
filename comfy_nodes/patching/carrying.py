"""What a MODEL and a CLIP carry together, for the nodes that look at the end of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..adapters import arithmetic, describe
from ..core import WaveFTError, scale
from ..sockets import Carried
from .applied import Applied, applied
from .patch import text_layers

# No widget of the nodes that look at a model can bring its adapters together.
_IN_ONE_BASIS = (
    "Bring the adapters together before they are applied, with the node Combine WaveFT, and connect what it returns to "
    "`adapter` in place of `model` and `clip`."
)


def carried_by(model: Any = None, clip: Any = None) -> list[Applied]:
    """Returns the adapters on a MODEL and on a CLIP; one that is on both at one strength once, with all its layers."""
    found = [] if model is None else applied(model)
    for one in [] if clip is None else applied(clip.patcher):
        place = next((at for at, other in enumerate(found) if _one_strength(one, other)), None)
        if place is None:
            found.append(one)
        else:
            found[place] = replace(one, strengths={**found[place].strengths, **one.strengths})
    return found


def called(model: Any = None, clip: Any = None) -> str:
    """Returns the words for what is connected."""
    return " and ".join(name for name, socket in (("model", model), ("CLIP", clip)) if socket is not None)


def left_out(found: Sequence[Applied], model: Any = None, clip: Any = None) -> list[str]:
    """Returns a line for the layers of these adapters that belong to what is not connected, if there are any."""
    in_text = {layer for one in found for layer in text_layers(one.carried)}
    every = {layer for one in found for layer in one.carried.adapter.layers}
    lines = []
    if clip is None and in_text:
        lines.append(f"left out: {describe.plural(len(in_text), 'text-encoder layer')} (connect clip)")
    if model is None and every - in_text:
        lines.append(f"left out: {describe.plural(len(every - in_text), 'layer')} of the model (connect model)")
    return lines


def strength_text(one: Applied) -> str:
    """Returns an adapter's strength on a model, a range where models were merged block by block."""
    low, high = min(one.strengths.values()), max(one.strengths.values())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def total(found: Sequence[Applied]) -> Carried:
    """Returns the exact sum of what is applied on a model, at its strengths; one alone at 1 is itself.

    Raises:
        WaveFTError: nothing is applied, or adapters in different wavelets.
    """
    if not found:
        raise WaveFTError(
            "model, clip: expected one that WaveFT adapters are applied to, got none on what is connected. "
            "Connect the MODEL and CLIP of Load WaveFT or Apply WaveFT, or connect `adapter`."
        )
    return arithmetic.combined([_at_strength(one) for one in found], _IN_ONE_BASIS)


def _one_strength(one: Applied, other: Applied) -> bool:
    strengths = {*one.strengths.values(), *other.strengths.values()}
    return one.carried is other.carried and len(strengths) == 1


def _at_strength(one: Applied) -> arithmetic.Weighted:
    """Returns the layers that are applied and their strength; where layers differ in it, it is folded in."""
    carried, strengths = one.carried, one.strengths
    layers = carried.adapter.layers
    alike = len(set(strengths.values())) == 1
    factors = {layer: (1.0 if alike else strengths[layer]) if layer in strengths else 0.0 for layer in layers}
    made = scale(carried.adapter, factors)
    if made is not carried.adapter:
        said = {"layers": f"{len(strengths)} of {len(layers)}"} if alike else {"strength_by_layer": dict(strengths)}
        carried = Carried(made, carried.title, {"applied": said, "of": carried.origin})
    return carried, next(iter(strengths.values())) if alike else 1.0
