"""What the trainer's comparison measured, as rows: a variant's means with intervals, and differences from the first."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from trainer.comparison import comparing, doing
from trainer.comparison.choice import GROUPS
from trainer.comparison.summary import Pair, Point, Results, grouping
from trainer.evaluation.columns import BY_NAME, LOWER, Measure
from trainer.measures.intervals import Figure, student, student_paired

from .variants import Variant

BASE = "base"
LOSS = Measure("loss", "held-out loss", LOWER, "the training's loss on the photos that are never trained", 4)
MEASURES = {**BY_NAME, LOSS.name: LOSS}
SHOWN = (
    "loss",
    "held_out",
    "trained",
    "clip_held_out",
    "prompt",
    "drift",
    "copy",
    "seeds",
    "lpips_distance",
    "paper_div",
)


def with_losses(results: Results, request: comparing.Request) -> Results:
    """Returns the same with the loss on the photos that are never trained, where there are any, as one more measure.

    It is taken at fixed times and noises, and so tells two trainings apart where a few drawn pictures cannot.
    """
    last: dict[str, tuple[int, float]] = {}
    bases = {subject: dict(values) for subject, values in results.bases.items()}
    for cell in request.cells:
        record = doing.read_record(request.place, cell)
        losses = record["train"]["validation"] if record and record["status"] == "done" else []
        for step, loss in losses:
            if step == 0 and cell.subject in bases:
                bases[cell.subject].setdefault(LOSS.name, loss)
            last[cell.name] = (step, loss)
    points = [
        replace(point, values={**point.values, LOSS.name: last[point.cell][1]})
        if last.get(point.cell, (-1, 0.0))[0] == point.step
        else point
        for point in results.points
    ]
    return replace(results, points=points, bases=bases)


def table(results: Results, variants: Sequence[Variant]) -> dict[str, Any]:
    """Returns a row for the base and for each variant and rate.

    Each has its measures' `figures`, means with intervals; `each`, what they are means of: subjects, where there are
    several, else seeds; and `differences` from the first variant, paired.
    """
    groups, rows = grouping(results), [base_row(results)] if results.bases else []
    settings = [(one.label, rate) for one in variants for rate in one.rates]
    other = last_points(results, *settings[0]) if settings else {}
    for label, rate in settings:
        held = last_points(results, label, rate)
        if not held:
            continue
        row: dict[str, Any] = {"label": label, "rate": rate, "steps": max(point.step for point in held.values())}
        costs = [cost for cost in results.costs.get(label, []) if cost.get("parameters")]
        row |= {"parameters": costs[0]["parameters"] if costs else None, "figures": {}, "each": {}, "differences": {}}
        for name in SHOWN:
            own = values_of(held, name)
            if not own:
                continue
            row["figures"][name] = told(student(list(own.values()), [groups[pair] for pair in own]))
            row["each"][name] = means(own, groups)
            theirs = values_of(other, name)
            if (label, rate) != settings[0] and theirs:
                row["differences"][name] = told(student_paired(own, theirs, groups))
        rows.append(row)
    return {"rows": rows, "failures": dict(results.failures), "missing": list(results.missing)}


def base_row(results: Results) -> dict[str, Any]:
    """Returns the row of the base, before any training."""
    drawn = {name: {at: own[name] for at, own in results.bases.items() if name in own} for name in SHOWN}
    held = {name: own for name, own in drawn.items() if own}
    figures = {name: told(student(list(own.values()), list(own))) for name, own in held.items()}
    return {
        "label": BASE,
        "rate": None,
        "figures": figures,
        "each": {name: [*own.values()] for name, own in held.items()},
    }


def values_of(points: Mapping[Pair, Point], name: str) -> dict[Pair, float]:
    """Returns a measure of those trainings that have it."""
    return {pair: point.values[name] for pair, point in points.items() if name in point.values}


def means(values: Mapping[Pair, float], groups: Mapping[Pair, Hashable]) -> list[float]:
    """Returns each group's mean, as JSON has it."""
    held: dict[Hashable, list[float]] = {}
    for pair, value in values.items():
        held.setdefault(groups[pair], []).append(value)
    return [round(fmean(own), 6) for own in held.values()]


def last_points(results: Results, label: str, rate: float) -> dict[Pair, Point]:
    """Returns a variant's trainings at their last step, by subject and seed."""
    found: dict[Pair, Point] = {}
    for point in results.points:
        if (point.method, point.rate) == (label, rate) and point.step >= getattr(found.get(point.pair), "step", 0):
            found[point.pair] = point
    return found


def told(figure: Figure) -> list[float | None]:
    """Returns mean, low and high as JSON has them; no interval of so few groups that it would say nothing."""
    sides = (figure.low, figure.high) if figure.groups >= GROUPS else (None, None)
    return [None if value is None else round(value, 6) for value in (figure.mean, *sides)]


def words(rows: Mapping[str, Any]) -> list[str]:
    """Returns each row in words: its means, and its paired difference in loss from the first where chance is known."""
    found: list[str] = []
    for row in rows["rows"]:
        name = row["label"] if row["rate"] is None else f"{row['label']} at {row['rate']:g}"
        held = ", ".join(
            f"{measure} {value[0]:.{MEASURES[measure].digits}f}" for measure, value in row["figures"].items()
        )
        apart, low, high = row.get("differences", {}).get(LOSS.name, (None, None, None))
        if low is not None:
            held += f"; {LOSS.name} {apart:+.4f} [{low:+.4f}, {high:+.4f}] from the first's"
        found.append(f"{name}: {held}")
    return found
