"""What figures stand on: a plain colour or one of six scenes."""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from tools.nano.palette import CANVAS_PX, COLORS, jittered

Pen = ImageDraw.ImageDraw
WHOLE = (0, 0, CANVAS_PX, CANVAS_PX)


def draw_ground(name: str, rng: random.Random) -> Image.Image:
    """Returns the picture's ground, a colour's or a scene's by `name`, `CANVAS_PX` square."""
    size = (CANVAS_PX, CANVAS_PX)
    if name in COLORS:
        return Image.new("RGB", size, jittered(COLORS[name], rng))
    canvas = Image.new("RGB", size, (150, 205, 245))
    SCENES[name](ImageDraw.Draw(canvas), rng.randint(120, 160), rng)
    return canvas


def _grass(pen: Pen, horizon: int, rng: random.Random) -> None:
    pen.rectangle((0, horizon, 256, 256), fill=(95, 175, 70))
    for _ in range(60):
        x, y = rng.randint(0, 256), rng.randint(horizon, 256)
        pen.line((x, y, x + rng.randint(-4, 4), y - 14), fill=(60, 135, 45), width=4)


def _beach(pen: Pen, horizon: int, rng: random.Random) -> None:
    pen.rectangle((0, horizon - 40, 256, 256), fill=(40, 130, 185))
    pen.rectangle((0, horizon + 10, 256, 256), fill=(240, 215, 150))


def _snow(pen: Pen, horizon: int, rng: random.Random) -> None:
    pen.rectangle(WHOLE, fill=(170, 185, 205))
    pen.ellipse((-90, horizon, 346, 420), fill=(245, 248, 252))
    _specks(pen, 25, (250, 250, 255), rng)


def _night(pen: Pen, horizon: int, rng: random.Random) -> None:
    pen.rectangle(WHOLE, fill=(18, 22, 60))
    _specks(pen, 22, (250, 245, 190), rng)


def _table(pen: Pen, horizon: int, rng: random.Random) -> None:
    pen.rectangle(WHOLE, fill=(225, 215, 200))
    pen.rectangle((0, horizon, 256, 256), fill=(160, 105, 60))
    for y in range(horizon + 20, 256, 28):
        pen.line((0, y, 256, y), fill=(120, 76, 42), width=5)


def _bricks(pen: Pen, horizon: int, rng: random.Random) -> None:
    pen.rectangle(WHOLE, fill=(175, 85, 65))
    for row, y in enumerate(range(0, 256, 32)):
        pen.line((0, y, 256, y), fill=(215, 190, 175), width=6)
        for x in range(32 * (row % 2), 257, 64):
            pen.line((x, y, x, y + 32), fill=(215, 190, 175), width=6)


def _specks(pen: Pen, count: int, color: tuple[int, int, int], rng: random.Random) -> None:
    for _ in range(count):
        x, y = rng.randint(0, 256), rng.randint(0, 256)
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color)


SCENES: dict[str, Callable[[Pen, int, random.Random], None]] = {
    "on the grass": _grass,
    "on the beach": _beach,
    "in the snow": _snow,
    "at night": _night,
    "on a wooden table": _table,
    "in front of a brick wall": _bricks,
}
