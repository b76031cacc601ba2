"""One picture of all samples: for each prompt the moments of the run below one another, from before to after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from .prompts import Shot
from .sampling import Drawn

LEAST_CELL = 192  # px: smaller pictures are enlarged by a whole factor
MOST_CELL = 512  # px: larger ones are made smaller
MOST_COLUMNS = 4
MOST_MOMENTS = 5
GAP, LINE, FONT_SIZE, MOST_LINES = 6, 16, 13, 3
LABEL_WIDTH = 66


def wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Returns the text in lines of at most `width` px, `MOST_LINES` of them; what does not fit is cut with "..."."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]} ..."]
    return lines


def few(moments: Sequence[str], most: int = MOST_MOMENTS) -> list[str]:
    """Returns at most `most` of them, the first and the last among them, evenly spread."""
    if len(moments) <= most:
        return list(moments)
    last = len(moments) - 1
    return [moments[round(number * last / (most - 1))] for number in range(most)]


def label(moment: str) -> str:
    """Returns a moment as people read it: "step 100" for "step00000100"."""
    number = moment.removeprefix("step")
    return f"step {int(number)}" if number != moment and number.isdigit() else moment


def cell_size(shots: Sequence[Shot]) -> tuple[int, int]:
    """Returns the (width, height) px in which every picture is shown: of the largest, within bounds."""
    width, height = max(shot.width for shot in shots), max(shot.height for shot in shots)
    if min(width, height) < LEAST_CELL:
        factor: float = -(-LEAST_CELL // min(width, height))
    else:
        factor = min(1, MOST_CELL / max(width, height))
    return round(width * factor), round(height * factor)


def fitted(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """Returns the picture as large as it fits into the cell; hard pixels where it grows, soft ones where it shrinks."""
    factor = min(cell[0] / image.width, cell[1] / image.height)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)


def draw(samples: Mapping[str, Sequence[Drawn]]) -> Image.Image:
    """Returns the sheet.

    Args:
        samples: moment -> its samples, in the order of the run; a shot that a moment lacks leaves its place white.
    """
    moments = few(list(samples))
    rows = {when: {drawn.shot: drawn.image for drawn in samples[when]} for when in moments}
    shots = list(dict.fromkeys(shot for row in rows.values() for shot in row))
    width, height = cell = cell_size(shots)
    columns = min(MOST_COLUMNS, len(shots))
    bands = -(-len(shots) // columns)
    head = MOST_LINES * LINE + GAP
    band = head + len(moments) * (height + GAP)
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * (width + GAP), bands * band), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, shot in enumerate(shots):
        left, top = LABEL_WIDTH + number % columns * (width + GAP), number // columns * band
        for line, text in enumerate(wrap(shot.prompt, width, font)):
            pen.text((left, top + GAP // 2 + line * LINE), text, "black", font)
        for row, when in enumerate(moments):
            place = top + head + row * (height + GAP)
            pen.text((2, place + height // 2 - FONT_SIZE // 2), label(when), "black", font)
            if shot in rows[when]:
                image = fitted(rows[when][shot], cell)
                sheet.paste(image, (left, place + (height - image.height) // 2))  # below the prompt's first letter
    return sheet


def across(columns: Mapping[str, Sequence[Drawn]]) -> Image.Image:
    """Returns a sheet with a column for each label, such as a strength, and a row for each shot, a prompt's together.

    Args:
        columns: label -> the drawn shots, the same ones in the same order in each.
    """
    shots = [drawn.shot for drawn in next(iter(columns.values()))]
    width, height = cell = cell_size(shots)
    font, head, gap = ImageFont.load_default(FONT_SIZE), LINE + GAP, GAP
    texts = list(dict.fromkeys(shot.prompt for shot in shots))
    size = (LABEL_WIDTH + len(columns) * (width + gap), head + len(texts) * head + len(shots) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for column, label_of_it in enumerate(columns):
        pen.text((LABEL_WIDTH + column * (width + gap), gap // 2), label_of_it, "black", font)
    top, prompt = head, None
    for row, shot in enumerate(shots):
        if shot.prompt != prompt:
            prompt = shot.prompt
            pen.text((LABEL_WIDTH, top + gap // 2), first_line(prompt, size[0] - LABEL_WIDTH, font), "black", font)
            top += head
        pen.text((2, top + height // 2 - FONT_SIZE // 2), f"seed {shot.seed}"[:10], "black", font)
        for column, drawn in enumerate(columns.values()):
            image = fitted(drawn[row].image, cell)
            sheet.paste(image, (LABEL_WIDTH + column * (width + gap), top + (height - image.height) // 2))
        top += height + gap
    return sheet


def first_line(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Returns the text, or as much of it as fits into `width` px with "..." behind it."""
    lines = wrap(text, width - round(font.getlength(" ...")), font)
    return lines[0] if len(lines) == 1 else f"{lines[0]} ..."
