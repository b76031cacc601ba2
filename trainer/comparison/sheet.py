"""The pictures of a comparison as one picture, to be shown where a page cannot: a row a prompt, a column a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..evaluation.asking import Asked
from ..evaluation.embedding import open_drawn
from ..samples.grid import fitted, wrap

CELL, GAP, TEXT_WIDTH, LINE, FONT_SIZE = 128, 6, 150, 16, 13  # px


def first_seed(folder: Path, asked: Asked) -> Path | None:
    """Returns a folder's picture of a prompt with the lowest seed, None where there is none."""
    files = folder.glob(f"{asked.number:02d}-seed*.png")
    return min(files, key=lambda path: int(path.stem.partition("seed")[2]), default=None)


def draw(
    columns: Sequence[tuple[str, Path]], questions: Sequence[Asked], photos: Sequence[Image.Image] = ()
) -> Image.Image:
    """Returns the sheet.

    Args:
        columns: (heading, folder of its pictures).
        questions: the prompts, a row each.
        photos: of the subject, one below the other in a column of their own, as many as there are rows.
    """
    step, left = CELL + GAP, TEXT_WIDTH
    width = TEXT_WIDTH + step * (len(columns) + bool(photos))
    sheet = Image.new("RGB", (width, LINE + GAP + step * len(questions)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    tops = [LINE + GAP + step * row for row in range(len(questions))]
    if photos:
        pen.text((left, GAP // 2), "photos", "black", font)
        for top, photo in zip(tops, photos, strict=False):
            sheet.paste(fitted(photo, (CELL, CELL)), (left, top))
        left += step
    for column, (name, folder) in enumerate(columns):
        pen.text((left + step * column, GAP // 2), name, "black", font)
        for top, asked in zip(tops, questions, strict=True):
            if path := first_seed(folder, asked):
                sheet.paste(fitted(open_drawn(path), (CELL, CELL)), (left + step * column, top))
    for top, asked in zip(tops, questions, strict=True):
        for number, line in enumerate(wrap(asked.prompt, TEXT_WIDTH - GAP, font)):
            pen.text((GAP // 2, top + LINE * number), line, "black", font)
    return sheet
