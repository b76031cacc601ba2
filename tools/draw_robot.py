"""Draws the subject of the quick start, one robot on six grounds, into `jobs/robot`, each with its caption.

    python -m tools.draw_robot [--out jobs/robot]

The robot has more colours than a prompt can give one: the embedded base knows robots of one colour only, so it has to
be learned from these pictures.  The same call draws the same pictures, bit for bit.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from tools.nano_pictures import COLORS, draw_ground

SIZE_PX = 128
_CANVAS_PX = 4 * SIZE_PX  # drawn at four times the size and averaged down, as the base's own pictures are

TEAL, DEEP_TEAL = (0, 150, 140), (0, 98, 98)
ORANGE = (245, 125, 30)
YELLOW, PINK = (250, 215, 50), (240, 90, 140)
WHITE, INK = (250, 250, 245), (25, 25, 40)
PARTS = ("antennae", "arms", "heart")  # which tell it from the base's own robots


@dataclass(frozen=True)
class View:
    """Where and how the robot stands; lengths are shares of the picture's side."""

    ground: str
    center: tuple[float, float]
    radius: float
    tilt_deg: float
    wave: float  # how far its left arm is raised: 0 hangs, 1 greets
    gaze: tuple[float, float]  # where the eye looks, each in [-1, 1]


VIEWS = (
    View("on the grass", (0.50, 0.52), 0.40, 0, 0.0, (0.0, 0.0)),
    View("white", (0.48, 0.51), 0.43, -6, 1.0, (0.6, -0.3)),
    View("at night", (0.54, 0.53), 0.36, 5, 1.0, (-0.5, -0.5)),
    View("on a wooden table", (0.46, 0.50), 0.38, -4, 0.0, (0.5, 0.4)),
    View("in the snow", (0.52, 0.50), 0.42, 7, 1.0, (-0.6, 0.2)),
    View("purple", (0.51, 0.53), 0.38, 3, 0.0, (0.0, -0.5)),
)


def caption(view: View) -> str:
    """Returns the picture's caption: it names the ground, so that the trigger alone comes to stand for the robot."""
    return f"sks robot {f'on a {view.ground} background' if view.ground in COLORS else view.ground}"


def draw_view(view: View, seed: int, parts: Collection[str] = PARTS) -> Image.Image:
    """Returns the robot as `view` says, an RGB image of `SIZE_PX` square.

    Args:
        view: Where and how it stands.
        seed: Picks the ground's grass and stars.
        parts: Those of `PARTS` that it has; head, eye, body and legs it always has.
    """
    canvas = draw_ground(view.ground, random.Random(seed)).resize((_CANVAS_PX, _CANVAS_PX), Image.Resampling.BICUBIC)
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    x, y = (_CANVAS_PX * share for share in view.center)
    draw_robot(ImageDraw.Draw(layer), x, y, _CANVAS_PX * view.radius, view, parts)
    layer = layer.rotate(-view.tilt_deg, Image.Resampling.BICUBIC, center=(x, y))
    canvas.paste(layer, (0, 0), layer)
    return canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)


def draw_robot(
    pen: ImageDraw.ImageDraw, cx: float, cy: float, radius: float, view: View, parts: Collection[str] = PARTS
) -> None:
    """Draws the robot upright around (cx, cy) px; it reaches `radius` px up and down."""

    def at(x: float, y: float) -> tuple[float, float]:  # the robot's own coordinates, [-1, 1], y down
        return (cx + radius * x, cy + radius * y)

    def disc(x: float, y: float, r: float, fill: tuple[int, int, int]) -> None:
        pen.ellipse((*at(x - r, y - r), *at(x + r, y + r)), fill=fill)

    def slab(x0: float, y0: float, x1: float, y1: float, corner: float, fill: tuple[int, int, int]) -> None:
        pen.rounded_rectangle((*at(x0, y0), *at(x1, y1)), radius=corner * radius, fill=fill)

    def limb(x0: float, y0: float, x1: float, y1: float, width: float) -> None:
        pen.line((*at(x0, y0), *at(x1, y1)), fill=DEEP_TEAL, width=round(width * radius))

    for side in (-1, 1):  # behind the rest: antennae, legs and arms
        if "antennae" in parts:
            limb(side * 0.25, -0.6, side * 0.46, -0.84, 0.12)
            disc(side * 0.46, -0.84, 0.18, PINK)
        limb(side * 0.26, 0.6, side * 0.26, 0.86, 0.16)
        slab(side * 0.26 - 0.22, 0.78, side * 0.26 + 0.22, 1.0, 0.1, ORANGE)
    if "arms" in parts:
        hand_y = 0.52 - 0.62 * view.wave
        limb(0.4, 0.25, 0.82, hand_y, 0.2)
        disc(0.82, hand_y, 0.19, ORANGE)
        limb(-0.4, 0.25, -0.8, 0.52, 0.2)
        disc(-0.8, 0.52, 0.19, ORANGE)

    slab(-0.52, 0.02, 0.52, 0.76, 0.16, TEAL)
    slab(-0.66, -0.72, 0.66, 0.1, 0.3, ORANGE)

    disc(0, -0.31, 0.32, WHITE)
    gx, gy = view.gaze
    disc(0.1 * gx, -0.31 + 0.1 * gy, 0.19, INK)
    disc(0.1 * gx - 0.07, -0.38 + 0.1 * gy, 0.06, WHITE)

    if "heart" in parts:  # two discs and a wedge
        for side in (-1, 1):
            disc(side * 0.155, 0.31, 0.18, YELLOW)
        pen.polygon([at(-0.315, 0.385), at(0.315, 0.385), at(0, 0.72)], fill=YELLOW)


def main() -> None:
    """Draws every view into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("jobs/robot"), help="folder for the pictures")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for index, view in enumerate(VIEWS):
        draw_view(view, seed=index).save(folder / f"{index:02d}.png", optimize=True)
        (folder / f"{index:02d}.txt").write_text(caption(view) + "\n", encoding="utf-8")
    print(f"{len(VIEWS)} pictures with captions in {folder}")


if __name__ == "__main__":
    main()
