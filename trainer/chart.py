"""The loss curve as SVG, for a page that needs nothing beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

RUNNING_SHARE = 20  # the running mean covers a twentieth of the run


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Returns at each place the mean of the last `width` values up to it, [n] float64."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(losses: Sequence[float]) -> str:
    """Returns the loss over the steps: each step's, which jumps with the timesteps drawn, and a running mean."""
    if not losses:
        return "<p>No step was done.</p>"
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    width = max(1, len(losses) // RUNNING_SHARE)
    steps = np.arange(1, len(losses) + 1)
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(losses) == 1 else None
    axes.plot(steps, losses, color="#cccccc", linewidth=1, marker=marker, label="each step")
    axes.plot(steps, running_mean(losses, width), color="#1f5fbf", linewidth=2, label=f"mean of {width} steps")
    axes.set(xlabel="optimizer step", ylabel="loss", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    page = io.StringIO()
    figure.savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()[page.getvalue().index("<svg") :]
