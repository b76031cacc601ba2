"""One picture of all samples: for each prompt the one before training above, the one after it below."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .sampling import Drawn

LEAST_CELL = 192  # px: smaller pictures are enlarged by a whole factor
MOST_COLUMNS = 4
GAP, LINE, FONT_SIZE, MOST_LINES = 6, 16, 13, 3
LABEL_WIDTH = 46


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


def draw(before: Sequence[Drawn], after: Sequence[Drawn]) -> Image.Image:
    """Returns the sheet; `before` and `after` are the same prompts and seeds in the same order."""
    factor = max(1, -(-LEAST_CELL // min(after[0].image.size)))
    width, height = (side * factor for side in after[0].image.size)
    columns = min(MOST_COLUMNS, len(after))
    bands = -(-len(after) // columns)
    head = MOST_LINES * LINE + GAP
    band = head + 2 * (height + GAP)
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * (width + GAP), bands * band), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, pair in enumerate(zip(before, after, strict=True)):
        left, top = LABEL_WIDTH + number % columns * (width + GAP), number // columns * band
        for line, text in enumerate(wrap(pair[1].prompt, width, font)):
            pen.text((left, top + GAP // 2 + line * LINE), text, "black", font)
        for row, (moment, sample) in enumerate(zip(("before", "after"), pair, strict=True)):
            place = top + head + row * (height + GAP)
            sheet.paste(sample.image.resize((width, height), Image.Resampling.NEAREST), (left, place))
            pen.text((2, place + height // 2), moment, "black", font)
    return sheet
