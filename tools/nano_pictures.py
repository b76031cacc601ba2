"""Draws the captioned pictures that the nano SDXL base is trained on: one figure, one ground, said in words.

Everything is a function of a `random.Random`, so a seed names a picture. No file is read.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFilter

SIZE_PX = 64
_CANVAS_PX = 256  # drawn at four times the size and averaged down: smooth edges without a vector library

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 140, 25),
    "yellow": (248, 220, 50),
    "green": (45, 160, 65),
    "blue": (40, 85, 205),
    "purple": (130, 60, 175),
    "pink": (245, 140, 185),
    "brown": (125, 80, 45),
    "white": (245, 245, 240),
    "black": (25, 25, 30),
    "gray": (135, 138, 142),
    "cyan": (60, 200, 215),
}
SHAPES = (
    "circle", "square", "triangle", "star", "heart", "ring", "cross", "diamond", "moon", "flower",
    "house", "tree", "fish", "cat", "dog", "robot", "mushroom", "boat", "cup", "backpack",
)  # fmt: skip
TEXTURES = ("plain", "striped", "dotted")
# a scene hides a figure of its own colour
HIDDEN = {"on the grass": "green", "in the snow": "white", "at night": "black", "on a wooden table": "brown"}
SCENES = ("on the grass", "on the beach", "in the snow", "at night", "on a wooden table", "in front of a brick wall")
POSITIONS = {
    "on the left": (-0.23, 0.0),
    "on the right": (0.23, 0.0),
    "at the top": (0.0, -0.23),
    "at the bottom": (0.0, 0.23),
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Picture:
    """What a picture shows; `ground` is a colour's name or one of `SCENES`."""

    shape: str
    color: str
    texture: str = "plain"
    ground: str = "white"
    size: str = ""  # "small", "large" or neither
    position: str = ""


def random_picture(rng: random.Random) -> Picture:
    """Returns a random picture; a figure never has its ground's colour."""
    color = rng.choice(list(COLORS))
    grounds = (
        [name for name in COLORS if name != color]
        if rng.random() < 0.65
        else [scene for scene in SCENES if HIDDEN.get(scene) != color]
    )
    ground = rng.choice(grounds)
    size = rng.choice(("small", "large")) if rng.random() < 0.3 else ""
    return Picture(
        shape=rng.choice(SHAPES),
        color=color,
        texture=rng.choices(TEXTURES, (6, 2, 2))[0],
        ground=ground,
        size=size,
        position=rng.choice(list(POSITIONS)) if size == "small" and rng.random() < 0.6 else "",
    )


def caption(picture: Picture, rng: random.Random) -> str:
    """Returns a caption that is true of `picture`; now and then it leaves something unsaid, as people do."""
    words = []
    if picture.size and rng.random() < 0.95:
        words.append(picture.size)
    if picture.texture != "plain" and rng.random() < 0.95:
        words.append(picture.texture)
    if rng.random() < 0.97:
        words.append(picture.color)
    words.append(picture.shape)
    text = " ".join(words)
    text = ("an " if text[0] in "aeiou" else "a ") + text
    if picture.position and rng.random() < 0.95:
        text += f" {picture.position}"
    if rng.random() < 0.97:
        if picture.ground in COLORS:
            article = "an" if picture.ground[0] in "aeiou" else "a"
            text += rng.choice((f" on {article} {picture.ground} background", f", {picture.ground} background"))
        else:
            text += f" {picture.ground}"
    return rng.choices(("{}", "a picture of {}", "a photo of {}"), (6, 2, 2))[0].format(text)


def draw(picture: Picture, rng: random.Random) -> Image.Image:
    """Returns `picture` as an RGB image of `SIZE_PX` square; place, size, tilt and shade vary with `rng`."""
    canvas = draw_ground(picture.ground, rng)
    radius = {"small": 0.23, "large": 0.46, "": 0.36}[picture.size] * rng.uniform(0.92, 1.08) * _CANVAS_PX
    dx, dy = POSITIONS.get(picture.position, (0.0, 0.0))
    jitter = 0.04
    cx = (0.5 + dx + rng.uniform(-jitter, jitter)) * _CANVAS_PX
    cy = (0.5 + dy + rng.uniform(-jitter, jitter)) * _CANVAS_PX
    color = _jittered(COLORS[picture.color], rng)
    mask = Image.new("L", (_CANVAS_PX, _CANVAS_PX), 0)
    details = _figure(picture.shape, ImageDraw.Draw(mask), cx, cy, radius, rng.uniform(-8, 8))
    canvas.paste(_fill(picture.texture, color, radius, rng), (0, 0), mask)
    pen = ImageDraw.Draw(canvas)
    for kind, points, tone in details:
        tint = {
            "dark": _mix(color, (0, 0, 0), 0.6),
            "light": (250, 250, 245),
            "eye": (20, 20, 25),
            "wood": (110, 72, 42),
        }[tone]
        (pen.ellipse if kind == "ellipse" else pen.polygon)(points, fill=tint)
    return canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


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
            corners = [_polar(radius, turn + rng.uniform(-30, 30) + 90 * k) for k in range(4)]
            pen.polygon([(x + dx, y + flat * dy) for dx, dy in corners], fill=255)
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


def _any_color(rng: random.Random) -> tuple[int, int, int]:
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))


def _mix(a: tuple[int, ...], b: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def _jittered(color: tuple[int, int, int], rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, channel + rng.randint(-10, 10))) for channel in color)


def draw_ground(name: str, rng: random.Random) -> Image.Image:
    """Returns the picture's ground, `_CANVAS_PX` square."""
    size = (_CANVAS_PX, _CANVAS_PX)
    if name in COLORS:
        return Image.new("RGB", size, _jittered(COLORS[name], rng))
    canvas = Image.new("RGB", size, (150, 205, 245))
    pen = ImageDraw.Draw(canvas)
    horizon = rng.randint(120, 160)
    if name == "on the grass":
        pen.rectangle((0, horizon, 256, 256), fill=(95, 175, 70))
        for _ in range(60):
            x, y = rng.randint(0, 256), rng.randint(horizon, 256)
            pen.line((x, y, x + rng.randint(-4, 4), y - 14), fill=(60, 135, 45), width=4)
    elif name == "on the beach":
        pen.rectangle((0, horizon - 40, 256, 256), fill=(40, 130, 185))
        pen.rectangle((0, horizon + 10, 256, 256), fill=(240, 215, 150))
    elif name == "in the snow":
        pen.rectangle((0, 0, 256, 256), fill=(170, 185, 205))
        pen.ellipse((-90, horizon, 346, 420), fill=(245, 248, 252))
        for _ in range(25):
            x, y = rng.randint(0, 256), rng.randint(0, 256)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(250, 250, 255))
    elif name == "at night":
        pen.rectangle((0, 0, 256, 256), fill=(18, 22, 60))
        for _ in range(22):
            x, y = rng.randint(0, 256), rng.randint(0, 256)
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(250, 245, 190))
    elif name == "on a wooden table":
        pen.rectangle((0, 0, 256, 256), fill=(225, 215, 200))
        pen.rectangle((0, horizon, 256, 256), fill=(160, 105, 60))
        for y in range(horizon + 20, 256, 28):
            pen.line((0, y, 256, y), fill=(120, 76, 42), width=5)
    else:
        pen.rectangle((0, 0, 256, 256), fill=(175, 85, 65))
        for row, y in enumerate(range(0, 256, 32)):
            pen.line((0, y, 256, y), fill=(215, 190, 175), width=6)
            for x in range(32 * (row % 2), 257, 64):
                pen.line((x, y, x, y + 32), fill=(215, 190, 175), width=6)
    return canvas


def _fill(texture: str, color: tuple[int, ...], radius: float, rng: random.Random) -> Image.Image:
    """Returns the figure's surface, to be seen through its mask."""
    surface = Image.new("RGB", (_CANVAS_PX, _CANVAS_PX), color)
    pen = ImageDraw.Draw(surface)
    mark = _mix(color, (255, 255, 255) if sum(color) < 380 else (0, 0, 0), 0.55)
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
    return surface


Detail = tuple[Literal["ellipse", "polygon"], list[Point], str]


def _figure(shape: str, pen: ImageDraw.ImageDraw, cx: float, cy: float, radius: float, tilt_deg: float) -> list[Detail]:
    """Draws the figure's outline into the mask; returns what is drawn over it in other tones."""
    cos, sin = math.cos(math.radians(tilt_deg)), math.sin(math.radians(tilt_deg))

    def at(x: float, y: float) -> Point:  # figure coordinates, [-1, 1], y down
        return (cx + radius * (x * cos - y * sin), cy + radius * (x * sin + y * cos))

    def poly(points: list[Point], fill: int = 255) -> None:
        pen.polygon([at(*p) for p in points], fill=fill)

    def disc(x: float, y: float, rx: float, ry: float | None = None, fill: int = 255) -> None:
        ry = rx if ry is None else ry
        px, py = at(x, y)
        pen.ellipse((px - rx * radius, py - ry * radius, px + rx * radius, py + ry * radius), fill=fill)

    def box(x0: float, y0: float, x1: float, y1: float, fill: int = 255) -> None:
        poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    details: list[Detail] = []

    def spot(x: float, y: float, r: float, tone: str, ry: float | None = None) -> None:
        px, py = at(x, y)
        ry = r if ry is None else ry
        details.append(("ellipse", [(px - r * radius, py - ry * radius), (px + r * radius, py + ry * radius)], tone))

    def patch(points: list[Point], tone: str) -> None:
        details.append(("polygon", [at(*p) for p in points], tone))

    def eyes(x: float, y: float, r: float) -> None:
        for side in (-x, x):
            spot(side, y, r, "light")
            spot(side, y, r * 0.55, "eye")

    if shape == "circle":
        disc(0, 0, 0.9)
    elif shape == "square":
        box(-0.8, -0.8, 0.8, 0.8)
    elif shape == "triangle":
        poly([(0, -0.9), (0.95, 0.75), (-0.95, 0.75)])
    elif shape == "star":
        poly([_polar(1.0 if k % 2 == 0 else 0.42, -90 + 36 * k) for k in range(10)])
    elif shape == "heart":
        disc(-0.42, -0.3, 0.48)
        disc(0.42, -0.3, 0.48)
        poly([(-0.84, -0.08), (0.84, -0.08), (0, 0.95)])
    elif shape == "ring":
        disc(0, 0, 0.95)
        disc(0, 0, 0.5, fill=0)
    elif shape == "cross":
        box(-0.3, -0.95, 0.3, 0.95)
        box(-0.95, -0.3, 0.95, 0.3)
    elif shape == "diamond":
        poly([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)])
    elif shape == "moon":
        disc(0, 0, 0.95)
        disc(0.45, -0.15, 0.75, fill=0)
    elif shape == "flower":
        for k in range(6):
            disc(*_polar(0.58, 60 * k), 0.36)
        spot(0, 0, 0.3, "light")
    elif shape == "house":
        box(-0.7, -0.15, 0.7, 0.9)
        patch([(-0.95, -0.15), (0, -1), (0.95, -0.15)], "dark")
        patch([(-0.18, 0.9), (-0.18, 0.3), (0.18, 0.3), (0.18, 0.9)], "light")
    elif shape == "tree":
        disc(0, -0.3, 0.7)
        patch([(-0.14, 0.3), (0.14, 0.3), (0.14, 1), (-0.14, 1)], "wood")
    elif shape == "fish":
        disc(-0.15, 0, 0.82, 0.58)
        poly([(0.4, 0), (1, -0.58), (1, 0.58)])
        spot(-0.52, -0.14, 0.16, "light")
        spot(-0.52, -0.14, 0.09, "eye")
    elif shape == "cat":
        disc(0, 0.1, 0.78)
        poly([(-0.78, 0), (-0.7, -0.95), (-0.1, -0.5)])
        poly([(0.78, 0), (0.7, -0.95), (0.1, -0.5)])
        eyes(0.33, 0, 0.18)
        spot(0, 0.35, 0.1, "dark")
    elif shape == "dog":
        disc(0, 0, 0.68, 0.72)
        details.append(("ellipse", _ellipse_around(at(-0.72, -0.05), 0.24 * radius, 0.55 * radius), "dark"))
        details.append(("ellipse", _ellipse_around(at(0.72, -0.05), 0.24 * radius, 0.55 * radius), "dark"))
        eyes(0.27, -0.15, 0.14)
        spot(0, 0.35, 0.3, "light", 0.24)
        spot(0, 0.25, 0.12, "eye")
    elif shape == "robot":
        box(-0.56, 0.04, 0.56, 0.74)
        box(-0.54, -0.7, 0.54, -0.1)
        box(-0.22, -0.12, 0.22, 0.06)
        box(-0.07, -0.95, 0.07, -0.68)
        disc(0, -0.9, 0.14)
        box(-1, 0.08, 1, 0.32)
        for side in (-1, 1):
            box(side * 0.88 - 0.12, 0.08, side * 0.88 + 0.12, 0.66)
            box(side * 0.32 - 0.17, 0.72, side * 0.32 + 0.17, 1)
        eyes(0.25, -0.4, 0.18)
        patch([(-0.26, 0.4), (0.26, 0.4), (0.26, 0.6), (-0.26, 0.6)], "dark")
    elif shape == "mushroom":
        pen.pieslice((*at(-0.95, -0.9), *at(0.95, 1.0)), 180 + tilt_deg, 360 + tilt_deg, fill=255)
        patch([(-0.28, 0.04), (0.28, 0.04), (0.35, 0.95), (-0.35, 0.95)], "light")
    elif shape == "boat":
        poly([(-1, 0.3), (1, 0.3), (0.62, 0.9), (-0.62, 0.9)])
        poly([(0.08, -0.95), (0.85, 0.12), (0.08, 0.12)])
        patch([(-0.09, -1), (0.06, -1), (0.06, 0.34), (-0.09, 0.34)], "dark")
        patch([(-0.12, -0.75), (-0.12, 0.12), (-0.72, 0.12)], "light")
    elif shape == "cup":
        disc(0.52, 0.0, 0.46)
        disc(0.52, 0.0, 0.22, fill=0)
        poly([(-0.95, -0.65), (0.52, -0.65), (0.36, 0.85), (-0.78, 0.85)])
        spot(-0.215, -0.65, 0.735, "dark", 0.17)
    else:  # backpack
        disc(0, -0.45, 0.6, 0.5)
        box(-0.65, -0.5, 0.65, 0.9)
        patch([(-0.42, 0.15), (0.42, 0.15), (0.42, 0.7), (-0.42, 0.7)], "dark")
        patch([(-0.6, -0.25), (0.6, -0.25), (0.6, -0.15), (-0.6, -0.15)], "dark")
    return details


def _ellipse_around(center: Point, rx: float, ry: float) -> list[Point]:
    return [(center[0] - rx, center[1] - ry), (center[0] + rx, center[1] + ry)]


def _polar(radius: float, angle_deg: float) -> Point:
    return (radius * math.cos(math.radians(angle_deg)), radius * math.sin(math.radians(angle_deg)))


def vocabulary() -> list[str]:
    """Returns every word that a caption can hold, and a few common ones, for the tokenizers' merges."""
    words = {"a", "an", "and", "background", "picture", "photo", "small", "large", "in", "with", "by"}
    for phrase in (*SCENES, *POSITIONS, *TEXTURES, *SHAPES, *COLORS):
        words.update(phrase.split())
    return sorted(words)
