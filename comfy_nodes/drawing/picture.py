"""An adapter as a picture: where its energy lies, by block and sub-band, and by kind of layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import ImageDraw

from ..adapters.describe import plural
from ..core import BANDS
from .drawing import INK, LINE, PALE, fitted, mixed, new, to_tensor, wrapped, write

WIDTH = 1024
_COLOURS = {"aa": "#1f5fbf", "ad": "#e08a1e", "da": "#3d9a5f", "dd": "#b03a5b", "": "#1f5fbf"}
_GREY = "#6b7a8f"
_BLOCKS, _KINDS = 24, 12  # rows; of more, the largest are drawn
_MARGIN, _ROW, _TEXT = 32, 26, 15
_NAMES, _SHARE = 190, 74  # columns: names, and percentages
_CELL = 70  # a sub-band's column


def draw(title: str, told: Mapping[str, Any]) -> torch.Tensor:
    """Returns [1, height, 1024, 3] float32 in 0..1.

    Args:
        told: what the core's `summarize` says of an adapter.
    """
    energy = told["energy"]
    whole = energy["total"] or 1.0
    bands = [band for band in BANDS if band in energy["band"]]
    blocks, kinds = _largest(energy["block"], _BLOCKS), _largest(energy["kind"], _KINDS)
    height = 150 + _ROW * len(blocks) + 68 + _ROW * len(kinds) + _MARGIN
    picture, pen = new((WIDTH, height))
    _head(pen, title, told)
    rows = {name: {band: energy["block"][name][band] / whole for band in ("total", *bands)} for name in blocks}
    _legend(pen, bands, {band: energy["band"][band] / whole for band in bands})
    _blocks(pen, 150, rows, bands)
    left_out = len(energy["block"]) - len(blocks)
    below = 150 + _ROW * len(blocks)
    if left_out:
        shown = sum(row["total"] for row in rows.values())
        write(pen, (_MARGIN, below + 2), f"and {left_out} smaller blocks: {1 - shown:.1%}", PALE, 13)
    _kinds(pen, below + 68, {name: energy["kind"][name] / whole for name in kinds})
    return to_tensor(picture)


def draw_words(title: str, text: str) -> torch.Tensor:
    """Returns a picture that says something, where there is nothing to draw."""
    lines = wrapped(text, 18, WIDTH - 2 * _MARGIN)
    picture, pen = new((WIDTH, 110 + 28 * len(lines)))
    write(pen, (_MARGIN, 28), fitted(title, 24, WIDTH - 2 * _MARGIN), INK, 24)
    for number, line in enumerate(lines):
        write(pen, (_MARGIN, 74 + 28 * number), line, PALE, 18)
    return to_tensor(picture)


def _largest(held: Mapping[str, Any], most: int) -> list[str]:
    """Returns the names in their order, the `most` largest of them where there are more."""
    size = {name: value["total"] if isinstance(value, Mapping) else value for name, value in held.items()}
    kept = set(sorted(size, key=lambda name: -float(size[name]))[:most])
    return [name for name in held if name in kept]


def _head(pen: ImageDraw.ImageDraw, title: str, told: Mapping[str, Any]) -> None:
    room = WIDTH - 2 * _MARGIN
    write(pen, (_MARGIN, 22), fitted(title, 24, room), INK, 24)
    basis = told["wavelet"] if not told["energy"]["band"] else f"{told['wavelet']}, {told['mode']}"
    layers = plural(told["layers"], "layer")
    count = f"{told['coefficients']['total']:,} coefficients"
    said = f"{basis}, scaling {told['scaling']:g}   |   {layers}, {count}   |   norm of dW {told['norm']:.4g}"
    write(pen, (_MARGIN, 58), fitted(said, _TEXT, room), PALE, _TEXT)


def _legend(pen: ImageDraw.ImageDraw, bands: Sequence[str], shares: Mapping[str, float]) -> None:
    """Draws the headings of the rows below: what the bars are, and each sub-band's share of all energy."""
    write(pen, (_MARGIN, 102), "energy by block" + (" and sub-band" if bands else ""), INK, 17)
    for number, band in enumerate(bands):
        middle = _band_left(bands, number) + _CELL / 2
        pen.rectangle((middle - 26, 104, middle - 14, 116), fill=_COLOURS[band])
        write(pen, (middle - 8, 100), band, INK, 17)
        write(pen, (middle, 122), f"{shares[band]:.1%}", PALE, 13, "ma")


def _blocks(pen: ImageDraw.ImageDraw, top: int, rows: Mapping[str, Mapping[str, float]], bands: Sequence[str]) -> None:
    """Draws a row for each block: its bar, the sub-bands stacked in it, and a cell for each sub-band."""
    longest = max((row["total"] for row in rows.values()), default=0.0) or 1.0
    deepest = max((row[band] for row in rows.values() for band in bands), default=0.0) or 1.0
    right = _band_left(bands, 0) - _SHARE - 8
    for number, (name, row) in enumerate(rows.items()):
        y = top + _ROW * number
        write(pen, (_MARGIN, y + 3), fitted(name, _TEXT, _NAMES - 10), INK, _TEXT)
        left = float(_MARGIN + _NAMES)
        for band in bands or [""]:
            end = left + (right - _MARGIN - _NAMES) * row[band or "total"] / longest
            if round(end) > round(left):
                pen.rectangle((round(left), y + 4, round(end) - 1, y + _ROW - 4), fill=_COLOURS[band])
            left = end
        write(pen, (left + 8, y + 3), f"{row['total']:.1%}", INK, _TEXT)
        for place, band in enumerate(bands):
            _cell(pen, _band_left(bands, place), y, band, row[band], row[band] / deepest)


def _cell(pen: ImageDraw.ImageDraw, x: float, y: int, band: str, share: float, depth: float) -> None:
    """Draws a cell of the map: the deeper its colour, the more energy."""
    colour = mixed(_COLOURS[band], 0.06 + 0.94 * depth)
    pen.rectangle((x + 1, y + 1, x + _CELL - 2, y + _ROW - 2), fill=colour)
    write(pen, (x + _CELL / 2, y + 4), f"{share:.1%}", "#ffffff" if depth > 0.6 else INK, 13, "ma")


def _kinds(pen: ImageDraw.ImageDraw, top: int, shares: Mapping[str, float]) -> None:
    pen.line((_MARGIN, top - 40, WIDTH - _MARGIN, top - 40), fill=LINE)
    write(pen, (_MARGIN, top - 28), "energy by kind of layer", INK, 17)
    longest = max(shares.values(), default=0.0) or 1.0
    left = _MARGIN + _NAMES
    for number, (name, share) in enumerate(shares.items()):
        y = top + _ROW * number
        write(pen, (_MARGIN, y + 3), fitted(name, _TEXT, _NAMES - 10), INK, _TEXT)
        end = left + (WIDTH - _MARGIN - _SHARE - left) * share / longest
        pen.rectangle((left, y + 4, max(left, end), y + _ROW - 4), fill=_GREY)
        write(pen, (end + 8, y + 3), f"{share:.1%}", INK, _TEXT)


def _band_left(bands: Sequence[str], number: int) -> float:
    """Returns where a sub-band's column begins; that of none is the picture's right edge."""
    return WIDTH - _MARGIN - _CELL * (len(bands) - number) if bands else WIDTH - _MARGIN
