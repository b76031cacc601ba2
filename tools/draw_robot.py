"""Draws a robot on six grounds into `jobs/robot`, each with its caption: the subject that methods are compared on.

    python -m tools.draw_robot [--out jobs/robot]

The robot has more colours than a prompt can give one: the embedded base knows robots of one colour or two, so it has to
be learned from these pictures.  The same call draws the same pictures, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from tools import subject
from tools.subject import INK, PINK, TEAL, YELLOW, Brush

DEEP_TEAL, ORANGE, WHITE = (0, 98, 98), (245, 125, 30), (250, 250, 245)


@dataclass(frozen=True)
class View(subject.View):
    """Where and how the robot stands."""

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


def draw_view(view: View, seed: int) -> Image.Image:
    """Returns the robot as `view` says, an RGB image of 128 px square; `seed` picks the ground's grass and stars."""
    return subject.standing(view, seed, lambda brush: _robot(brush, view))


def _robot(brush: Brush, view: View) -> None:
    for side in (-1, 1):  # behind the rest: antennae and legs, then arms
        brush.line(side * 0.25, -0.6, side * 0.46, -0.84, 0.12, DEEP_TEAL)
        brush.disc(side * 0.46, -0.84, 0.18, PINK)
        brush.line(side * 0.26, 0.6, side * 0.26, 0.86, 0.16, DEEP_TEAL)
        brush.slab(side * 0.26 - 0.22, 0.78, side * 0.26 + 0.22, 1.0, 0.1, ORANGE)
    hand_y = 0.52 - 0.62 * view.wave
    brush.line(0.4, 0.25, 0.82, hand_y, 0.2, DEEP_TEAL)
    brush.disc(0.82, hand_y, 0.19, ORANGE)
    brush.line(-0.4, 0.25, -0.8, 0.52, 0.2, DEEP_TEAL)
    brush.disc(-0.8, 0.52, 0.19, ORANGE)

    brush.slab(-0.52, 0.02, 0.52, 0.76, 0.16, TEAL)
    brush.slab(-0.66, -0.72, 0.66, 0.1, 0.3, ORANGE)

    brush.disc(0, -0.31, 0.32, WHITE)
    gx, gy = view.gaze
    brush.disc(0.1 * gx, -0.31 + 0.1 * gy, 0.19, INK)
    brush.disc(0.1 * gx - 0.07, -0.38 + 0.1 * gy, 0.06, WHITE)

    for side in (-1, 1):  # a heart: two discs and a wedge
        brush.disc(side * 0.155, 0.31, 0.18, YELLOW)
    brush.polygon([(-0.315, 0.385), (0.315, 0.385), (0, 0.72)], YELLOW)


if __name__ == "__main__":
    subject.write(__doc__, "robot", VIEWS, draw_view)
