"""The measures of every candidate as a table, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from ..system.console import counted
from .candidates import Candidate
from .columns import MEASURES, Measure, difference, figure, shown
from .networks import Networks
from .scoring import Scores, Subject


def measured(found: Mapping[Candidate, Scores]) -> list[Measure]:
    """Returns the measures that any candidate has, in their order."""
    return [one for one in MEASURES if any(scores.columns.get(one.name) for scores in found.values())]


def title(measure: Measure, networks: Networks) -> str:
    """Returns a measure's heading."""
    arrow = {1: " ↑", -1: " ↓", 0: ""}[measure.better]
    clip = networks.clip.pictures.name if networks.clip else "clip"
    return measure.title.format(images=networks.images.name, clip=clip.replace("-", "_")) + arrow


def head(found: Mapping[Candidate, Scores], networks: Networks) -> list[str]:
    """Returns the table's headings, each with how many numbers its column's are the means of."""
    extra = ["CMMD ↓"] if any(scores.cmmd is not None for scores in found.values()) else []
    counts = {one.name: max(len(scores.columns.get(one.name, ())) for scores in found.values()) for one in MEASURES}
    return ["", *(f"{title(one, networks)} (n = {counts[one.name]})" for one in measured(found)), *extra]


def rows(found: Mapping[Candidate, Scores], subject: Subject, interval: str) -> list[list[str]]:
    """Returns a row for the base and each candidate: each number with its interval, and its difference from the base.

    The last row is the ceiling: what the photographs themselves score.
    """
    base = next(scores for one, scores in found.items() if one.path is None)
    measures = measured(found)
    made = []
    for one, scores in found.items():
        cells = [cell(scores, base, measure, interval, one.path is None) for measure in measures]
        made.append([one.label, *cells, *([] if scores.cmmd is None else [f"{scores.cmmd:.3f}"])])
    limits = [subject.ceilings.get(measure.name, []) for measure in measures]
    if any(limits):
        cells = [f"{fmean(limit):.3f} (n = {len(limit)})" if limit else "" for limit in limits]
        made.append(["the photos themselves", *cells])
    return made


def cell(scores: Scores, base: Scores, measure: Measure, interval: str, is_base: bool) -> str:
    """Returns a number with its interval and, of an adapter, its difference from the base."""
    column = scores.columns.get(measure.name, {})
    text = shown(figure(column, interval), measure.digits)
    other = base.columns.get(measure.name, {})
    if is_base or measure.name == "drift" or not other or not column:
        return text
    return f"{text}  Δ {shown(difference(column, other, interval), measure.digits, signed=True)}"


def counts(scores: Scores) -> str:
    """Returns what the numbers of one candidate rest on, in words."""
    subject, plain = scores.columns.get("copy", {}), scores.columns.get("drift", {})  # every picture of either kind
    prompts = counted(len({key[0] for key in subject}), "prompt")
    text = f"n = {counted(len(subject), 'picture')} of {prompts} with the trigger"
    if plain:
        text += f", {len(plain)} of {len({key[0] for key in plain})} without"
    return text


def lines(heading: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Returns the table for a terminal: a block a measure, so that a line holds one number with its interval."""
    width = max((len(row[0]) for row in body), default=0)
    made = []
    for column, name in enumerate(heading[1:], 1):
        made.append(f"{name}:")
        made += [f"  {row[0].ljust(width)}  {row[column]}" for row in body if len(row) > column and row[column]]
    return made
