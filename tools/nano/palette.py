"""The captions' twelve colours, and what is mixed of them."""

from __future__ import annotations

import random

SIZE_PX = 64
CANVAS_PX = 256  # drawn at four times the size and averaged down: smooth edges without a vector library

Color = tuple[int, int, int]

COLORS: dict[str, Color] = {
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


def mix(a: Color, b: Color, share: float) -> Color:
    """Returns `a` with a `share` of `b`, 0 to 1."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return (red, green, blue)


def jittered(color: Color, rng: random.Random) -> Color:
    """Returns a shade that still goes by the color's name."""
    red, green, blue = (min(255, max(0, channel + rng.randint(-10, 10))) for channel in color)
    return (red, green, blue)
