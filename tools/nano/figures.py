"""The twenty figures: each an outline for the mask, and details drawn over it in other tones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from PIL import ImageDraw

Point = tuple[float, float]
Tone = Literal["dark", "light", "eye", "wood"]


@dataclass(frozen=True)
class Detail:
    """A patch of another tone: an ellipse's bounding box, or a polygon's corners, in px."""

    kind: Literal["ellipse", "polygon"]
    points: list[Point]
    tone: Tone


@dataclass
class Figure:
    """A figure being drawn; its own coordinates run from -1 to 1, y down, and are tilted about its centre."""

    pen: ImageDraw.ImageDraw  # of the mask
    center: Point  # px
    radius: float  # px
    tilt_deg: float
    details: list[Detail] = field(default_factory=list)

    def at(self, x: float, y: float) -> Point:
        """Returns the figure's point in px."""
        cos, sin = math.cos(math.radians(self.tilt_deg)), math.sin(math.radians(self.tilt_deg))
        cx, cy = self.center
        return (cx + self.radius * (x * cos - y * sin), cy + self.radius * (x * sin + y * cos))

    def around(self, x: float, y: float, rx: float, ry: float) -> list[Point]:
        """Returns the bounding box of an upright ellipse about the figure's point."""
        px, py = self.at(x, y)
        return [
            (px - rx * self.radius, py - ry * self.radius),
            (px + rx * self.radius, py + ry * self.radius),
        ]

    def poly(self, points: list[Point], fill: int = 255) -> None:
        """Adds a polygon to the outline; 0 cuts it out."""
        self.pen.polygon([self.at(*p) for p in points], fill=fill)

    def disc(self, x: float, y: float, rx: float, ry: float | None = None, fill: int = 255) -> None:
        """Adds an ellipse to the outline; 0 cuts it out."""
        self.pen.ellipse(self.around(x, y, rx, rx if ry is None else ry), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Adds a rectangle to the outline."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def spot(self, x: float, y: float, rx: float, tone: Tone, ry: float | None = None) -> None:
        """Draws an ellipse over the figure."""
        self.details.append(Detail("ellipse", self.around(x, y, rx, rx if ry is None else ry), tone))

    def patch(self, points: list[Point], tone: Tone) -> None:
        """Draws a polygon over the figure."""
        self.details.append(Detail("polygon", [self.at(*p) for p in points], tone))

    def eyes(self, x: float, y: float, r: float) -> None:
        """Draws two eyes, `x` to the left and right."""
        for side in (-x, x):
            self.spot(side, y, r, "light")
            self.spot(side, y, r * 0.55, "eye")


def polar(radius: float, angle_deg: float) -> Point:
    """Returns the point at an angle, from the right and clockwise as y runs down."""
    return (radius * math.cos(math.radians(angle_deg)), radius * math.sin(math.radians(angle_deg)))


def _circle(figure: Figure) -> None:
    figure.disc(0, 0, 0.9)


def _square(figure: Figure) -> None:
    figure.box(-0.8, -0.8, 0.8, 0.8)


def _triangle(figure: Figure) -> None:
    figure.poly([(0, -0.9), (0.95, 0.75), (-0.95, 0.75)])


def _star(figure: Figure) -> None:
    figure.poly([polar(1.0 if k % 2 == 0 else 0.42, -90 + 36 * k) for k in range(10)])


def _heart(figure: Figure) -> None:
    figure.disc(-0.42, -0.3, 0.48)
    figure.disc(0.42, -0.3, 0.48)
    figure.poly([(-0.84, -0.08), (0.84, -0.08), (0, 0.95)])


def _ring(figure: Figure) -> None:
    figure.disc(0, 0, 0.95)
    figure.disc(0, 0, 0.5, fill=0)


def _cross(figure: Figure) -> None:
    figure.box(-0.3, -0.95, 0.3, 0.95)
    figure.box(-0.95, -0.3, 0.95, 0.3)


def _diamond(figure: Figure) -> None:
    figure.poly([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)])


def _moon(figure: Figure) -> None:
    figure.disc(0, 0, 0.95)
    figure.disc(0.45, -0.15, 0.75, fill=0)


def _flower(figure: Figure) -> None:
    for k in range(6):
        figure.disc(*polar(0.58, 60 * k), 0.36)
    figure.spot(0, 0, 0.3, "light")


def _house(figure: Figure) -> None:
    figure.box(-0.7, -0.15, 0.7, 0.9)
    figure.patch([(-0.95, -0.15), (0, -1), (0.95, -0.15)], "dark")
    figure.patch([(-0.18, 0.9), (-0.18, 0.3), (0.18, 0.3), (0.18, 0.9)], "light")


def _tree(figure: Figure) -> None:
    figure.disc(0, -0.3, 0.7)
    figure.patch([(-0.14, 0.3), (0.14, 0.3), (0.14, 1), (-0.14, 1)], "wood")


def _fish(figure: Figure) -> None:
    figure.disc(-0.15, 0, 0.82, 0.58)
    figure.poly([(0.4, 0), (1, -0.58), (1, 0.58)])
    figure.spot(-0.52, -0.14, 0.16, "light")
    figure.spot(-0.52, -0.14, 0.09, "eye")


def _cat(figure: Figure) -> None:
    figure.disc(0, 0.1, 0.78)
    figure.poly([(-0.78, 0), (-0.7, -0.95), (-0.1, -0.5)])
    figure.poly([(0.78, 0), (0.7, -0.95), (0.1, -0.5)])
    figure.eyes(0.33, 0, 0.18)
    figure.spot(0, 0.35, 0.1, "dark")


def _dog(figure: Figure) -> None:
    figure.disc(0, 0, 0.68, 0.72)
    for side in (-0.72, 0.72):
        figure.spot(side, -0.05, 0.24, "dark", 0.55)
    figure.eyes(0.27, -0.15, 0.14)
    figure.spot(0, 0.35, 0.3, "light", 0.24)
    figure.spot(0, 0.25, 0.12, "eye")


def _robot(figure: Figure) -> None:
    figure.box(-0.56, 0.04, 0.56, 0.74)
    figure.box(-0.54, -0.7, 0.54, -0.1)
    figure.box(-0.22, -0.12, 0.22, 0.06)
    figure.box(-0.07, -0.95, 0.07, -0.68)
    figure.disc(0, -0.9, 0.14)
    figure.box(-1, 0.08, 1, 0.32)
    for side in (-1, 1):
        figure.box(side * 0.88 - 0.12, 0.08, side * 0.88 + 0.12, 0.66)
        figure.box(side * 0.32 - 0.17, 0.72, side * 0.32 + 0.17, 1)
    figure.eyes(0.25, -0.4, 0.18)
    figure.patch([(-0.26, 0.4), (0.26, 0.4), (0.26, 0.6), (-0.26, 0.6)], "dark")


def _mushroom(figure: Figure) -> None:
    figure.pen.pieslice(
        (*figure.at(-0.95, -0.9), *figure.at(0.95, 1.0)), 180 + figure.tilt_deg, 360 + figure.tilt_deg, fill=255
    )
    figure.patch([(-0.28, 0.04), (0.28, 0.04), (0.35, 0.95), (-0.35, 0.95)], "light")


def _boat(figure: Figure) -> None:
    figure.poly([(-1, 0.3), (1, 0.3), (0.62, 0.9), (-0.62, 0.9)])
    figure.poly([(0.08, -0.95), (0.85, 0.12), (0.08, 0.12)])
    figure.patch([(-0.09, -1), (0.06, -1), (0.06, 0.34), (-0.09, 0.34)], "dark")
    figure.patch([(-0.12, -0.75), (-0.12, 0.12), (-0.72, 0.12)], "light")


def _cup(figure: Figure) -> None:
    figure.disc(0.52, 0.0, 0.46)
    figure.disc(0.52, 0.0, 0.22, fill=0)
    figure.poly([(-0.95, -0.65), (0.52, -0.65), (0.36, 0.85), (-0.78, 0.85)])
    figure.spot(-0.215, -0.65, 0.735, "dark", 0.17)


def _backpack(figure: Figure) -> None:
    figure.disc(0, -0.45, 0.6, 0.5)
    figure.box(-0.65, -0.5, 0.65, 0.9)
    figure.patch([(-0.42, 0.15), (0.42, 0.15), (0.42, 0.7), (-0.42, 0.7)], "dark")
    figure.patch([(-0.6, -0.25), (0.6, -0.25), (0.6, -0.15), (-0.6, -0.15)], "dark")


FIGURES: dict[str, Callable[[Figure], None]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "cross": _cross,
    "diamond": _diamond,
    "moon": _moon,
    "flower": _flower,
    "house": _house,
    "tree": _tree,
    "fish": _fish,
    "cat": _cat,
    "dog": _dog,
    "robot": _robot,
    "mushroom": _mushroom,
    "boat": _boat,
    "cup": _cup,
    "backpack": _backpack,
}
