"""Fronts drawn: what each method's pictures gain, over what that costs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from ..measures import fronts
from . import choice, summary
from .summary import Results

COLOURS = ("#1f5fbf", "#c2571a", "#2a8c4a", "#8b3fa8", "#a3912a", "#5a6472", "#c23b6b", "#2a97a3", "#7a4a2a")
WIDER = 1.6  # how much wider a panel is than its largest mean
TITLES = {"drift": "drift on prompts without the trigger", "prompt": "prompt score lost"}


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

    A small dot is a training of one length, a large one the mean of a setting over its subjects and seeds; a line is
    the front of the means, from the base at the origin on.
    """
    from matplotlib.figure import Figure

    planes = [plane for plane in summary.PLANES if has_costs(results, plane)]
    if not planes:
        return None
    made = Figure(figsize=(5.2 * len(planes), 4.4), layout="constrained")
    panels = made.subplots(1, len(planes), squeeze=False)[0]
    for panel, plane in zip(panels, planes, strict=True):
        for method, colour in zip(results.methods, COLOURS * len(results.methods), strict=False):
            draw_method(panel, results, method, plane, colour)
        panel.set(xlabel=TITLES[plane], ylabel="fidelity gained over the base")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e5e9f0", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.set_xlim(0, widest(results, plane))
    columns = 4 if len(planes) > 1 else 2
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)
    return made


def widest(results: Results, plane: str) -> float:
    """Returns where a panel ends: some way beyond the means, since single trainings stray far."""
    means = [setting_means(results, method, plane)[:, 0] for method in results.methods]
    return WIDER * max((float(costs.max()) for costs in means if len(costs)), default=1.0) or 1.0


def has_costs(results: Results, plane: str) -> bool:
    """Returns whether any training cost something in a plane: where none lost anything of a score there is no front."""
    held = [points for one in results.methods for points in summary.front(results, one, plane).values()]
    return any((points[:, 0] > 0).any() for points in held)


def draw_method(panel: Any, results: Results, method: str, plane: str, colour: str) -> None:
    """Draws one method's trainings, the mean of each setting, and the front of the means."""
    front = summary.front(results, method, plane)
    if not front:
        return
    dots = np.concatenate([points[1:] for points in front.values()])  # without the base
    panel.plot(dots[:, 0], dots[:, 1], "o", color=colour, markersize=3.5, alpha=0.35, markeredgewidth=0)
    means = setting_means(results, method, plane)
    panel.plot(means[:, 0], means[:, 1], "o", color=colour, markersize=6, markeredgecolor="white")
    ahead = fronts.ahead(np.vstack([[0.0, 0.0], means]))
    panel.plot(ahead[:, 0], ahead[:, 1], "-", color=colour, linewidth=2, label=method)


def setting_means(results: Results, method: str, plane: str) -> np.ndarray:
    """Returns [n, 2], the mean (cost, fidelity gained) of each learning rate and length that most pairs have."""
    found = []
    for points in choice.tried(results, method).values():
        own = [summary.place(results, point, plane) for point in points.values()]
        known = [one for one in own if one is not None]
        if known:
            found.append(np.mean(known, axis=0))
    return np.array(found).reshape(-1, 2)
