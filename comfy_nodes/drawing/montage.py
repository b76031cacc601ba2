"""Pictures side by side on one sheet, a label under each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image

from ..core import WaveFTError
from .drawing import INK, new, to_pictures, to_tensor, wrapped, write

_IN_ONE_ROW = 5  # pictures: more are laid out about square


def montage(
    images: Sequence[torch.Tensor], labels: Sequence[str] | None = None, columns: int = 0, title: str = ""
) -> torch.Tensor:
    """Returns one picture of all, [1, height, width, 3] float32 in 0..1, each in its own size, in the middle of a cell.

    Args:
        images: batches, [batch, height, width, channels]; their sizes may differ.
        labels: one for each picture, or one for each batch; None for none.
        columns: 0 for one row of up to five, else about a square.

    Raises:
        WaveFTError: no pictures, or another number of labels.
    """
    pictures = [picture for batch in images for picture in to_pictures(batch)]
    if not pictures:
        raise WaveFTError("images: expected at least one, got none. Connect the pictures.")
    said = _matched(labels, [len(batch) for batch in images])
    columns = columns or (len(pictures) if len(pictures) <= _IN_ONE_ROW else math.ceil(math.sqrt(len(pictures))))
    columns = min(columns, len(pictures))
    rows = [slice(first, first + columns) for first in range(0, len(pictures), columns)]
    cell = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    return to_tensor(_sheet([(pictures[row], said[row]) for row in rows], cell, columns, title.strip()))


def _matched(labels: Sequence[str] | None, counts: Sequence[int]) -> list[str]:
    """Returns a label for each picture: of a batch, all have the batch's."""
    total = sum(counts)
    if labels is None:
        return [""] * total
    if len(labels) == total:
        return list(labels)
    if len(labels) == len(counts):
        return [label for label, count in zip(labels, counts, strict=True) for _ in range(count)]
    batches = f", or one for each of {len(counts)} batches" if len(counts) != total else ""
    raise WaveFTError(
        f"labels: expected one for each of {total} images{batches}, got {len(labels)}. Connect the labels of the node "
        "that the images come from, or none."
    )


def _sheet(
    rows: Sequence[tuple[list[Image.Image], list[str]]], cell: tuple[int, int], columns: int, title: str
) -> Image.Image:
    width, height = cell
    gap = max(8, width // 48)
    size = max(14, min(width // 18, 40))  # of the labels
    texts = [[wrapped(label, size, width) if label else [] for label in labels] for _, labels in rows]
    below = [max(len(lines) for lines in row) * _line(size) for row in texts]
    across = columns * (width + gap) + gap
    head = wrapped(title, size * 4 // 3, across - 2 * gap) if title else []
    top = len(head) * _line(size * 4 // 3) + (gap if head else 0)
    sheet, pen = new((across, top + gap + sum(height + gap + room for room in below)))
    for number, line in enumerate(head):
        at = across / 2, gap + number * _line(size * 4 // 3)
        write(pen, at, line, INK, size * 4 // 3, "ma")
    y = top + gap
    for (pictures, _), lines, room in zip(rows, texts, below, strict=True):
        for place, (picture, text) in enumerate(zip(pictures, lines, strict=True)):
            x = gap + place * (width + gap)
            sheet.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
            for number, line in enumerate(text):
                at = x + width / 2, y + height + _line(size) * number + size // 4
                write(pen, at, line, INK, size, "ma")
        y += height + room + gap
    return sheet


def _line(size: int) -> int:
    return size * 4 // 3
