"""What the cells say together: each method's front, paired differences from the first method, what trainings cost."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..measures import fronts
from ..measures.intervals import Figure

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
    """Returns pair -> [n, 2] (cost, fidelity gained over the base); the first is the base, at cost 0."""
    found: dict[Pair, list[tuple[float, float]]] = {}
    for point in results.points:
        if point.method == method and (at := place(results, point, plane)) is not None:
            found.setdefault(point.pair, [(0.0, 0.0)]).append(at)
    return {pair: np.array(points) for pair, points in found.items()}


def place(results: Results, point: Point, plane: str) -> tuple[float, float] | None:
    """Returns a training's (cost, fidelity gained over the base) in a plane; None where its cost was not measured.

    In the plane "prompt" the cost is what is lost of the base's prompt score, nothing where it is gained.
    """
    measure, sign = PLANES[plane]
    base = results.bases.get(point.pair[0], {})
    if measure not in point.values or measure not in base:
        return None
    cost = max(0.0, sign * (point.values[measure] - base[measure]))
    return cost, point.values[results.fidelity] - base[results.fidelity]


def differences(
    results: Results, plane: str = "drift", costs: Sequence[float] | None = None
) -> list[tuple[float, dict[str, Figure]]]:
    """Returns for some costs each further method's fidelity less that of the first, at equal cost, with intervals.

    Intervals are over subjects where there are several, else over seeds.

    Args:
        results: of the cells.
        plane: of `PLANES`.
        costs: at which fronts are read; None = three that most pairs of all methods reach.
    """
    every = {method: front(results, method, plane) for method in results.methods}
    if len(every) < 2 or not all(every.values()):
        every = {method: held for method, held in every.items() if held}
    if len(every) < 2:
        return []
    first = next(iter(every))
    groups = grouping(results)
    read = fronts.costs_in_reach(list(every.values()), DRIFTS) if costs is None else costs
    return [
        (
            float(cost),
            {
                method: fronts.difference(held, every[first], float(cost), groups)
                for method, held in every.items()
                if method != first
            },
        )
        for cost in read
    ]


def grouping(results: Results) -> dict[Pair, Hashable]:
    """Returns pair -> what intervals are over: the subject, where there are several; else the pair itself."""
    pairs = {point.pair for point in results.points}
    several = len({subject for subject, _ in pairs}) > 1
    return {pair: pair[0] if several else pair for pair in pairs}


def cost(results: Results, method: str) -> dict[str, float | None]:
    """Returns the medians of what a method's trainings cost."""
    found: dict[str, float | None] = {}
    for key in ("seconds_per_step", "peak_memory", "file_bytes", "parameters"):
        values = [one[key] for one in results.costs.get(method, []) if one.get(key)]
        found[key] = statistics.median(values) if values else None
    return found
