"""The captioned pictures that the nano SDXL base is trained on: one figure, one ground, said in words.

Everything is a function of a `random.Random`, so a seed names a picture. No file is read.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from tools.nano.figures import FIGURES, Figure
from tools.nano.grounds import SCENES as _SCENES
from tools.nano.grounds import draw_ground
from tools.nano.palette import CANVAS_PX, COLORS, SIZE_PX, jittered, mix
from tools.nano.surfaces import TEXTURES, random_texture, surface

__all__ = [
    "COLORS", "POSITIONS", "SCENES", "SHAPES", "SIZE_PX", "TEXTURES", "Picture", "caption", "draw", "draw_ground",
    "random_picture", "random_texture", "vocabulary",
]  # fmt: skip

SHAPES = tuple(FIGURES)
SCENES = tuple(_SCENES)
# a scene hides a figure of its own colour
HIDDEN = {"on the grass": "green", "in the snow": "white", "at night": "black", "on a wooden table": "brown"}
POSITIONS = {
    "on the left": (-0.23, 0.0),
    "on the right": (0.23, 0.0),
    "at the top": (0.0, -0.23),
    "at the bottom": (0.0, 0.23),
}
RADII = {"small": 0.23, "large": 0.46, "": 0.36}  # shares of the side
# figures of several parts are drawn twice as often: with equal shares they were the last to be learned
DETAILED = ("house", "fish", "cat", "dog", "robot", "mushroom", "boat", "cup", "backpack")
_SHARES = [2 if shape in DETAILED else 1 for shape in SHAPES]


@dataclass(frozen=True)
class Picture:
    """What a picture shows; `ground` is a colour's name or one of `SCENES`."""

    shape: str
    color: str
    texture: str = "plain"
    ground: str = "white"
    size: str = ""  # "small", "large" or neither
    position: str = ""
    second: str = ""  # the colour of a figure's lower half, where it has one of its own


def random_picture(rng: random.Random) -> Picture:
    """Returns a random picture; a figure never has its ground's colour, and one in four has a second colour."""
    color = rng.choice(list(COLORS))
    second = rng.choice([name for name in COLORS if name != color]) if rng.random() < 0.25 else ""
    grounds = (
        [name for name in COLORS if name not in (color, second)]
        if rng.random() < 0.65
        else [scene for scene in SCENES if HIDDEN.get(scene) not in (color, second)]
    )
    ground = rng.choice(grounds)
    size = rng.choice(("small", "large")) if rng.random() < 0.3 else ""
    return Picture(
        shape=rng.choices(SHAPES, _SHARES)[0],
        color=color,
        second=second,
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
    if rng.random() < 0.88:
        words += [picture.color, "and", picture.second] if picture.second else [picture.color]
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
    radius = RADII[picture.size] * rng.uniform(0.92, 1.08) * CANVAS_PX
    dx, dy = POSITIONS.get(picture.position, (0.0, 0.0))
    center = tuple((0.5 + shift + rng.uniform(-0.04, 0.04)) * CANVAS_PX for shift in (dx, dy))
    color = jittered(COLORS[picture.color], rng)
    mask = Image.new("L", canvas.size, 0)
    figure = Figure(ImageDraw.Draw(mask), (center[0], center[1]), radius, tilt_deg=rng.uniform(-8, 8))
    FIGURES[picture.shape](figure)
    cover = surface(picture.texture, color, radius, rng)
    if picture.second:
        lower = surface(picture.texture, jittered(COLORS[picture.second], rng), radius, rng)
        below = (0, round(center[1]), CANVAS_PX, CANVAS_PX)
        cover.paste(lower.crop(below), below)
    canvas.paste(cover, (0, 0), mask)
    pen = ImageDraw.Draw(canvas)
    tones = {"dark": mix(color, (0, 0, 0), 0.6), "light": (250, 250, 245), "eye": (20, 20, 25), "wood": (110, 72, 42)}
    for detail in figure.details:
        (pen.ellipse if detail.kind == "ellipse" else pen.polygon)(detail.points, fill=tones[detail.tone])
    return canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def vocabulary() -> list[str]:
    """Returns every word that a caption can hold, and a few common ones, for the tokenizers' merges."""
    words = {"a", "an", "and", "background", "picture", "photo", "small", "large", "in", "with", "by"}
    for phrase in (*SCENES, *POSITIONS, *TEXTURES, *SHAPES, *COLORS):
        words.update(phrase.split())
    return sorted(words)
