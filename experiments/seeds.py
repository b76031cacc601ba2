"""Table 10: how much depends on where the trained entries lie."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.job.schema import Job

from . import jobs, panels, plots, variants
from .compared import Compared
from .rows import words
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = 10
METHODS = ("waveft", "shira")


class Seeds(Compared):
    """Ten draws of positions, everything else the same."""

    NAME = "seeds"
    PAPER = "Table 10"
    ABOUT = "The variance of every measure over ten draws of positions, WaveFT beside SHiRA."
    SMALL = "the nano base and its robot, 20 trainings: half an hour"
    SEE = "How much depends on where the trained entries lie"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds how many draws."""
        super().options(parser)
        parser.add_argument("--draws", type=int, metavar="N", help=f"of positions; {SEEDS} unless given")

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns a variant a method and draw."""
        p, rate = variants.sizes(jobs.is_small(options))
        return [
            Variant(f"{method} {seed}", method, {"coefficients": p, "locations": f"uniform:{seed}"}, (rate,))
            for seed in range(options.draws or SEEDS)
            for method in METHODS
        ]

    def lines(self, rows: Mapping[str, Any]) -> list[str]:
        """Returns means and variances, and which is the larger."""
        found = []
        held = spread(rows)
        for measure in held.get("waveft", {}):
            ours, theirs = (held[method].get(measure) for method in METHODS)
            if ours and theirs:
                larger = "WaveFT" if ours["variance"] > theirs["variance"] else "SHiRA"
                both = [f"{one['variance']:.3g} (mean {one['mean']:.4g})" for one in (ours, theirs)]
                found.append(
                    f"{measure}: variance over {ours['draws']} draws {both[0]} WaveFT, {both[1]} SHiRA; "
                    f"larger with {larger}"
                )
        return found or words(rows)

    def draw(self, rows: Mapping[str, Any], canvas: Figure) -> None:
        """Draws every draw of every measure."""
        measures = panels.measured(rows, ("loss", "held_out", "prompt", "drift", "seeds"))
        canvas.set_size_inches(2.3 * len(measures), 3.8)
        for panel, measure in zip(canvas.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            for place, method in enumerate(METHODS):
                values = [
                    row["figures"][measure][0]
                    for row in rows["rows"]
                    if row["label"].startswith(f"{method} ") and measure in row["figures"]
                ]
                panel.plot(
                    [place] * len(values),
                    values,
                    "o",
                    color=plots.COLOURS[plots.NAMES[method]],
                    alpha=0.5,
                    markersize=4,
                )
            panel.set_xticks(range(len(METHODS)), [plots.NAMES[method] for method in METHODS], fontsize=7)
            panel.set_xlim(-0.5, len(METHODS) - 0.5)
            plots.tidy(panel, panels.WORDS.get(measure, measure))
            panels.base_line(rows, panel, measure, "y")
        canvas.supxlabel("each dot: one draw of positions, everything else the same; dotted: the base", fontsize=7)


def spread(rows: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns method -> measure -> mean, sample variance and number of draws."""
    made: dict[str, dict[str, dict[str, float]]] = {}
    for method in METHODS:
        own = [row["figures"] for row in rows["rows"] if row["label"].startswith(f"{method} ")]
        for measure in own[0] if own else ():
            values = [figures[measure][0] for figures in own if measure in figures]
            if len(values) > 1:
                made.setdefault(method, {})[measure] = {
                    "mean": statistics.fmean(values),
                    "variance": statistics.variance(values),
                    "draws": len(values),
                }
    return made
