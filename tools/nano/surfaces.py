"""Surfaces: what figures are covered with, and pictures with a photograph's statistics."""

from __future__ import annotations

import math
import random

from PIL import Image, ImageDraw, ImageFilter

from tools.nano.palette import CANVAS_PX, SIZE_PX, Color, mix

TEXTURES = ("plain", "striped", "dotted")


def surface(texture: str, color: Color, radius: float, rng: random.Random) -> Image.Image:
    """Returns a figure's surface, to be seen through its mask; `radius` is the figure's, in px of the canvas."""
    made = Image.new("RGB", (CANVAS_PX, CANVAS_PX), color)
    pen = ImageDraw.Draw(made)
    mark = mix(color, (255, 255, 255) if sum(color) < 380 else (0, 0, 0), 0.55)
    pitch = max(28, round(radius * 0.42))
    start = rng.randrange(pitch)
    if texture == "striped":
        for x in range(start - 512, 512, pitch):
            pen.line((x, 0, x + 256, 256), fill=mark, width=pitch // 3)
    elif texture == "dotted":
        dot = pitch * 0.27
        for x in range(start - pitch, 256 + pitch, pitch):
            for y in range(start - pitch, 256 + pitch, pitch):
                pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=mark)
    return made


def random_texture(rng: random.Random) -> Image.Image:
    """Returns a picture with a photograph's statistics, `SIZE_PX` square: leaves that cover each other, and noise.

    Leaves of every size, the small ones many, give edges at all scales; octaves of noise give surfaces their grain.
    """
    image = _noise(rng)
    pen_size = (SIZE_PX, SIZE_PX)
    for _ in range(rng.randrange(25)):
        radius = min(30.0, 2.5 / rng.uniform(0.06, 1.0))
        x, y, flat = rng.uniform(0, SIZE_PX), rng.uniform(0, SIZE_PX), rng.uniform(0.3, 1)
        mask = Image.new("L", pen_size, 0)
        pen = ImageDraw.Draw(mask)
        if rng.random() < 0.5:
            pen.ellipse((x - radius, y - radius * flat, x + radius, y + radius * flat), fill=255)
        else:
            turn = rng.uniform(0, 360)
            corners = [math.radians(turn + rng.uniform(-30, 30) + 90 * k) for k in range(4)]
            pen.polygon([(x + radius * math.cos(a), y + flat * (radius * math.sin(a))) for a in corners], fill=255)
        leaf = Image.blend(Image.new("RGB", pen_size, _any_color(rng)), _noise(rng), rng.uniform(0, 0.5))
        image.paste(leaf, (0, 0), mask)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))


def _noise(rng: random.Random) -> Image.Image:
    """Returns a colour under one to three octaves of blurred coloured noise, `SIZE_PX` square."""
    image = Image.new("RGB", (SIZE_PX, SIZE_PX), _any_color(rng))
    for cells in rng.sample((2, 4, 8, 16, 32), rng.randint(1, 3)):
        bands = "RGB" if rng.random() < 0.5 else "L"  # light varies more than hue in photographs
        grain = Image.frombytes(bands, (cells, cells), rng.randbytes(len(bands) * cells * cells)).convert("RGB")
        image = Image.blend(image, grain.resize(image.size, Image.Resampling.BICUBIC), rng.uniform(0.05, 0.4))
    return image


def _any_color(rng: random.Random) -> Color:
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
