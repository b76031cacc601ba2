"""From a picture's size to the one it is trained at: whole numbers only.

Every picture goes into one square bucket in this version; `choose` is where aspect ratios come in.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """How one picture is brought to its bucket. Sizes are (width, height) in px.

    Attributes:
        original: the picture as it is in the file, upright.
        resized: the size that just covers the bucket.
        offset: (left, top) of the crop in the resized picture.
        bucket: the size that is trained.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    bucket: tuple[int, int]

    def time_ids(self, flipped: bool) -> tuple[int, int, int, int, int, int]:
        """Returns SDXL's size conditioning: original height, width; crop top, left; target height, width."""
        left = self.resized[0] - self.bucket[0] - self.offset[0] if flipped else self.offset[0]
        return (*self.original[::-1], self.offset[1], left, *self.bucket[::-1])

    @property
    def cropped_away(self) -> float:
        """The part of the resized picture that is cut off, 0 to 1."""
        return 1 - self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])

    @property
    def enlarged(self) -> float:
        """How many times its own size the picture is resized to."""
        return max(self.resized[0] / self.original[0], self.resized[1] / self.original[1])


def choose(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """Returns the bucket (width, height) for a picture of this size."""
    return (resolution, resolution)


def fit(size: tuple[int, int], bucket: tuple[int, int]) -> Geometry:
    """Returns how a picture of `size` covers the bucket and is cropped about its centre."""
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    resized = (max(bucket[0], round(size[0] * scale)), max(bucket[1], round(size[1] * scale)))
    offset = ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)
    return Geometry(size, resized, offset, bucket)
