"""What the trainer's comparison measured, as rows: a variant's means with intervals, and differences from the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainer.comparison import comparing, doing
from trainer.comparison.summary import Pair, Point, Results
from trainer.evaluation.columns import BY_NAME, LOWER, Measure
from trainer.measures.intervals import Figure, bootstrap, paired

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
    """Returns a row for the base and for each variant and rate: means with intervals, and differences from the first.

    Intervals are drawn over subjects where there are several, else over seeds; differences are paired.
    """
    rows: list[dict[str, Any]] = []
    if results.bases:
        drawn = {name: [own[name] for own in results.bases.values() if name in own] for name in SHOWN}
        of_base = {name: told(bootstrap(each)) for name, each in drawn.items() if each}
        rows.append({"label": BASE, "rate": None, "figures": of_base})
    first = next(((one.label, rate) for one in variants for rate in one.rates), None)
    for one in variants:
        for rate in one.rates:
            held, other = last_points(results, one.label, rate), last_points(results, *first) if first else {}
            if not held:
                continue
            figures, differences = {}, {}
            for name in SHOWN:
                own = {pair: point.values[name] for pair, point in held.items() if name in point.values}
                if not own:
                    continue
                groups = {pair: pair[0] if len({subject for subject, _ in own}) > 1 else pair for pair in own}
                figures[name] = told(bootstrap(list(own.values()), list(groups.values())))
                theirs = {pair: point.values[name] for pair, point in other.items() if name in point.values}
                if (one.label, rate) != first and theirs:
                    differences[name] = told(paired(own, theirs, groups))
            costs = [cost for cost in results.costs.get(one.label, []) if cost.get("parameters")]
            rows.append(
                {
                    "label": one.label,
                    "rate": rate,
                    "steps": max(point.step for point in held.values()),
                    "parameters": costs[0]["parameters"] if costs else None,
                    "figures": figures,
                    "differences": differences,
                }
            )
    return {"rows": rows, "failures": dict(results.failures), "missing": list(results.missing)}


def last_points(results: Results, label: str, rate: float) -> dict[Pair, Point]:
    """Returns a variant's trainings at their last step, by subject and seed."""
    found: dict[Pair, Point] = {}
    for point in results.points:
        if (point.method, point.rate) == (label, rate) and point.step >= getattr(found.get(point.pair), "step", 0):
            found[point.pair] = point
    return found


def told(figure: Figure) -> list[float | None]:
    """Returns mean, low and high as JSON has them: no interval of one group alone."""
    return [None if value != value else round(value, 6) for value in (figure.mean, figure.low, figure.high)]


def words(rows: Mapping[str, Any]) -> list[str]:
    """Returns each row in words."""
    found = []
    for row in rows["rows"]:
        name = row["label"] if row["rate"] is None else f"{row['label']} at {row['rate']:g}"
        held = ", ".join(
            f"{measure} {value[0]:.{MEASURES[measure].digits}f}" for measure, value in row["figures"].items()
        )
        found.append(f"{name}: {held}")
    return found
