"""How rows are drawn: a panel a measure, a dot a row, or a line over a number that rows differ in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import plots
from .rows import BASE, LOSS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# What plots call the measures: by what a reader should wish for.
WORDS = {
    "loss": "loss on unseen photos\n(lower is better)",
    "held_out": "likeness to unseen photos\n(higher is better)",
    "trained": "likeness to the photos\n(copies count too)",
    "clip_held_out": "the same, as the CLIP sees it\n(higher is better)",
    "prompt": "agreement with the prompt\n(higher is better)",
    "drift": "change of other pictures\n(lower is better)",
    "seeds": "difference between seeds\n(higher is more diverse)",
}


def dots(rows: Mapping[str, Any], canvas: Canvas, hint: str) -> None:
    """Draws a line of dots a row, a panel a measure; the base is the dotted line, intervals where there are any.

    Args:
        rows: the table.
        canvas: drawn on.
        hint: what the rows' names say.
    """
    measures = measured(rows, (LOSS.name, fidelity(rows), "prompt", "drift"))
    held = [row for row in rows["rows"] if row["label"] != BASE]
    canvas.set_size_inches(9, max(3.0, 1.2 + 0.19 * len(held)))
    several = {row["label"] for row in held if sum(row["label"] == other["label"] for other in held) > 1}
    worst = max((row["figures"][LOSS.name][0] for row in rows["rows"][:1] if LOSS.name in row["figures"]), default=1.0)
    edge = 2 * worst  # a training that went wrong must not hide how the others differ
    names = [name(row, row["label"] in several) for row in held]
    for panel, measure in zip(canvas.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
        for place, row in enumerate(held):
            if measure not in row["figures"]:
                continue
            middle, low, high = row["figures"][measure]
            colour = plots.COLOURS.get(plots.NAMES.get(row["label"].split()[0], ""), plots.INK)
            beyond = measure == LOSS.name and middle > edge
            panel.plot(
                min(middle, edge) if beyond else middle, place, ">" if beyond else "o", color=colour, markersize=4
            )
            if low is not None and high is not None:
                panel.plot([low, high], [place, place], color=colour, linewidth=1)
        base_line(rows, panel.axvline, measure)
        plots.tidy(panel, WORDS.get(measure, measure))
    first = canvas.axes[0]
    first.set_yticks(range(len(names)), names, fontsize=7)
    first.invert_yaxis()
    hints = ["dotted: the base, before any training"]
    if any(row["figures"].get(LOSS.name, [0])[0] > edge for row in held):
        hints.append("an arrow: further right than drawn")
    if any(row["figures"][measure][1] is not None for row in held for measure in measures if measure in row["figures"]):
        hints.append("line: the interval over subjects, or over seeds of one")
    canvas.supxlabel("\n".join(part for part in ("; ".join(hints), hint) if part), fontsize=8)


def name(row: Mapping[str, Any], with_rate: bool) -> str:
    """Returns what a plot calls a row: methods as the paper writes them."""
    first, _, others = row["label"].partition(" ")
    words = f"{plots.NAMES.get(first, first)} {others}".strip()
    return f"{words}, {row['rate']:g}" if with_rate else words


def base_line(rows: Mapping[str, Any], draw: Callable[..., Any], measure: str) -> None:
    """Draws the base's measure as a dotted line, by `axvline` or `axhline` of a panel."""
    for row in rows["rows"]:
        if row["label"] == BASE and measure in row["figures"]:
            draw(row["figures"][measure][0], color=plots.FAINT, linestyle=":", linewidth=1.2)


def measured(rows: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Returns those of the measures that any row has."""
    return [name for name in names if any(name in row["figures"] for row in rows["rows"])]


def fidelity(rows: Mapping[str, Any]) -> str:
    """Returns the measure of fidelity that every row has."""
    return "held_out" if all("held_out" in row["figures"] for row in rows["rows"]) else "trained"


def curves(
    rows: Mapping[str, Any],
    canvas: Canvas,
    line_of: Callable[[Mapping[str, Any]], tuple[str, float]],
    title: str,
    styles: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Draws measures over a number in which rows differ, intervals where there are any.

    Args:
        rows: the table.
        canvas: drawn on.
        line_of: gives a row's line, and its number.
        title: what the number is.
        styles: a line's colour and style; its method's colour unless given.
    """
    measures = measured(rows, (LOSS.name, fidelity(rows), "prompt", "seeds", "drift"))
    canvas.set_size_inches(2.3 * len(measures), 4.2)
    lines: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row in rows["rows"]:
        if row["label"] != BASE:
            line, number = line_of(row)
            lines.setdefault(line, []).append((number, row["figures"]))
    for panel, measure in zip(canvas.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for place, (line, points) in enumerate(lines.items()):
            held = [(number, *figures[measure]) for number, figures in points if measure in figures]
            colour, style = (styles or {}).get(line, (plots.COLOURS.get(line, plots.SERIES[place]), "-"))
            numbers, middles = [one[0] for one in held], [one[1] for one in held]
            panel.plot(numbers, middles, style, marker=".", color=colour, label=line)
            if all(one[2] is not None for one in held):
                panel.fill_between(
                    numbers, [one[2] for one in held], [one[3] for one in held], color=colour, alpha=0.15, linewidth=0
                )
        base_line(rows, panel.axhline, measure)
        plots.tidy(panel, WORDS.get(measure, measure))
    handles, names = canvas.axes[0].get_legend_handles_labels()
    canvas.legend(
        handles, names, frameon=False, fontsize=8, ncol=len(names), loc="outside lower center", title_fontsize=8,
        title=f"{title} (dotted: the base, before any training)",
    )  # fmt: skip
