"""How rows are drawn: a panel a measure, a line of dots a row, or a line over a number that rows differ in.

What a mean is of is drawn beside it, small: of two or three seeds that says more than an interval does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import plots
from .rows import BASE, LOSS, MEASURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

FAR = 1.0  # widths of the rows' range that the base may lie beside it, to be drawn as a line
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


SINGLES = "large: the mean; small: each seed, or each subject"


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
            if measure == LOSS.name and middle > edge:
                panel.plot(edge, place, ">", color=colour, markersize=5)
                continue
            panel.plot(middle, place, "o", color=colour, markersize=5)
            each = row["each"][measure]
            singles(panel, each, [place] * len(each), colour)
            if low is not None and high is not None:
                panel.plot([low, high], [place, place], color=colour, linewidth=1, alpha=0.35)
        plots.tidy(panel, WORDS.get(measure, measure))
        base_line(rows, panel, measure, "x")
        panel.locator_params(axis="x", nbins=5)
    first = canvas.axes[0]
    first.set_yticks(range(len(names)), names, fontsize=7)
    first.invert_yaxis()
    hints = ["dotted: the base, before any training"]
    if any(row["figures"].get(LOSS.name, [0])[0] > edge for row in held):
        hints.append("an arrow: further right than drawn")
    if any(row["figures"][measure][1] is not None for row in held for measure in measures if measure in row["figures"]):
        hints.append("line: 95 % interval of the mean")
    if with_singles(rows):
        hints.append(SINGLES)
    canvas.supxlabel("\n".join(part for part in ("; ".join(hints), hint) if part), fontsize=8)


def singles(panel: Any, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """Draws what a mean is of, small."""
    if len(x) > 1:
        panel.plot(x, y, "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)


def with_singles(rows: Mapping[str, Any]) -> bool:
    """Returns whether any row is a mean of several."""
    return any(len(values) > 1 for row in rows["rows"] for values in row["each"].values())


def name(row: Mapping[str, Any], with_rate: bool) -> str:
    """Returns what a plot calls a row: methods as the paper writes them."""
    first, _, others = row["label"].partition(" ")
    words = f"{plots.NAMES.get(first, first)} {others}".strip()
    return f"{words}, {row['rate']:g}" if with_rate else words


def base_line(rows: Mapping[str, Any], panel: Any, measure: str, axis: str) -> None:
    """Draws the base's measure as a dotted line; says where it is instead where the rows would shrink to a dot by it.

    Args:
        rows: the table.
        panel: with the rows' dots on it.
        measure: its name.
        axis: "x" or "y", on which the measure is.
    """
    base = next((row for row in rows["rows"] if row["label"] == BASE), None)
    if base is None or measure not in base["figures"]:
        return
    value = base["figures"][measure][0]
    low, high = panel.get_xlim() if axis == "x" else panel.get_ylim()
    if low - FAR * (high - low) <= value <= high + FAR * (high - low):
        (panel.axvline if axis == "x" else panel.axhline)(value, color=plots.FAINT, linestyle=":", linewidth=1.2)
        return
    sides = "←→" if axis == "x" else "↓↑"
    panel.set_xlabel(f"base: {value:.{MEASURES[measure].digits}g} {sides[int(value > high)]}", fontsize=7, loc="right")


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
    """Draws measures over a number in which rows differ: a line through the means, and what they are of.

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
            lines.setdefault(line, []).append((number, row))
    for panel, measure in zip(canvas.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for place, (line, points) in enumerate(lines.items()):
            held = [(number, row) for number, row in points if measure in row["figures"]]
            colour, style = (styles or {}).get(line, (plots.COLOURS.get(line, plots.SERIES[place]), "-"))
            middles = [row["figures"][measure][0] for _, row in held]
            panel.plot(
                [number for number, _ in held], middles, style, marker="o", markersize=4, color=colour, label=line
            )
            for number, row in held:
                each = row["each"][measure]
                singles(panel, [number] * len(each), each, colour)
        plots.tidy(panel, WORDS.get(measure, measure))
        base_line(rows, panel, measure, "y")
    hint = "dotted: the base, before any training"
    if with_singles(rows):
        hint += f"; {SINGLES}"
    handles, names = canvas.axes[0].get_legend_handles_labels()
    legend = canvas.legend(
        handles, names, frameon=False, fontsize=8, ncol=len(names), loc="outside lower center", title_fontsize=8,
        title=f"{title}\n({hint})",
    )  # fmt: skip
    legend.get_title().set_multialignment("center")
