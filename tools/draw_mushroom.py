"""Draws the subject of the quick start, one mushroom on six grounds, into `jobs/mushroom`, each with its caption.

    python -m tools.draw_mushroom [--out jobs/mushroom]

It has a face and more colours than a prompt can give it: the embedded base's mushrooms have a white stem and no eyes,
so it has to be learned from these pictures.  The same call draws the same pictures, bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection

from PIL import Image

from tools import subject
from tools.subject import INK, PINK, TEAL, YELLOW, Brush, View

WHITE = (245, 245, 240)
PARTS = ("dots", "stem", "eyes")  # pink dots, a yellow stem, eyes: the base draws none of these unasked
VIEWS = (
    View("on the grass", (0.50, 0.52), 0.40, 0),
    View("white", (0.48, 0.51), 0.43, -8),
    View("at night", (0.54, 0.53), 0.36, 6),
    View("on a wooden table", (0.46, 0.50), 0.38, -4),
    View("in the snow", (0.52, 0.50), 0.42, 8),
    View("purple", (0.51, 0.53), 0.38, 3),
)


def draw_view(view: View, seed: int, parts: Collection[str] = PARTS) -> Image.Image:
    """Returns the mushroom as `view` says, an RGB image of 128 px square.

    Args:
        view: Where and how it stands.
        seed: Picks the ground's grass and stars.
        parts: Those of `PARTS` that it has; without its own stem it has a white one, as the base draws them.
    """
    return subject.standing(view, seed, lambda brush: _mushroom(brush, parts))


def _mushroom(brush: Brush, parts: Collection[str]) -> None:
    brush.slab(-0.42, 0, 0.42, 0.95, 0.2, YELLOW if "stem" in parts else WHITE)
    brush.dome(0, 0, 0.95, TEAL)
    if "dots" in parts:
        for x, y in ((-0.45, -0.3), (0.45, -0.3), (0, -0.62)):
            brush.disc(x, y, 0.2, PINK)
    if "eyes" in parts:
        for side in (-1, 1):
            brush.oval(side * 0.2, 0.35, 0.11, 0.15, INK)


if __name__ == "__main__":
    subject.write(__doc__, "mushroom", VIEWS, draw_view)
