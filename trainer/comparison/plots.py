"""Fronts drawn: what each method's pictures gain, over what that costs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..measures import fronts
from . import summary
from .summary import Results

COLOURS = ("#1f5fbf", "#c2571a", "#2a8c4a", "#8b3fa8", "#a3912a", "#5a6472", "#c23b6b", "#2a97a3", "#7a4a2a")
TITLES = {"drift": "drift on prompts without the trigger", "prompt": "prompt score lost"}
GRID = 60  # places of a curve


def draw(results: Results) -> str:
    """Returns both planes of fronts as SVG; "" where there is nothing to draw."""
    made = figure(results)
    if made is None:
        return ""
    page = io.StringIO()
    made.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()[page.getvalue().index("<svg") :]


def png(results: Results) -> bytes:
    """Returns the same as a PNG file; b"" where there is nothing to draw."""
    made, content = figure(results), io.BytesIO()
    if made is None:
        return b""
    made.savefig(content, format="png", dpi=110)
    return content.getvalue()


def figure(results: Results) -> Any:
    """Returns the matplotlib figure, None where there is nothing to draw.

    A dot is a training of one length; a line is the mean front over subjects and seeds, its band their middle half.
    """
    from matplotlib.figure import Figure

    planes = [plane for plane in summary.PLANES if has_costs(results, plane)]
    if not planes:
        return None
    made = Figure(figsize=(5.2 * len(planes), 4), layout="constrained")
    for panel, plane in zip(made.subplots(1, len(planes), squeeze=False)[0], planes, strict=True):
        for method, colour in zip(results.methods, COLOURS * len(results.methods), strict=False):
            draw_method(panel, summary.front(results, method, plane), method, colour)
        panel.set(xlabel=TITLES[plane], ylabel="fidelity gained over the base")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e5e9f0", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.set_xlim(left=0)
    made.axes[0].legend(frameon=False, fontsize=8)
    return made


def has_costs(results: Results, plane: str) -> bool:
    """Returns whether any training cost something in a plane: where none lost anything of a score there is no front."""
    held = [points for one in results.methods for points in summary.front(results, one, plane).values()]
    return any((points[:, 0] > 0).any() for points in held)


def draw_method(panel: Any, front: dict[summary.Pair, np.ndarray], method: str, colour: str) -> None:
    """Draws one method's dots, and its mean front where most pairs reach."""
    if not front:
        return
    dots = np.concatenate([points[points[:, 0] > 0] for points in front.values()])
    panel.plot(dots[:, 0], dots[:, 1], "o", color=colour, markersize=3, alpha=0.35, markeredgewidth=0)
    costs = fronts.costs_in_reach([front], GRID)
    if not len(costs):
        panel.plot([], [], "o", color=colour, label=method)
        return
    held = fronts.curves(front, list(front), costs)
    enough = np.isfinite(held).sum(axis=0) * 2 > len(held)
    if not enough.any():
        return
    held, costs = held[:, enough], costs[enough]
    panel.plot(costs, np.nanmean(held, axis=0), color=colour, linewidth=2, label=method)
    if len(held) > 2:
        panel.fill_between(costs, *np.nanpercentile(held, (25, 75), axis=0), color=colour, alpha=0.12, linewidth=0)
