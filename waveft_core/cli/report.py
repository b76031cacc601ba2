"""A summary as lines for people, or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..basis.atoms import IDENTITY
from ..errors import plural, printable
from .console import size_text

_BLOCKS = 40  # lines
_SHOWN = 90  # characters of a metadata value


def as_json(told: Mapping[str, Any]) -> str:
    """Returns a summary as JSON, in lines; what a terminal would obey is written as JSON escapes."""
    text = json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False)
    return "\n".join(printable(line, "json") for line in text.split("\n"))  # a string holds no line end of its own


def as_text(told: Mapping[str, Any], rest: str = " (--json lists all)", metadata: bool = True) -> str:
    """Returns a summary in lines.

    Args:
        rest: where to look for what a long list leaves out.
        metadata: whether all metadata are listed, not counted alone: trainers write sixty of them.
    """
    lines = list(_facts(told))
    if told["metadata"] and not metadata:
        lines.append(_row("metadata", f"{plural(len(told['metadata']), 'string')} (--metadata lists them)"))
    lines += _energies(told["energy"], rest)
    if metadata:
        lines += _metadata(told["metadata"])
    return "\n".join(map(printable, lines))


def _facts(told: Mapping[str, Any]) -> Iterator[str]:
    count, layers = told["coefficients"], plural(told["layers"], "layer")
    each = f"{count['min']:,}" if count["min"] == count["max"] else f"{count['min']:,} to {count['max']:,}"
    basis = told["wavelet"] if told["wavelet"] == IDENTITY else f"{told['wavelet']}, {told['mode']}"
    if told["source"]:
        size = f" ({size_text(told['bytes'])})" if told["bytes"] is not None else ""
        yield _row("file", f"{Path(told['source']).name}{size}")
    yield _row("trained for", _short(told["base_model"] or "its metadata do not say"))
    yield _row("basis", basis)
    yield _row("scaling", f"{told['scaling']:g}")
    yield _row("locations", told["locations"] or "not recorded")
    yield _row("layers", layers)
    share = count["total"] / told["weights"]
    yield _row("coefficients", f"{count['total']:,}; {each} a layer, {share:.3%} of the layers' weights")
    against = f", {told['relative']:.3%} of the base's {told['base_norm']:.4g}" if "relative" in told else ""
    yield _row("norm of dW", f"{told['norm']:.4g}{against}" if told["norm"] else "0: it changes nothing")


def _energies(energy: Mapping[str, Any], rest: str) -> Iterator[str]:
    whole = energy["total"] or 1.0
    if energy["band"]:
        yield _row("sub-bands", "   ".join(f"{band} {held / whole:.1%}" for band, held in energy["band"].items()))
    yield ""
    yield "energy by block"
    blocks = list(energy["block"].items())
    for name, held in blocks[:_BLOCKS]:
        bands = "   ".join(f"{band} {held[band] / whole:6.1%}" for band in energy["band"])
        yield f"  {held['total'] / whole:7.2%}  {name:<22}  {bands}".rstrip()
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
        yield f"  {_short(key)}: {_short(value)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."


def _row(name: str, said: str) -> str:
    return f"{name:<14}{said}"
