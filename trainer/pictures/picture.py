"""One picture as it is trained: what all that follows the scan of the folders works from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .buckets import Geometry
from .captions import Caption


@dataclass(frozen=True)
class Picture:
    """One picture as it is trained.

    Attributes:
        path: the image file.
        digest: hexadecimal SHA-256 of the file's bytes, "" where it is to be drawn.
        caption: what was written for it, and what is done to that.
        geometry: how it comes to its bucket.
        dataset: number of its [[datasets]], counted from 0.
        repeats: how often an epoch holds it.
        is_reg: whether it is a regularisation (class) picture.
        flip: whether half of its views are mirrored.
        color: whether its views' colours vary.
        random_crop: whether its views are cropped anywhere instead of about the centre.
        background: colour behind its transparent parts.
        interpolation: how it is resized.
        mask: file that says which parts count, white = all, or None.
        alpha_mask: whether its transparency says that.
        mask_digest: hexadecimal SHA-256 of the mask's bytes, "" for no mask.
    """

    path: Path
    digest: str
    caption: Caption
    geometry: Geometry
    dataset: int
    repeats: int = 1
    is_reg: bool = False
    flip: bool = False
    color: bool = False
    random_crop: bool = False
    background: str = "white"
    interpolation: str = "auto"
    mask: Path | None = None
    alpha_mask: bool = False
    mask_digest: str = ""

    @property
    def is_to_be_drawn(self) -> bool:
        """Whether it is a class picture that the base draws before the run: there is no file yet."""
        return not self.digest
