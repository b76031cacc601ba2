"""The real photographs that drawn pictures are held against: those that were trained on, and those held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from ..pictures import images
from ..pictures.buckets import View
from ..pictures.picture import Picture
from ..preflight.preflight import Ready
from .embedding import Seen

ENOUGH = 4  # photographs, from which on one can be spared


@dataclass(frozen=True)
class Photos:
    """Photographs, each content once.

    Attributes:
        trained: that were trained on; class pictures are none.
        held_out: that were kept out of training.
    """

    trained: tuple[Picture, ...]
    held_out: tuple[Picture, ...]

    def cost(self) -> str:
        """Returns what it costs that no photograph, or one alone, was held out; "" where it costs nothing."""
        if len(self.held_out) > 1:
            return ""
        if self.held_out:
            return "One photo was held out: fidelity to it is fidelity to its pose and light too. Two or more say more."
        advice = "Hold one out: [validation] validation_split = 0.25."
        if len(self.trained) < ENOUGH:
            advice = "With so few photos that is all there is: take more of them if you can, and look at the pictures."
        return (
            f"No photo was held out: fidelity is measured on the {len(self.trained)} photos that were trained on, "
            f"which rewards copying them. {advice}"
        )


def of(ready: Ready) -> Photos:
    """Returns the photographs of a checked job."""
    held_out = {picture.digest: picture for picture in ready.validation}
    trained = {
        picture.digest: picture for picture in ready.pictures if not picture.is_reg and picture.digest not in held_out
    }
    return Photos(tuple(trained.values()), tuple(held_out.values()))


def opened(picture: Picture) -> Image.Image:
    """Returns a photograph as it is trained: at its bucket's size, cropped about its centre.

    The base draws at that size, and a sharper photograph would look less like a perfect picture for that alone.
    """
    return images.from_tensor(images.pixels(picture, View()))


def seen(pictures: Sequence[Picture]) -> list[Seen]:
    """Returns photographs that may have been seen already."""
    return [
        Seen(f"{one.digest} {one.geometry.bucket} {one.geometry.resized} {one.background}", partial(opened, one))
        for one in pictures
    ]
