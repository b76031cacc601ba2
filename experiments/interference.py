"""Section 4.1's claim on Fourier: that gradients from far apart cancel in a global basis, and not in 2 x 2 cells.

Cancellation is |sum of g e^(i phi)| over the sum of |g|: 1 where all agree, 0 where they cancel. What trains is another
number: the gradient of a coefficient whose atom has norm 1, beside that of a weight. Orthonormal bases leave the sum of
squares as it is, so that its root mean square is the same in all of them, however much cancels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import coverage, jobs, plots, sentences
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALE = 64.0  # of the paper's FourierFT
SCALING = 25.0  # of its WaveFT and SHiRA


class Interference(Measured):
    """Cancellation in a Fourier basis and in Haar cells, on real gradients and on the same ones shuffled."""

    NAME = "interference"
    PAPER = "section 4.1"
    ABOUT = "How much of a gradient cancels in a coefficient, and how large its gradient is after all."
    SMALL = "the nano base under its robot: a minute"
    SEE = "What of the gradients cancels within a coefficient, and how fast it trains all the same"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds base, photographs and a text encoder."""
        coverage.Coverage().options(parser)

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell a source of gradients."""
        found = [
            Cell(f"pictures-{name}", {**jobs.settings(job), "batches": options.batches})
            for name, job in jobs.subjects(options, options.out)
        ]
        if (text := sentences.found(options)) is not None:
            found.append(Cell("sentences", {**text, "count": 64}))
        return found

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns the means over layers."""
        layers = [both(held) for held in coverage.taken(cell).values() if not any(size % 2 for size in held.shape)]
        return {
            **{key: float(np.mean([one[key] for one in layers])) for key in layers[0]},
            "layers": len(layers),
        }

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns every source's numbers."""
        return {"sources": {name: dict(result) for name, (_, result) in results.items()}}

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns what cancels, and what is left."""
        found = []
        for name, one in summary["sources"].items():
            found += [
                f"{name}: of the gradients' sizes {one['haar']:.3f} is left in a 2 x 2 cell (shuffled "
                f"{one['haar_shuffled']:.3f}), {one['fourier']:.4f} in a Fourier coefficient "
                f"({one['fourier_shuffled']:.4f})",
                f"{name}: a coefficient's gradient over a weight's, for atoms of norm 1: {one['rms_haar']:.3f} Haar, "
                f"{one['rms_fourier']:.3f} Fourier; as PEFT scales them (25, 64): {one['peft_haar']:.3g} and "
                f"{one['peft_fourier']:.3g}",
            ]
        return found

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws what is left beside what trains."""
        panels = figure.subplots(1, 2)
        left, right = {}, {}
        for name, one in summary["sources"].items():
            for method, key in (("WaveFT", "haar"), ("FourierFT", "fourier")):
                left[f"{method} {name}"] = (one[key], one[f"{key}_shuffled"], one[f"{key}_shuffled"])
                for way, prefix in (("norm 1", "rms"), ("as PEFT has it", "peft")):
                    right[f"{method} {name}, {way}"] = (one[f"{prefix}_{key}"],) * 3
        plots.bars(panels[0], left)
        title = "what a coefficient is left with of the gradients\nthat it gathers (mark: the same, shuffled)"
        plots.tidy(panels[0], title, "|sum of g| / sum of |g|; 1 = nothing cancels")
        plots.bars(panels[1], right)
        panels[1].set_xscale("log")
        plots.tidy(panels[1], "what trains: a coefficient's own gradient", "over a weight's (root mean square)")


def both(gradient: torch.Tensor) -> dict[str, float]:
    """Returns cancellation and size in both bases of one gradient [m, n]."""
    order = torch.randperm(gradient.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = gradient.flatten()[order].view(gradient.shape)
    root = float(gradient.square().mean().sqrt()) or 1.0
    m, n = gradient.shape
    haar, fourier = coverage.coefficients(gradient, "db1"), torch.fft.fft2(gradient)
    unit = float(fourier.abs().square().mean().sqrt()) / (m * n) ** 0.5  # of an atom of norm 1
    return {
        "haar": cells(gradient),
        "haar_shuffled": cells(shuffled),
        "fourier": waves(gradient),
        "fourier_shuffled": waves(shuffled),
        "rms_haar": float(haar.square().mean().sqrt()) / root,
        "rms_fourier": unit / root,
        "peft_haar": SCALING * float(haar.square().mean().sqrt()) / root,
        # PEFT's ifft2 divides by mn, and the real part of a real spectrum's wave has half its energy
        "peft_fourier": SCALE * float(fourier.real.square().mean().sqrt()) / (m * n) / root,
    }


def cells(gradient: torch.Tensor) -> float:
    """Returns |sum| / sum of sizes in 2 x 2 cells, under the four signs of Haar's atoms, the mean over all."""
    sizes = sums(gradient.abs(), 1, 1)
    parts = [sums(gradient, a, b).abs() for a in (1, -1) for b in (1, -1)]
    return float((torch.stack(parts) / sizes.clamp(min=torch.finfo(sizes.dtype).tiny)).mean())


def sums(plane: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """Returns the signed sum of each 2 x 2 cell of a plane [m, n], [m/2, n/2]."""
    rows = plane[0::2] + down * plane[1::2]
    return rows[:, 0::2] + across * rows[:, 1::2]


def waves(gradient: torch.Tensor) -> float:
    """Returns the same for every wave of the Fourier basis but the constant one."""
    size = float(gradient.abs().sum())
    return float(torch.fft.fft2(gradient).abs().flatten()[1:].mean()) / (size or 1.0)
