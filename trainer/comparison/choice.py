"""Each method at its best, and what it is worth on subjects that had no say in its learning rate."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..measures.intervals import LEVEL, Figure, student, student_paired
from .summary import Pair, Point, Results, grouping

Setting = tuple[float, int]  # learning rate and optimizer steps
GROUPS = 3  # subjects, or seeds of one subject, below which nothing is said of which is ahead


@dataclass(frozen=True)
class Best:
    """A method at its best learning rate and length, over all subjects and seeds.

    Attributes:
        method: its label.
        rate, step: of the training.
        figures: measure -> mean and interval.
        worth: what it was chosen by.
        cells: name of the cell of each pair.
    """

    method: str
    rate: float
    step: int
    figures: Mapping[str, Figure]
    worth: float
    cells: Mapping[Pair, str]


@dataclass(frozen=True)
class Rank:
    """A method among all of them.

    Attributes:
        method: its label.
        settings: learning rate and steps that were chosen for each pair, without it.
        score: its mean worth there.
        behind: its score less that of the first of the ranking; the intervals of all methods hold at once.
    """

    method: str
    settings: Mapping[Pair, Setting]
    score: Figure
    behind: Figure

    @property
    def is_level(self) -> bool:
        """Whether chance could make its distance from the first."""
        return not self.behind.is_below_zero


def worth(results: Results, point: Point) -> float:
    """Returns what a training is worth, as `evaluate` has it, but for the ceiling, which all methods share.

    Fidelity gained, times the part of the base's drift room and of its prompts that is kept.
    """
    base = results.bases[point.pair[0]]
    gained = point.values[results.fidelity] - base[results.fidelity]
    shares = [max(0.0, gained)]
    if "drift" in point.values and base.get("plain_apart"):
        shares.append(max(0.0, 1 - point.values["drift"] / base["plain_apart"]))
    if all(name in side for side in (point.values, base) for name in ("prompt", "prompt_by_chance")):
        room = base["prompt"] - base["prompt_by_chance"]
        left = point.values["prompt"] - point.values["prompt_by_chance"]
        shares.append(min(1.0, max(0.0, left / room)) if room > 0 else 1.0)
    return math.prod(shares)


def tried(results: Results, method: str) -> dict[Setting, dict[Pair, Point]]:
    """Returns a method's trainings by setting, of those settings that most pairs have: a mean over less is no rival."""
    found: dict[Setting, dict[Pair, Point]] = {}
    for point in results.points:
        if point.method == method:
            found.setdefault((point.rate, point.step), {})[point.pair] = point
    most = max(map(len, found.values()), default=0)
    return {setting: points for setting, points in found.items() if len(points) == most}


def best(results: Results, method: str) -> Best | None:
    """Returns a method's best setting: the choice is made on the mean worth of all pairs, not on one lucky seed's."""
    every = tried(results, method)
    if not every:
        return None
    worths = {setting: fmean(worth(results, one) for one in points.values()) for setting, points in every.items()}
    chosen = max(worths, key=lambda setting: worths[setting])
    points, groups = every[chosen], grouping(results)
    belongs = [groups[pair] for pair in points]
    figures = {name: student([one.values[name] for one in points.values()], belongs) for name in results.measures}
    return Best(method, *chosen, figures, worths[chosen], {pair: one.cell for pair, one in points.items()})


def unseen(results: Results, method: str) -> dict[Pair, tuple[Setting, float]]:
    """Returns for each pair the setting that is best on the *other* subjects, and its worth on this one.

    A rate that was chosen on the very pictures that it is judged by flatters a method, and the more so the more rates
    were tried. Of one subject the other seeds choose; of one pair alone nobody can but itself.
    """
    groups, every = grouping(results), tried(results, method)
    worths = {setting: {pair: worth(results, one) for pair, one in points.items()} for setting, points in every.items()}
    found = {}
    for pair in {pair: None for points in every.values() for pair in points}:
        judges = [one for one in groups if groups[one] != groups[pair]] or [pair]
        setting = elected({setting: held for setting, held in worths.items() if pair in held}, judges)
        found[pair] = setting, worths[setting][pair]
    return found


def elected(worths: Mapping[Setting, Mapping[Pair, float]], judges: Sequence[Pair]) -> Setting:
    """Returns the setting with the largest mean worth over some pairs."""
    return max(worths, key=lambda one: fmean([worths[one][pair] for pair in judges if pair in worths[one]] or [0.0]))


def ranking(results: Results) -> list[Rank]:
    """Returns the methods that have trainings, best first, over the pairs that all of them have.

    Distances from the first have intervals that hold all of them at once (Bonferroni's), so that of many methods none
    is called behind because there are many.
    """
    held = {method: found for method in results.methods if (found := unseen(results, method))}
    groups: Mapping[Pair, Hashable] = grouping(results)
    pairs = [pair for pair in groups if all(pair in found for found in held.values())]
    belongs = [groups[pair] for pair in pairs]
    worths = {method: {pair: found[pair][1] for pair in pairs} for method, found in held.items()}
    scores = {method: student(list(own.values()), belongs) for method, own in worths.items()}
    level = 1 - (1 - LEVEL) / max(1, len(held) - 1)
    order = sorted(held, key=lambda method: -scores[method].mean)
    return [
        Rank(
            method,
            {pair: held[method][pair][0] for pair in pairs},
            scores[method],
            student_paired(worths[method], worths[order[0]], groups, level),
        )
        for method in order
    ]
