"""The measures by name: what each says, which way is better, and what its numbers are grouped by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..measures.intervals import LEVEL, Figure, Unit, bootstrap, paired

HIGHER, LOWER, NEITHER = 1, -1, 0


@dataclass(frozen=True)
class Measure:
    """A measure.

    Attributes:
        name: as files and columns call it.
        title: as a page heads it; {images} and {clip} are the networks' names.
        better: HIGHER, LOWER or NEITHER.
        says: what it is, in a sentence.
        digits: that are shown.
    """

    name: str
    title: str
    better: int
    says: str
    digits: int = 3


MEASURES = (
    Measure(
        "held_out",
        "{images}_similarity, held-out photos",
        HIGHER,
        "how alike the subject's pictures are to photos that were not trained on",
    ),
    Measure(
        "trained",
        "{images}_similarity, trained photos",
        NEITHER,
        "the same to the photos that were trained on: it rewards copying them",
    ),
    Measure("prompt", "{clip}_t", HIGHER, "how well pictures agree with their prompts, cosine x 100", 2),
    Measure(
        "drift",
        "drift",
        LOWER,
        "how far pictures of prompts without the trigger are from the base's own of the same seed, 1 - cosine",
    ),
    Measure("copy", "copy score", NEITHER, "cosine to the nearest training photo"),
    Measure("seeds", "seed distance", HIGHER, "how far pictures of one prompt are from each other, 1 - cosine"),
    Measure("clip_held_out", "{clip}_i, held-out photos", HIGHER, "fidelity as the CLIP sees it"),
    Measure("clip_trained", "{clip}_i, trained photos", NEITHER, "the same to the photos that were trained on"),
    Measure("lpips_distance", "LPIPS distance", HIGHER, "perceptual distance between seeds"),
    Measure("paper_div", "paper_div = 1 - LPIPS", NEITHER, "the column that the WaveFT paper calls diversity"),
)
BY_NAME = {measure.name: measure for measure in MEASURES}


def unit(interval: str, column: Mapping[tuple[int, int], float]) -> Unit:
    """Returns what intervals are drawn over: as the job says it, but over pictures where there is one prompt alone."""
    return "values" if interval == "images" or len({number for number, _ in column}) < 2 else "groups"


def figure(column: Mapping[tuple[int, int], float], interval: str) -> Figure:
    """Returns a column's mean with its interval over prompts, or over single pictures."""
    return bootstrap(list(column.values()), [key[0] for key in column], unit(interval, column))


def difference(
    column: Mapping[tuple[int, int], float],
    other: Mapping[tuple[int, int], float],
    interval: str,
    level: float = LEVEL,
) -> Figure:
    """Returns the mean difference of two columns, paired by prompt and seed, with its interval."""
    return paired(column, other, {key: key[0] for key in column}, unit(interval, column), level=level)


def shown(figure: Figure, digits: int = 3, signed: bool = False) -> str:
    """Returns a figure with its interval: "0.512 [0.480, 0.544]"; "-" where there is none."""
    if not figure.values:
        return "-"
    sign = "+" if signed else ""
    text = f"{figure.mean:{sign}.{digits}f}"
    if figure.low == figure.low:  # not NaN
        text += f" [{figure.low:{sign}.{digits}f}, {figure.high:{sign}.{digits}f}]"
    return text
