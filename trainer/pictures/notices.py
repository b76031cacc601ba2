"""What is no fault of the pictures but may surprise: copies, animations, and what is lost on the way to the buckets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import buckets
from .folders import listed
from .picture import Picture
from .picturefile import Measured

TOO_MUCH_CROPPED, TOO_MUCH_ENLARGED, TOO_LONG = 0.15, 1.5, 3.0


def of(pictures: Sequence[Picture], measured: Mapping[Path, Measured | str]) -> list[str]:
    """Returns a line for each kind of surprise, with the first pictures and how many more there are."""
    kinds = {**copies(pictures), **odd_files(pictures, measured), **odd_sizes(pictures)}
    return [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]


def copies(pictures: Sequence[Picture]) -> dict[str, list[str]]:
    """Returns the images that are in one dataset twice, and those that share a caption file."""
    same, namesakes = defaultdict(list), defaultdict(list)
    for picture in pictures:
        same[picture.dataset, picture.digest].append(picture.path.name)
        namesakes[picture.dataset, picture.path.with_suffix("")].append(picture.path.name)
    return {
        "the same image twice": [listed(names, joiner=" = ") for names in same.values() if len(names) > 1],
        "one caption for two images": [" and ".join(names) for names in namesakes.values() if len(set(names)) > 1],
    }


def odd_files(pictures: Sequence[Picture], measured: Mapping[Path, Measured | str]) -> dict[str, list[str]]:
    """Returns the images that move, and those whose transparency should be a mask and is none."""
    moving, opaque = [], []
    for picture in pictures:
        known = measured[picture.path]
        if isinstance(known, Measured) and known.frames > 1:
            moving.append(picture.path.name)
        if isinstance(known, Measured) and picture.alpha_mask and not known.alpha:
            opaque.append(picture.path.name)
    return {"animated, the first frame is trained": moving, "alpha_mask, but nothing is transparent": opaque}


def odd_sizes(pictures: Sequence[Picture]) -> dict[str, list[str]]:
    """Returns the pictures that lose much, or are enlarged by much, on the way to their buckets."""
    long, cropped, enlarged = [], [], []
    for picture in pictures:
        geometry, name = picture.geometry, picture.path.name
        bucket = f"to {geometry.bucket[0]} x {geometry.bucket[1]} px"
        if buckets.apart(buckets.ratio(geometry.original), 1) > TOO_LONG:
            long.append(f"{name} ({geometry.original[0]} x {geometry.original[1]} px)")
        if geometry.cropped_away > TOO_MUCH_CROPPED and not picture.random_crop:
            cropped.append(f"{name} ({geometry.cropped_away:.0%}, {bucket})")
        if geometry.enlarged > TOO_MUCH_ENLARGED:
            enlarged.append(f"{name} ({geometry.enlarged:.1f} times, {bucket})")
    return {
        f"longer than {TOO_LONG:g} to 1": long,
        f"more than {TOO_MUCH_CROPPED:.0%} is cropped away": cropped,
        f"enlarged more than {TOO_MUCH_ENLARGED:g} times": enlarged,
    }
