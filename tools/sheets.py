"""Sheets of labelled pictures, as the documents show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CELL_PX, GAP_PX, FONT_PX = 128, 6, 20
INK, PAPER = (30, 30, 36), (255, 255, 255)


@dataclass(frozen=True)
class Band:
    """A row of a sheet: a label, and groups of pictures side by side with a wider gap between groups."""

    label: str
    groups: Sequence[Sequence[Image.Image]]


def enlarged(image: Image.Image) -> Image.Image:
    """Returns the picture at the size of a cell."""
    return image.convert("RGB").resize((CELL_PX, CELL_PX), Image.Resampling.BICUBIC)


def wrapped(text: str, width_px: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Returns the text broken between words into lines of at most `width_px`."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def sheet(bands: Sequence[Band], heads: Sequence[str], label_px: int = 190) -> Image.Image:
    """Returns the bands below one another.

    Args:
        bands: The rows; all but those of a single group share the columns.
        heads: What stands above each group of the first band.
        label_px: The width that labels have.
    """
    font = ImageFont.load_default(FONT_PX)
    pitch = CELL_PX + GAP_PX
    columns = max(sum(len(group) for group in band.groups) for band in bands)
    groups = max(len(band.groups) for band in bands)
    width = label_px + columns * pitch + (groups - 1) * 3 * GAP_PX + GAP_PX
    head_px = 2 * FONT_PX if heads else GAP_PX
    made = Image.new("RGB", (width, head_px + len(bands) * pitch + GAP_PX), PAPER)
    pen = ImageDraw.Draw(made)
    for row, band in enumerate(bands):
        y = head_px + row * pitch
        middle = y + CELL_PX // 2
        label = wrapped(band.label, label_px - 4 * GAP_PX, font)
        pen.multiline_text((2 * GAP_PX, middle), label, INK, font, anchor="lm")
        x = label_px
        for number, group in enumerate(band.groups):
            if row == 0 and number < len(heads):
                pen.text((x + (len(group) * pitch - GAP_PX) // 2, head_px // 2), heads[number], INK, font, anchor="mm")
            for image in group:
                made.paste(enlarged(image), (x, y))
                x += pitch
            x += 3 * GAP_PX
    return made
