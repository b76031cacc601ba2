"""Draws what `step` and `scaling` wrote with `--json`, for docs/benchmarks.md.

    python -m benchmarks.plot step.json scaling.json [--folder docs]

A step's record becomes docs/benchmarks-step.png, a scaling's docs/benchmarks-scaling.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Times, middle
from benchmarks.scaling import DENSE, FROZEN, SAMPLED, WRITE
from benchmarks.step import FLOOR, METHODS, OURS

INK, OWN, PEER, FAINT = "#22272e", "#c2410c", "#94a3b8", "#e2e8f0"
COLOURS = {SAMPLED: OWN, DENSE: "#2563eb", FROZEN: PEER, WRITE: "#15803d"}


def draw_step(record: dict[str, Any], path: Path) -> None:
    """Draws each method's step over the frozen model's, a panel a case; the line is the middle half."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row["case"] for row in record["records"]))
    figure = Figure(figsize=(4.2 * len(cases), 2.5), layout="constrained")
    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    methods = [name for name in METHODS if name != FLOOR and any(row["method"] == name for row in record["records"])]
    for panel, case in zip(panels, cases, strict=True):
        times = Times({row["method"]: row["seconds"] for row in record["records"] if row["case"] == case})
        for place, method in enumerate(reversed(methods)):
            ratios = times.ratios(method, FLOOR) if times.seconds.get(method) else []
            if not ratios:
                panel.text(1.0, place, " failed", va="center", fontsize=8, color=INK)
                continue
            median, (low, high) = statistics.median(ratios), middle(ratios)
            panel.barh(place, median, height=0.62, color=OWN if method == OURS else PEER)
            panel.plot([low, high], [place, place], color=INK, linewidth=1)
            panel.text(max(high, median), place, f"  {median:.2f}", va="center", fontsize=8, color=INK)
        panel.axvline(1.0, color=INK, linewidth=0.8, linestyle=":")
        panel.set_yticks(range(len(methods)), list(reversed(methods)), fontsize=8)
        panel.set_title(f"{case}, {record['settings']['dtype']}", fontsize=9, loc="left", color=INK)
        panel.set_xlabel("one training step / frozen forward and backward", fontsize=8)
        panel.set_xlim(0, panel.get_xlim()[1] * 1.12)
        _plain(panel)
    _save(figure, record, path)


def draw_scaling(record: dict[str, Any], path: Path) -> None:
    """Draws the gradient's ways, the write and the memory as p grows, and the ways as the width grows."""
    from matplotlib.figure import Figure

    settings, rows = record["settings"], record["records"]
    tokens = max(settings["tokens"])
    ways = [row for row in rows if row["kind"] == "gradient" and row["tokens"] == tokens]
    upkeep = [row for row in rows if row["kind"] == "upkeep" and row["width"] == settings["width"]]
    by_p = sorted((row for row in ways if row["width"] == settings["width"]), key=lambda row: row["p"])
    by_width = sorted((row for row in ways if row["p"] == settings["paper"]), key=lambda row: row["width"])
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    for panel, found, key in ((first, by_p, "p"), (second, by_width, "width")):
        for name in (FROZEN, DENSE, SAMPLED):
            label = f"gradient, {name}" if name != FROZEN else "frozen forward and backward"
            _line(panel, [(row[key], row["seconds"][name]) for row in found], COLOURS[name], label)
    upkeep.sort(key=lambda row: row["p"])
    _line(first, [(row["p"], row["seconds"][WRITE]) for row in upkeep], COLOURS[WRITE], "write after a step")
    third.plot(
        [row["p"] for row in upkeep], [row["kept_bytes"] / 1024 for row in upkeep], "o-", color=OWN, markersize=3
    )
    names = (
        (first, f"{settings['width']} wide, {tokens} tokens", "p", "ms"),
        (second, f"p = {settings['paper']}, {tokens} tokens", "width", "ms"),
        (third, f"kept between steps, {settings['width']} wide", "p", "KiB"),
    )
    for panel, title, across, up in names:
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        places = settings["widths"] if across == "width" else settings["coefficients"]
        panel.set_xticks(places, [str(place) for place in places])
        panel.set_title(title, fontsize=9, loc="left", color=INK)
        panel.set_xlabel(across, fontsize=8)
        panel.set_ylabel(up, fontsize=8)
        _plain(panel)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    _save(figure, record, path)


def _line(panel: Any, found: Sequence[tuple[int, Sequence[float]]], colour: str, label: str) -> None:
    points = [(across, 1e3 * statistics.median(times)) for across, times in found if times]
    panel.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour, markersize=3, label=label)


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8)
    panel.grid(color=FAINT, linewidth=0.6)
    panel.set_axisbelow(True)


def _save(figure: Any, record: dict[str, Any], path: Path) -> None:
    threads = f"{record['threads']} thread{'s' if record['threads'] != 1 else ''}"
    head = f"{record['machine']}, {threads}, torch {record['torch']}; {record['note']}"
    figure.suptitle(head, fontsize=8, color="#64748b", x=0.01, ha="left")
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("docs"))
    options = parser.parse_args(argv)
    for source in options.records:
        record = json.loads(source.read_text(encoding="utf-8"))
        draw = {"step": draw_step, "scaling": draw_scaling}.get(record["benchmark"])
        if draw is None:
            parser.error(f"{source}: expected a record of step or scaling, got one of {record['benchmark']}.")
        path = options.folder / f"benchmarks-{record['benchmark']}.png"
        draw(record, path)
        print(path)


if __name__ == "__main__":
    main()
