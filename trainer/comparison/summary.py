"""What the cells say together: each method's front, its best point, and paired differences from the first method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..measures import fronts
from ..measures.intervals import Figure, bootstrap
from ..system.console import counted

FAITHFUL = ("held_out", "trained")  # the first that every cell has counts
DRIFTS = 3  # at which fronts are read
Pair = tuple[str, int]  # a subject and a seed
# The plane of each front: what it costs, what it buys, and what the cost's numbers are turned by: reading is no cost.
PLANES = {"drift": ("drift", 1.0), "prompt": ("prompt", -1.0)}


@dataclass(frozen=True)
class Point:
    """A training of one length.

    Attributes:
        pair: its subject and seed.
        method: its label.
        rate: learning rate.
        step: optimizer steps.
        values: measure -> mean over its pictures.
        cell: name of the cell that it is from.
    """

    pair: Pair
    method: str
    rate: float
    step: int
    values: Mapping[str, float]
    cell: str


@dataclass
class Results:
    """All that was measured.

    Attributes:
        points: of every training and length, the base's at step 0 left out.
        bases: subject -> measure -> the base's mean.
        costs: method -> what its trainings cost, cell by cell.
        failures: cell -> why it failed.
        missing: cells that are not done.
        methods: labels, in the order asked.
        rates: method -> learning rates.
        left_out: subjects and seeds that some method has not done yet; no point is of one, if any pair is whole.
    """

    points: list[Point] = field(default_factory=list)
    bases: dict[str, dict[str, float]] = field(default_factory=dict)
    costs: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    rates: dict[str, list[float]] = field(default_factory=dict)
    left_out: list[Pair] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """How many there are, done, failed and missing."""
        return sum(map(len, self.costs.values())) + len(self.failures) + len(self.missing)

    @property
    def fidelity(self) -> str:
        """The measure of fidelity that every point has."""
        return next((name for name in FAITHFUL if all(name in point.values for point in self.points)), FAITHFUL[-1])

    @property
    def measures(self) -> list[str]:
        """The measures that every point has."""
        return [
            name
            for name in (self.points[0].values if self.points else ())
            if all(name in p.values for p in self.points)
        ]


def gather(
    records: Mapping[str, Mapping[str, Any] | None], methods: Sequence[str], pairs: Mapping[str, Pair] | None = None
) -> Results:
    """Returns the results of cells' files.

    Args:
        records: cell -> what its file holds, None where there is none yet.
        methods: labels, in the order asked.
        pairs: cell -> its subject and seed.
    """
    made = Results(methods=list(methods))
    for name, record in records.items():
        if record is None:
            made.missing.append(name)
            continue
        label = record["method"]
        made.rates.setdefault(label, [])
        if record["rate"] not in made.rates[label]:
            made.rates[label].append(record["rate"])
        if record["status"] != "done":
            made.failures[name] = record["error"]
            continue
        made.costs.setdefault(label, []).append(record["train"])
        for point in record["points"]:
            values = {key: statistics.fmean(column.values()) for key, column in point["columns"].items() if column}
            if point["step"] == 0:
                made.bases.setdefault(record["subject"], values)
            else:
                pair = (record["subject"], record["seed"])
                made.points.append(Point(pair, label, record["rate"], point["step"], values, name))
    unfinished = {(pairs or {}).get(name) for name in made.missing}
    whole = [point for point in made.points if point.pair not in unfinished]
    if whole:  # a mean over the subjects that a method happened to reach is no comparison
        made.left_out = sorted({point.pair for point in made.points} & unfinished)
        made.points = whole
        seen = {point.pair[0] for point in whole}
        made.bases = {subject: values for subject, values in made.bases.items() if subject in seen}
    return made


def front(results: Results, method: str, plane: str = "drift") -> dict[Pair, np.ndarray]:
    """Returns pair -> [n, 2] (cost, fidelity gained over the base); the base is the point at cost 0.

    In the plane "prompt" the cost is what is lost of the base's prompt score, nothing where it is gained.
    """
    measure, sign = PLANES[plane]
    found: dict[Pair, list[tuple[float, float]]] = {}
    for point in results.points:
        base = results.bases.get(point.pair[0], {})
        if point.method == method and measure in point.values and measure in base:
            cost = max(0.0, sign * (point.values[measure] - base[measure]))
            gain = point.values[results.fidelity] - base[results.fidelity]
            found.setdefault(point.pair, [(0.0, 0.0)]).append((cost, gain))
    return {pair: np.array(points) for pair, points in found.items()}


def differences(results: Results, plane: str = "drift") -> list[tuple[float, dict[str, Figure]]]:
    """Returns for some costs each further method's fidelity less that of the first, at equal cost, with intervals.

    Intervals are drawn over subjects where there are several, else over seeds.
    """
    every = {method: front(results, method, plane) for method in results.methods}
    if len(every) < 2 or not all(every.values()):
        every = {method: held for method, held in every.items() if held}
    if len(every) < 2:
        return []
    first = next(iter(every))
    groups = grouping(results)
    costs = fronts.costs_in_reach(list(every.values()), DRIFTS)
    return [
        (
            float(cost),
            {
                method: fronts.difference(held, every[first], float(cost), groups)
                for method, held in every.items()
                if method != first
            },
        )
        for cost in costs
    ]


def grouping(results: Results) -> dict[Pair, Hashable]:
    """Returns pair -> what intervals are drawn over: the subject, where there are several; else the pair itself."""
    pairs = {point.pair for point in results.points}
    several = len({subject for subject, _ in pairs}) > 1
    return {pair: pair[0] if several else pair for pair in pairs}


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


def best(results: Results, method: str) -> Best | None:
    """Returns a method's best: of fidelity gained, times the part of the base's drift room and prompts that is kept.

    The choice is made on the means over all pairs, so that one lucky seed does not make it.
    """
    groups: dict[tuple[float, int], list[Point]] = {}
    for point in results.points:
        if point.method == method:
            groups.setdefault((point.rate, point.step), []).append(point)
    made = []
    for (rate, step), points in groups.items():
        figures = {
            name: bootstrap(
                [p.values[name] for p in points], [p.pair[0] if several(points) else p.pair for p in points]
            )
            for name in results.measures
        }
        cells = {point.pair: point.cell for point in points}
        made.append(Best(method, rate, step, figures, statistics.fmean(worth(results, p) for p in points), cells))
    return max(made, key=lambda one: one.worth, default=None)


def several(points: Sequence[Point]) -> bool:
    """Returns whether the points are of several subjects."""
    return len({point.pair[0] for point in points}) > 1


def worth(results: Results, point: Point) -> float:
    """Returns what a training is worth, as `evaluate` has it, but for the ceiling, which all methods share."""
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


def cost(results: Results, method: str) -> dict[str, float | None]:
    """Returns the medians of what a method's trainings cost."""
    found: dict[str, float | None] = {}
    for key in ("seconds_per_step", "peak_memory", "file_bytes", "parameters"):
        values = [one[key] for one in results.costs.get(method, []) if one.get(key)]
        found[key] = statistics.median(values) if values else None
    return found


def of_the_whole(results: Results) -> str:
    """Returns what the figures of a comparison that is not done are of."""
    if results.left_out:
        return (
            f"The figures are of {counted(len({point.pair for point in results.points}), 'pair')} of subject and seed "
            f"that every method has done; {len(results.left_out)} that some have not are left out."
        )
    pairs = {point.method: {p.pair for p in results.points if p.method == point.method} for point in results.points}
    if len({frozenset(held) for held in pairs.values()}) > 1:
        return "No subject and seed is done by all methods: their means are of different pictures. Do not compare them."
    return ""


def at_the_edge(results: Results) -> list[str]:
    """Returns which methods are best at a rate beyond which none was tried, in one sentence; nothing where none is."""
    edges: dict[str, list[str]] = {"lowest": [], "highest": []}
    for method in results.methods:
        own, chosen = results.rates.get(method, []), best(results, method)
        if chosen and len(own) > 1 and chosen.rate in (min(own), max(own)):
            edges["lowest" if chosen.rate == min(own) else "highest"].append(f"{method} ({chosen.rate:g})")
    said = [f"at the {edge} rate that was tried: {', '.join(held)}" for edge, held in edges.items() if held]
    return [f"Best {'; '.join(said)}. Try beyond it: the order may change."] if said else []


def warnings(results: Results) -> list[str]:
    """Returns what the reader must know before believing the page."""
    found = []
    single = [method for method in results.methods if len(results.rates.get(method, ())) == 1]
    if single:
        found.append(
            f"One learning rate alone was tried for {', '.join(single)}. That decides nothing: the methods' published "
            "rates move the weights by factors of up to 700 apart. Give --rates three a method."
        )
    pairs = {point.pair for point in results.points}
    subjects, seeds = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    if pairs and len(subjects) == 1:
        found.append("One subject alone: the intervals are over seeds, and say nothing of other subjects.")
    if pairs and len(seeds) == 1:
        found.append("One seed alone: what differs may be chance. Give --seeds 3.")
    found += at_the_edge(results)
    if results.failures:
        found.append(f"{len(results.failures)} cells failed: {', '.join(results.failures)}.")
    if results.missing:
        found.append(f"{len(results.missing)} of {results.cells} cells are not done yet. {of_the_whole(results)}")
    return found
