"""How sure a mean is: bootstrap intervals over prompts or single pictures, Student's over a few subjects or seeds."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

import numpy as np

RESAMPLES, LEVEL = 10_000, 0.95
ANGLES = 100_001  # at which Student's distribution is summed
BLOCK = 2**22  # draws at a time: the memory that they take stays under 100 MB

Unit = Literal["groups", "values"]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Figure:
    """A mean, its interval, and what they rest on.

    Attributes:
        mean: of the groups' means.
        low, high: of the interval; NaN where one group alone says nothing of others.
        values: how many numbers it is the mean of.
        groups: how many groups they fall into.
    """

    mean: float
    low: float
    high: float
    values: int
    groups: int

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high < 0


NOTHING = Figure(math.nan, math.nan, math.nan, 0, 0)


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    unit: Unit = "groups",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Figure:
    """Returns the mean of the groups' means with a percentile interval.

    Args:
        values: the numbers; none gives NaN.
        groups: the group of each: its subject or its prompt. None = each is its own.
        unit: "groups" = whole groups are drawn: what another subject may give. "values" = single numbers are drawn from
            all of them, which says how well these very groups were measured; far narrower, as the paper's are.
        resamples: how often.
        level: of the interval.
        seed: of the draws: equal arguments give equal intervals.

    Raises:
        ValueError: as many groups as values are needed.
    """
    held = np.asarray(values, dtype=np.float64)
    if not len(held):
        return NOTHING
    keys = list(range(len(held))) if groups is None else list(groups)
    if len(keys) != len(held):
        raise ValueError(f"groups: expected one for each of {len(held)} values, got {len(keys)}.")
    names = list(dict.fromkeys(keys))
    number = {name: at for at, name in enumerate(names)}
    belongs = np.array([number[key] for key in keys])
    sizes = np.bincount(belongs)
    means = np.bincount(belongs, weights=held) / sizes
    drawn = means if unit == "groups" else held
    low, high = _percentiles(drawn, resamples, level, seed) if len(drawn) > 1 else (math.nan, math.nan)
    mean = float(means.mean() if unit == "groups" else held.mean())
    return Figure(mean, low, high, len(held), len(names))


def student(values: Sequence[float], groups: Sequence[Hashable], level: float = LEVEL) -> Figure:
    """Returns the mean of the groups' means with Student's interval.

    For few groups, as subjects and seeds are: a bootstrap over three holds the true mean in three cases of four.

    Args:
        values: the numbers; none gives NaN.
        groups: the group of each.
        level: of the interval.
    """
    if not len(values):
        return NOTHING
    held: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        held.setdefault(group, []).append(value)
    means = np.array([np.mean(own) for own in held.values()])
    mean, count = float(means.mean()), len(means)
    if count == 1:
        return Figure(mean, math.nan, math.nan, len(values), 1)
    far = quantile(count - 1, level) * float(means.std(ddof=1)) / math.sqrt(count)
    return Figure(mean, mean - far, mean + far, len(values), count)


def student_paired(
    first: Mapping[Key, float], second: Mapping[Key, float], groups: Mapping[Key, Hashable], level: float = LEVEL
) -> Figure:
    """Returns the mean of `first` - `second` where both have a value, with Student's interval.

    Args:
        first: key -> value, such as (subject, seed) -> likeness.
        second: the same of what it is compared with.
        groups: key -> its group.
        level: of the interval.
    """
    shared, apart = _differences(first, second)
    return student(apart, [groups[key] for key in shared], level)


@cache
def quantile(degrees: int, level: float = LEVEL) -> float:
    """Returns how many standard errors to each side hold `level` of Student's distribution.

    With t = sqrt(degrees) tan(angle) its density is cos(angle) ** (degrees - 1), which is summed.
    """
    angles = np.linspace(0, math.pi / 2, ANGLES)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(level, area / area[-1], angles)))


def paired(
    first: Mapping[Key, float],
    second: Mapping[Key, float],
    groups: Mapping[Key, Hashable] | None = None,
    unit: Unit = "groups",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Figure:
    """Returns the mean of `first` - `second` where both have a value, with its interval.

    What both sides share (a hard subject, a prompt, a seed) cancels, so that small differences can be seen.

    Args:
        first: key -> value, such as (prompt, seed) -> similarity.
        second: the same of what it is compared with.
        groups: key -> its group; None = each key is its own.
        unit: as in `bootstrap`.
        resamples: as in `bootstrap`.
        level: as in `bootstrap`.
        seed: as in `bootstrap`.
    """
    shared, apart = _differences(first, second)
    belongs = [groups[key] for key in shared] if groups is not None else None
    return bootstrap(apart, belongs, unit, resamples, level, seed)


def _differences(first: Mapping[Key, float], second: Mapping[Key, float]) -> tuple[list[Key], list[float]]:
    """Returns the keys that both have, and how far `first` is above `second` at each."""
    shared = [key for key in first if key in second]
    return shared, [first[key] - second[key] for key in shared]


def _percentiles(values: np.ndarray, resamples: int, level: float, seed: int) -> tuple[float, float]:
    """Returns the interval of the means of samples drawn with replacement from `values`."""
    rng, means = np.random.default_rng(seed), []
    rows = max(1, BLOCK // len(values))
    for start in range(0, resamples, rows):
        picks = rng.integers(0, len(values), (min(rows, resamples - start), len(values)))
        means.append(values[picks].mean(axis=1))
    edge = 50 * (1 - level)
    low, high = np.percentile(np.concatenate(means), (edge, 100 - edge))
    return float(low), float(high)
