"""Fronts: the best that a cost buys. Two methods are compared at equal cost, not at whatever point each was run.

A training at one learning rate and length is one point (cost, value). The points of a method that no other of its own
beats are its front; between them the front is a straight line, as a file's strength is a dial.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from .intervals import Figure, student

Pair = TypeVar("Pair", bound=Hashable)  # what two methods share: a subject and a seed


def at(points: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns the highest value that each cost buys, [k] float64; NaN where no training cost as little, or as much.

    Args:
        points: [n, 2], (cost, value), in any order. One at cost 0 is the base itself: lines begin there, and nothing
            is said of costs below the least of the others.
        costs: [k].
    """
    held = ahead(points)
    trained = points[points[:, 0] > 0, 0]
    if not len(trained):
        return np.full(len(costs), np.nan)
    inside = (costs >= trained.min()) & (costs <= trained.max())
    return np.where(inside, np.interp(costs, held[:, 0], held[:, 1]), np.nan)


def ahead(points: np.ndarray) -> np.ndarray:
    """Returns the points that no other beats at its cost or less, cheapest first, [k, 2]."""
    held = points[np.lexsort((points[:, 1], points[:, 0]))]
    best = np.maximum.accumulate(held[:, 1])
    return held[np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)]


def costs_in_reach(fronts: Sequence[Mapping[Pair, np.ndarray]], count: int) -> np.ndarray:
    """Returns costs, evenly apart on a log scale, that most pairs of all fronts reach; empty where there are none.

    From the median of where pairs begin (the base itself, at cost 0, left out) to the median of where they end, of the
    front that begins last and of the one that ends first.
    """
    begins, ends = [], []
    for front in fronts:
        moved = [points[points[:, 0] > 0, 0] for points in front.values()]
        moved = [costs for costs in moved if len(costs)]
        if not moved:
            return np.empty(0)
        begins.append(np.median([costs.min() for costs in moved]))
        ends.append(np.median([costs.max() for costs in moved]))
    first, last = max(begins, default=np.inf), min(ends, default=0.0)
    if not first < last:
        return np.empty(0)
    return np.geomspace(first, last, count)


def difference(
    front: Mapping[Pair, np.ndarray],
    other: Mapping[Pair, np.ndarray],
    cost: float,
    groups: Mapping[Pair, Hashable] | None = None,
) -> Figure:
    """Returns `front` - `other` at equal cost, within each pair that both reach, with its interval.

    What both sides share (a hard subject, a seed) cancels, so that small differences can be seen.

    Args:
        front: pair -> points.
        other: the same of what it is compared with.
        cost: at which.
        groups: pair -> its subject: intervals are drawn over subjects. None = over pairs.
    """
    place = np.array([cost])
    first, second = (
        {pair: float(value) for pair, points in side.items() if np.isfinite(value := at(points, place)[0])}
        for side in (front, other)
    )
    both = [pair for pair in first if pair in second]
    return student([first[pair] - second[pair] for pair in both], [groups[pair] if groups else pair for pair in both])
