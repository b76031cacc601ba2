"""From a picture's size to the one it is trained at, and what part of it is seen: whole numbers only.

Buckets are sizes of about the resolution's area, never more, on a grid; each picture goes into the one that crops it
least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Size = tuple[int, int]  # (width, height), px

USUAL_STEPS = 64  # px, at SDXL's own resolution and above
GRID = 16  # steps to a side, at resolutions below it
APART = 1.15  # factor between aspect ratios that a smaller bucket must keep from its neighbours


@dataclass(frozen=True)
class View:
    """How one view of a picture differs from the plain one.

    Attributes:
        flipped: mirrored, after it was cropped.
        offset: (left, top) of the crop in the resized picture, px; None = the geometry's own.
        jitter: factors of brightness, contrast and saturation, about 1, and the shift of the hue in turns.
    """

    flipped: bool = False
    offset: tuple[int, int] | None = None
    jitter: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Geometry:
    """How one picture is brought to its bucket. Sizes are (width, height) in px.

    Attributes:
        original: the picture as it is in the file, upright.
        resized: the size that just covers the bucket.
        offset: (left, top) of the crop about the centre, in the resized picture.
        bucket: the size that is trained.
    """

    original: Size
    resized: Size
    offset: tuple[int, int]
    bucket: Size

    def time_ids(self, view: View) -> tuple[int, int, int, int, int, int]:
        """Returns SDXL's size conditioning: original height, width; crop top, left; target height, width."""
        left, top = self.offset if view.offset is None else view.offset
        if view.flipped:
            left = self.resized[0] - self.bucket[0] - left
        return (*self.original[::-1], top, left, *self.bucket[::-1])

    @property
    def cropped_away(self) -> float:
        """The part of the resized picture that is cut off, 0 to 1."""
        return 1 - self.bucket[0] * self.bucket[1] / (self.resized[0] * self.resized[1])

    @property
    def enlarged(self) -> float:
        """How many times its own size the picture is resized to."""
        return max(self.resized[0] / self.original[0], self.resized[1] / self.original[1])


def fit(size: Size, bucket: Size) -> Geometry:
    """Returns how a picture of `size` covers the bucket and is cropped about its centre."""
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    resized = (max(bucket[0], round(size[0] * scale)), max(bucket[1], round(size[1] * scale)))
    offset = ((resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2)
    return Geometry(size, resized, offset, bucket)


@dataclass(frozen=True)
class Settings:
    """A dataset's buckets: its keys of `dataschema.Buckets`, every one filled in.

    Attributes:
        resolution: (width, height) px, whose area no bucket exceeds.
        enable: off, every picture goes into one bucket of the resolution.
        min_reso: px, shortest side.
        max_reso: px, longest side.
        steps: px, sides are multiples of it.
        no_upscale: a picture that is smaller than its bucket gets one of its own size.
    """

    resolution: Size
    enable: bool
    min_reso: int
    max_reso: int
    steps: int
    no_upscale: bool

    @property
    def area(self) -> int:
        """Of the resolution, px squared."""
        return self.resolution[0] * self.resolution[1]


def choose(size: Size, settings: Settings) -> Size:
    """Returns the bucket (width, height) for a picture of this size: the one that crops it least."""
    if not settings.enable:
        return settings.resolution
    wanted = ratio(size)
    best = min(sizes(settings), key=lambda bucket: (apart(ratio(bucket), wanted), bucket))
    if settings.no_upscale and (best[0] > size[0] or best[1] > size[1]):
        return own_size(size, settings)
    return best


def ratio(size: Size) -> float:
    """Returns the aspect ratio, width over height."""
    return size[0] / size[1]


def apart(one: float, other: float) -> float:
    """Returns the factor, 1 or more, between two aspect ratios; a crop from one to the other leaves its inverse."""
    return max(one / other, other / one)


def own_size(size: Size, settings: Settings) -> Size:
    """Returns the largest size on the grid that a picture fills without being enlarged, if it is not tiny.

    Only a side shorter than one step of the grid is brought up to that step. The shortest side of the settings does
    not hold here, as with kohya: the picture's own size decides.
    """
    scale = min(1, settings.max_reso / size[0], settings.max_reso / size[1], math.sqrt(settings.area / math.prod(size)))
    steps = settings.steps
    return (
        max(steps, int(size[0] * scale + 1e-6) // steps * steps),
        max(steps, int(size[1] * scale + 1e-6) // steps * steps),
    )


@lru_cache
def sizes(settings: Settings) -> tuple[Size, ...]:
    """Returns the buckets from tall to wide, one for each aspect ratio.

    For every side on the grid the longest other side that keeps within the area, both ways round, which is kohya's
    list. On a coarse grid that leaves holes between aspect ratios: sizes down to half the area fill them.
    """
    steps = settings.steps
    low, high = math.ceil(settings.min_reso / steps) * steps, settings.max_reso // steps * steps
    sides = range(low, high + 1, steps)
    found = {settings.resolution, settings.resolution[::-1]}
    for side in sides:
        other = min(high, settings.area // side // steps * steps)
        if other >= low:
            found |= {(side, other), (other, side)}
    chosen = {ratio(size): size for size in sorted(found, key=math.prod)}  # the largest of one ratio comes last
    ratios = sorted(chosen)
    if any(apart(*pair) > APART**2 for pair in itertools.pairwise(ratios)):
        spare = (pair for pair in itertools.product(sides, sides) if settings.area <= 2 * math.prod(pair))
        spare = (pair for pair in spare if math.prod(pair) <= settings.area)
        for pair in sorted(spare, key=lambda pair: (-math.prod(pair), apart(ratio(pair), 1), pair)):
            if all(apart(ratio(pair), other) > APART for other in chosen):
                chosen[ratio(pair)] = pair
    return tuple(chosen[key] for key in sorted(chosen))


def settle(
    keys: Mapping[str, Any], resolution: Size, multiple: int, where: Callable[[str], str]
) -> tuple[Settings, list[str]]:
    """Returns a dataset's buckets, and what is wrong with its keys; faulty ones are rounded, so that checks can go on.

    Args:
        keys: of `dataschema.Buckets`, None where the job leaves it open.
        resolution: the base's own (width, height), for a job that names none.
        multiple: px, of which the base needs every side to be a multiple.
        where: key -> the table that says it, for the messages.
    """
    given = keys["resolution"]
    wanted = resolution if given is None else (given, given) if isinstance(given, int) else tuple(given)
    problems: list[str] = []

    def fitting(key: str, value: int) -> int:
        nearest = max(1, round(value / multiple)) * multiple
        fault = f"{where(key)} {key}: expected a multiple of {multiple} px, got {value}. Write {nearest}."
        if nearest != value and fault not in problems:
            problems.append(fault)
        return nearest

    width, height = (fitting("resolution", side) for side in wanted)
    short, long, side = min(width, height), max(width, height), math.isqrt(width * height)
    steps = keys["bucket_reso_steps"] or max(multiple, min(USUAL_STEPS, side // GRID) // multiple * multiple)
    least = keys["min_bucket_reso"] or max(multiple, min(side // 2, short) // multiple * multiple)
    most = keys["max_bucket_reso"] or max(-(-2 * side // multiple) * multiple, long)
    if keys["enable_bucket"]:
        steps, least, most = (
            fitting("bucket_reso_steps", steps), fitting("min_bucket_reso", least), fitting("max_bucket_reso", most)
        )  # fmt: skip
        if least > short:
            problems.append(
                f"{where('min_bucket_reso')} min_bucket_reso: expected at most the resolution's {short} px, "
                f"got {least}. Lower it, or raise resolution."
            )
        if most < long:
            problems.append(
                f"{where('max_bucket_reso')} max_bucket_reso: expected at least the resolution's {long} px, "
                f"got {most}. Raise it, or lower resolution."
            )
    return Settings((width, height), keys["enable_bucket"], least, most, steps, keys["bucket_no_upscale"]), problems
