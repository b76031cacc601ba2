"""Lemma 2: what an update of rank r cannot reach, and what a sparse one of the same budget can."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from waveft_core import Adapter, Layer
from waveft_core.basis.locations import draw

from . import plots
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = (1, 2, 4, 8)
WIDTH = 640


class Bottleneck(Measured):
    """Image and kernel of B A^T, beside those of a WaveFT update of as many numbers."""

    NAME = "bottleneck"
    PAPER = "Lemma 2"
    ABOUT = "LoRA's update moves r directions and sees r directions; a check by numbers."
    SMALL = "the same, seconds"
    SEE = "How many directions an update has: LoRA's are its rank, WaveFT's are hundreds, with as many numbers"

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell a rank."""
        return [Cell(f"rank{r}", {"rank": r, "shape": [WIDTH, WIDTH], "seed": 0}) for r in RANKS]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns how far both claims are from true, and both updates' singular values."""
        (m, n), r = cell.settings["shape"], cell.settings["rank"]
        generator = torch.Generator().manual_seed(cell.settings["seed"])
        up, down = (torch.randn(size, r, generator=generator, dtype=torch.float64) for size in (m, n))
        update = up @ down.T
        p = r * (m + n)
        places = draw("uniform:777", "bottleneck", "db1", "periodization", (m, n), p)
        layer = Layer(torch.randn(p, generator=generator), places, (m, n))
        sparse = Adapter({"lora_b": layer}, "db1").delta("lora_b", dtype=torch.float64).double()
        image, seen = (torch.linalg.qr(each).Q for each in (up, down))
        return {
            "image_outside": outside(update, image),
            "kernel_seen": float((update - update @ seen @ seen.T).norm() / update.norm()),
            "sparse_outside": outside(sparse, image),
            "sparse_rank": int(torch.linalg.matrix_rank(sparse)),
            "values_low_rank": shares(update),
            "values_sparse": shares(sparse),
        }

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns every cell's numbers by rank."""
        return {"ranks": [{"rank": cell.settings["rank"], **result} for cell, result in results.values()]}

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns both claims, checked."""
        worst = max(max(one["image_outside"], one["kernel_seen"]) for one in summary["ranks"])
        held = ", ".join(f"{one['sparse_rank']} at r = {one['rank']}" for one in summary["ranks"])
        return [
            f"Lemma 2 holds: at most {worst:.1e} of B A^T lies outside the columns of B, or sees beyond those of A",
            f"WaveFT of as many numbers, {WIDTH} x {WIDTH}: rank {held}",
        ]

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws the singular values of both."""
        panels = figure.subplots(1, len(summary["ranks"]), squeeze=False, sharey=True)[0]
        for panel, one in zip(panels, summary["ranks"], strict=True):
            for key, name in (("values_sparse", "WaveFT"), ("values_low_rank", "LoRA")):
                panel.plot(
                    range(1, len(one[key]) + 1), one[key], color=plots.COLOURS[name], label=name, marker=".", ms=3
                )
            panel.set_xscale("log")
            panel.set_ylim(0, 1.05)
            title = f"as many numbers as rank {one['rank']}"
            plots.tidy(panel, title, "directions, largest first")
        panels[0].set_ylabel("share of the update's energy that they hold", fontsize=8)
        panels[0].legend(frameon=False, fontsize=7)


def outside(update: torch.Tensor, image: torch.Tensor) -> float:
    """Returns the share of the update's norm that lies outside a space with the orthonormal columns `image` [m, r]."""
    return float((update - image @ (image.T @ update)).norm() / update.norm())


def shares(update: torch.Tensor) -> list[float]:
    """Returns the share of the energy in the largest 1, 2, ... singular directions."""
    energy = torch.linalg.svdvals(update).square()
    return [round(float(value), 6) for value in (energy.cumsum(0) / energy.sum())]
