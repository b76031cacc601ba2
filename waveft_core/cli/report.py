"""A summary as lines for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..atoms import IDENTITY
from .console import plural, size_text

_BLOCKS = 40  # lines
_SHOWN = 90  # characters of a metadata value


def as_json(told: Mapping[str, Any]) -> str:
    """Returns a summary as JSON."""
    return json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)


def as_text(told: Mapping[str, Any], rest: str = " (--json lists all)") -> str:
    """Returns a summary in lines.

    Args:
        rest: where to look for what a long list leaves out.
    """
    return "\n".join([*_facts(told), *_energies(told["energy"], rest), *_metadata(told["metadata"])])


def _facts(told: Mapping[str, Any]) -> Iterator[str]:
    count, layers = told["coefficients"], plural(told["layers"], "layer")
    each = f"{count['min']:,}" if count["min"] == count["max"] else f"{count['min']:,} to {count['max']:,}"
    basis = told["wavelet"] if told["wavelet"] == IDENTITY else f"{told['wavelet']}, {told['mode']}"
    if told["source"]:
        size = f" ({size_text(told['bytes'])})" if told["bytes"] is not None else ""
        yield _row("file", f"{Path(told['source']).name}{size}")
    yield _row("trained for", told["base_model"] or "its metadata do not say")
    yield _row("basis", basis)
    yield _row("scaling", f"{told['scaling']:g}")
    yield _row("locations", told["locations"] or "not recorded")
    yield _row("layers", layers)
    share = count["total"] / told["weights"]
    yield _row("coefficients", f"{count['total']:,}; {each} a layer, {share:.3%} of the layers' weights")
    against = f", {told['relative']:.3%} of the base's {told['base_norm']:.4g}" if "relative" in told else ""
    yield _row("norm of dW", f"{told['norm']:.4g}{against}")


def _energies(energy: Mapping[str, Any], rest: str) -> Iterator[str]:
    whole = energy["total"] or 1.0
    if energy["band"]:
        yield _row("sub-bands", "   ".join(f"{band} {held / whole:.1%}" for band, held in energy["band"].items()))
    yield ""
    yield "energy by block"
    blocks = list(energy["block"].items())
    for name, held in blocks[:_BLOCKS]:
        bands = "   ".join(f"{band} {held[band] / whole:6.1%}" for band in energy["band"])
        yield f"  {held['total'] / whole:7.2%}  {name:<24}{bands}".rstrip()
    if len(blocks) > _BLOCKS:
        yield f"  ... and {len(blocks) - _BLOCKS} more{rest}"
    yield ""
    yield "energy by kind of layer"
    kinds = list(energy["kind"].items())
    yield from (f"  {held / whole:7.2%}  {name}" for name, held in kinds[:_BLOCKS])
    if len(kinds) > _BLOCKS:
        yield f"  ... and {len(kinds) - _BLOCKS} more{rest}"


def _metadata(metadata: Mapping[str, str]) -> Iterator[str]:
    if metadata:
        yield ""
        yield "metadata"
    for key, value in sorted(metadata.items()):
        line = " ".join(value.split())
        yield f"  {key}: {line if len(line) <= _SHOWN else line[:_SHOWN] + ' ...'}"


def _row(name: str, said: str) -> str:
    return f"{name:<14}{said}"
