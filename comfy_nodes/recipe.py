"""Where an adapter came from, for people and for its file; and what rides on a model, as one adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import arithmetic
from .core import WaveFTError, scale
from .sockets import Carried

if TYPE_CHECKING:
    from .applied import Applied

RECIPE = "waveft.recipe"
GRAPH = ("prompt", "workflow")  # of the graph that saved a file: it says nothing of what another graph makes of it
# Hashes of the tensors of the file that was read: those that are written now are others.
_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", RECIPE, *GRAPH)
_HASH_DIGITS = 10  # as hubs abbreviate a file's hash

Origin = Mapping[str, Any]


def lines(origin: Origin) -> list[str]:
    """Returns an origin as a tree: what was done, and below it, indented, to what."""
    return list(_lines(origin, "", ""))


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
    return arithmetic.combined([_at_strength(one) for one in found])


def as_metadata(carried: Carried) -> dict[str, str]:
    """Returns the metadata of a file that an adapter is saved to: its own, but for hashes, and its recipe.

    What was made of several adapters has what all of them say alike (the core sees to it).
    """
    own = {key: value for key, value in carried.adapter.metadata.items() if key not in _STALE}
    recipe = json.dumps(carried.origin, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {**own, RECIPE: recipe}


def strength_text(one: Applied) -> str:
    """Returns an adapter's strength on a model, a range where models were merged block by block."""
    low, high = min(one.strengths.values()), max(one.strengths.values())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


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


def _lines(origin: Origin, indent: str, before: str) -> Iterator[str]:
    head, parts = _told(origin)
    yield f"{indent}{before}{head}"
    for weight, part in parts:
        yield from _lines(part, indent + "  ", weight)


def _told(origin: Origin) -> tuple[str, list[tuple[str, Origin]]]:
    """Returns what an origin says of itself, and what it was made of: each with what stands before it."""
    below = [("", origin["of"])] if "of" in origin else []
    if "file" in origin:
        known = f" (sha256 {origin['sha256'][:_HASH_DIGITS]})" if origin.get("sha256") else ""
        return f"{origin['file']}{known}", []
    if "combined" in origin:
        return "sum of", [(f"{part['weight']:g} * ", part["of"]) for part in origin["combined"]]
    if "scaled" in origin:
        return f"{origin['scaled']:g} times", below
    if "reprojected" in origin:
        return f"rewritten, {origin['reprojected']}, relative error {origin['relative_error']:.2%}", below
    done = next((key for key in origin if key != "of"), "")
    said = origin.get(done)
    return f"{done}: {_listed(said) if isinstance(said, Mapping) else said}", below


def _listed(said: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in said.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({len(value)} values)"
    return f"{value:g}" if isinstance(value, float) else str(value)
