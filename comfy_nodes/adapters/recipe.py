"""Where an adapter came from, for people and for its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..sockets import Carried

RECIPE = "waveft.recipe"
GRAPH = ("prompt", "workflow")  # of the graph that saved a file: it says nothing of what another graph makes of it
# Hashes of the tensors of the file that was read: those that are written now are others.
_STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash", RECIPE, *GRAPH)
_HASH_DIGITS = 10  # as hubs abbreviate a file's hash

Origin = Mapping[str, Any]


def lines(origin: Origin) -> list[str]:
    """Returns an origin as a tree: what was done, and below it, indented, to what."""
    return list(_lines(origin, "", ""))


def as_metadata(carried: Carried) -> dict[str, str]:
    """Returns the metadata of a file that an adapter is saved to: its own, but for hashes, and its recipe.

    What was made of several adapters has what all of them say alike (the core sees to it).
    """
    own = {key: value for key, value in carried.adapter.metadata.items() if key not in _STALE}
    recipe = json.dumps(carried.origin, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {**own, RECIPE: recipe}


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
