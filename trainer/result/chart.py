"""The run's curves as SVG, for a page that needs nothing beside it: loss, validation loss and learning rate."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..system.console import counted

RUNNING_SHARE = 20  # the running mean covers a twentieth of the run
EACH, MEAN, VALIDATION, RATE, MARK = "#c9ced6", "#1f5fbf", "#c2571a", "#5a6472", "#9aa3ae"


def running_mean(values: Sequence[float], width: int) -> np.ndarray:
    """Returns at each place the mean of the last `width` values up to it, [n] float64."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(
    losses: Sequence[float],
    rates: Sequence[float] = (),
    validation: Sequence[tuple[int, float]] = (),
    resumed_at: Sequence[int] = (),
    first_step: int = 1,
) -> str:
    """Returns the curves over the optimizer steps.

    Args:
        losses: of each step, which jumps with the timesteps drawn; a running mean is drawn over it.
        rates: learning rate of each step; none, no curve of it.
        validation: (steps done, loss on the validation pictures).
        resumed_at: steps that were done when the run was resumed.
        first_step: the step of `losses[0]`, counted from 1.
    """
    if not losses:
        return "<p>No step was done.</p>"
    page = io.StringIO()
    figure(losses, rates, validation, resumed_at, first_step).savefig(page, format="svg", metadata={"Date": None})
    return page.getvalue()[page.getvalue().index("<svg") :]


def figure(
    losses: Sequence[float],
    rates: Sequence[float],
    validation: Sequence[tuple[int, float]],
    resumed_at: Sequence[int],
    first_step: int,
) -> Any:
    """Returns the matplotlib figure; see `draw`."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    rows = [4, 1] if rates else [1]
    made = Figure(figsize=(9, 3 if len(rows) == 1 else 3.8))
    made.subplots_adjust(left=0.08, right=0.99, bottom=0.14, top=0.98)  # a layout that is computed draws all twice
    axes = np.atleast_1d(made.subplots(len(rows), 1, sharex=True, height_ratios=rows))
    steps = np.arange(first_step, first_step + len(losses))
    draw_losses(axes[0], steps, losses, validation)
    if rates:
        axes[1].plot(steps[: len(rates)], rates, color=RATE, linewidth=1.5, marker=marker(rates))
        axes[1].set(ylabel="learning rate", ylim=(0, 1.15 * max(rates) or 1))
        axes[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for each in axes:
        for step in resumed_at:
            each.axvline(step, color=MARK, linewidth=1, linestyle=":")
        each.spines[["top", "right"]].set_visible(False)
    axes[-1].set(xlabel="optimizer step")
    return made


def draw_losses(axes: Any, steps: np.ndarray, losses: Sequence[float], validation: Sequence[tuple[int, float]]) -> None:
    """Draws the losses, their running mean and the validation losses."""
    width = max(1, len(losses) // RUNNING_SHARE)
    axes.plot(steps, losses, color=EACH, linewidth=1, marker=marker(losses), label="each step")
    axes.plot(steps, running_mean(losses, width), color=MEAN, linewidth=2, label=f"mean of {counted(width, 'step')}")
    asked = [(step, loss) for step, loss in validation if math.isfinite(loss)]
    if asked:
        at, found = zip(*asked, strict=True)
        axes.plot(at, found, color=VALIDATION, linewidth=1.5, marker="o", markersize=4, label="validation")
    axes.set(ylabel="loss", ylim=(0, None))
    axes.legend(frameon=False, ncols=3)


def marker(values: Sequence[float]) -> str | None:
    """Returns how a single value is marked: a line needs two."""
    return "o" if len(values) == 1 else None
