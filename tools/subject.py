"""A subject of the examples: one figure, drawn alike again and again, each time on another ground of the base's."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw

from tools.nano_pictures import COLORS, draw_ground

PICTURE_PX = 128
_CANVAS_PX = 4 * PICTURE_PX  # drawn at four times the size and averaged down, as the base's own pictures are

Color = tuple[int, int, int]
TEAL, YELLOW, PINK, INK = (0, 150, 140), (250, 215, 50), (240, 90, 140), (25, 25, 40)


@dataclass(frozen=True)
class View:
    """Where the subject stands and how; lengths are shares of the picture's side."""

    ground: str
    center: tuple[float, float]
    radius: float
    tilt_deg: float


AnyView = TypeVar("AnyView", bound=View)


class Brush:
    """Draws in the subject's own coordinates: -1 to 1 from its centre, y down."""

    def __init__(self, layer: Image.Image, center: tuple[float, float], radius: float) -> None:
        self._pen = ImageDraw.Draw(layer)
        self._center, self._radius = center, radius  # px

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Returns a point in px."""
        return (self._center[0] + self._radius * x, self._center[1] + self._radius * y)

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color) -> None:
        """Fills the upright ellipse about a point."""
        self._pen.ellipse((*self.at(x - rx, y - ry), *self.at(x + rx, y + ry)), fill=fill)

    def disc(self, x: float, y: float, r: float, fill: Color) -> None:
        """Fills the circle about a point."""
        self.oval(x, y, r, r, fill)

    def dome(self, x: float, y: float, r: float, fill: Color) -> None:
        """Fills the upper half of the circle about a point."""
        self._pen.pieslice((*self.at(x - r, y - r), *self.at(x + r, y + r)), 180, 360, fill=fill)

    def slab(self, x0: float, y0: float, x1: float, y1: float, corner: float, fill: Color) -> None:
        """Fills a rectangle with round corners of radius `corner`."""
        self._pen.rounded_rectangle((*self.at(x0, y0), *self.at(x1, y1)), radius=corner * self._radius, fill=fill)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, fill: Color) -> None:
        """Draws a line."""
        self._pen.line((*self.at(x0, y0), *self.at(x1, y1)), fill=fill, width=round(width * self._radius))

    def polygon(self, points: Sequence[tuple[float, float]], fill: Color) -> None:
        """Fills a polygon."""
        self._pen.polygon([self.at(*point) for point in points], fill=fill)


def standing(view: View, seed: int, figure: Callable[[Brush], None]) -> Image.Image:
    """Returns what `figure` draws, standing as `view` says: RGB, `PICTURE_PX` square; `seed` picks grass and stars."""
    canvas = draw_ground(view.ground, random.Random(seed)).resize((_CANVAS_PX, _CANVAS_PX), Image.Resampling.BICUBIC)
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    center = (_CANVAS_PX * view.center[0], _CANVAS_PX * view.center[1])
    figure(Brush(layer, center, _CANVAS_PX * view.radius))
    layer = layer.rotate(-view.tilt_deg, Image.Resampling.BICUBIC, center=center)
    canvas.paste(layer, (0, 0), layer)
    return canvas.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BOX)


def caption(name: str, ground: str) -> str:
    """Returns a picture's caption: it names the ground, so that the trigger alone comes to stand for the subject."""
    return f"sks {name} {f'on a {ground} background' if ground in COLORS else ground}"


def write(doc: str, name: str, views: Sequence[AnyView], draw: Callable[[AnyView, int], Image.Image]) -> None:
    """Draws every view, with its caption beside it, into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("jobs", name), help="folder for the pictures")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for index, view in enumerate(views):
        draw(view, index).save(folder / f"{index:02d}.png", optimize=True)
        (folder / f"{index:02d}.txt").write_text(caption(name, view.ground) + "\n", encoding="utf-8")
    print(f"{len(views)} pictures with captions in {folder}")
