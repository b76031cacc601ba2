"""Lemma 3 and figure 5: how many entries at random places it takes to map k inputs onto k outputs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pywt
import torch
from torch import nn

from waveft_core import Spec, attach

from . import plots
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, PAIRS = 784, 5
RATE, EPOCHS, EVERY, FACTOR = 0.01, 5000, 500, 0.75  # the paper's
FIRST, LAST, POINTS = 10_192, 15_680, 20  # p: 13 to 20 entries a row
FURTHER = (3_920, 6_272, 8_232, 9_800)  # below the paper's: where rows with less than k entries are many
METHODS = {"SHiRA": "identity", "WaveFT": "db1"}
DRAWS = {"SHiRA": 3, "WaveFT": 1}
FLOOR = 1e-16  # of the plot: below it, float32's training and float64's algebra are both at zero


class Interpolation(Measured):
    """Final loss over p, by training and by algebra."""

    NAME = "interpolation"
    PAPER = "Lemma 3, figure 5"
    ABOUT = "The loss that is left when five random vectors are mapped onto five others by p trained entries."
    SMALL = "7 of the points, one draw each, five minutes; else 24 points, half an hour; --draws 1 is less"
    SEE = "How many entries at random places it takes to map 5 inputs of 784 numbers onto 5 outputs: what error is left"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds how many draws."""
        held = ", ".join(f"{draws} of {method}" for method, draws in DRAWS.items())
        parser.add_argument("--draws", type=int, metavar="N", help=f"of positions at each point; {held} unless given")

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell a method, p and draw, and one for the proof's construction."""
        counts = [*FURTHER, *np.linspace(FIRST, LAST, POINTS).round().astype(int).tolist()]
        if options.small:
            counts = [*FURTHER, FIRST, 12_936, LAST]
        fixed = {"width": WIDTH, "pairs": PAIRS, "epochs": EPOCHS}
        found = [
            Cell(f"{method}-p{p}-draw{seed}", {**fixed, "method": method, "p": p, "seed": seed})
            for method, draws in DRAWS.items()
            for seed in range(options.draws or (1 if options.small else draws))
            for p in counts
        ]
        return [Cell("construction", {"width": WIDTH, "pairs": PAIRS, "seed": 0}), *found]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns the final loss and the least that is possible, or what is wrong with the proof's construction."""
        held = cell.settings
        inputs, outputs = task(held["width"], held["pairs"], held["seed"])
        if "method" not in held:
            return construction(inputs, outputs)
        return trained(inputs, outputs, METHODS[held["method"]], held["p"], held["seed"], held["epochs"])

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns the mean loss for each method and p, and the least and the largest of its draws."""
        made: dict[str, Any] = {"construction": None, "curves": {}}
        if "construction" in results:
            made["construction"] = dict(results["construction"][1])
        for method in METHODS:
            losses: dict[int, list[Result]] = {}
            for cell, result in results.values():
                if cell.settings.get("method") == method:
                    losses.setdefault(cell.settings["p"], []).append(result)
            rows = []
            for p, each in sorted(losses.items()):
                drawn = [one["loss"] for one in each]
                row = {"p": p, "loss": float(np.mean(drawn)), "low": min(drawn), "high": max(drawn), "draws": len(each)}
                row["least"] = float(np.mean([one["least"] for one in each]))
                row["short_rows"] = float(np.mean([one["short_rows"] for one in each]))
                rows.append(row)
            made["curves"][method] = rows
        return made

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns the losses at the ends, and the proof's construction."""
        found = []
        for method, rows in summary["curves"].items():
            held = ", ".join(f"{row['loss']:.1e} at {row['p']:,}" for row in rows if row["p"] in (9800, FIRST, LAST))
            found.append(f"{method}: loss {held or 'not measured'}")
        if built := summary["construction"]:
            found.append(
                f"the proof's construction: error {built['error']:.1e}, rank {built['rank']} of {built['rank_of_z']}, "
                f"{built['outside']} entries outside the support of {built['entries']:,}"
            )
        return found

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws loss over p, plain as the paper has it and logarithmic, where one sees when it is zero."""
        panels = figure.subplots(1, 2)
        for panel, log in zip(panels, (False, True), strict=True):
            for method, rows in summary["curves"].items():
                held = [row for row in rows if log or row["p"] >= FIRST]
                if not held:
                    continue
                p, colour = [row["p"] for row in held], plots.COLOURS[method]
                panel.plot(p, [row["loss"] for row in held], color=colour, marker=".", label=method)
                panel.fill_between(
                    p, [row["low"] for row in held], [row["high"] for row in held], color=colour, alpha=0.15
                )
                if log:
                    least = [max(row["least"], FLOOR) for row in held]
                    panel.plot(p, least, color=colour, linestyle=":", label=f"least possible with {method}'s entries")
            if log:
                panel.set_yscale("log")
                panel.set_ylim(FLOOR / 2, 1)
            title = (
                "the same on a log scale, and with fewer entries"
                if log
                else "error that is left, as the paper draws it"
            )
            plots.tidy(panel, title, "entries that train, p", "mean squared error after training")
        panels[1].legend(frameon=False, fontsize=7)


def task(width: int, pairs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns inputs and outputs [k, n] float32, normal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pairs, width, generator=generator), torch.randn(pairs, width, generator=generator)


def trained(
    inputs: torch.Tensor, outputs: torch.Tensor, wavelet: str, p: int, seed: int, epochs: int
) -> dict[str, Any]:
    """Returns the loss after training a zero layer's p entries, or coefficients, by the paper's recipe."""
    width = inputs.shape[1]
    layer = nn.ModuleDict({"map": nn.Linear(width, width, bias=False)}).requires_grad_(False)
    layer.load_state_dict({"map.weight": torch.zeros(width, width)})
    spec = Spec(coefficients=p, scaling=1.0, wavelet=wavelet, locations=f"uniform:{seed}", targets=("map",))
    tuning = attach(layer, spec)
    optimizer = torch.optim.Adam(tuning.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, EVERY, FACTOR)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.mse_loss(layer["map"](inputs), outputs).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        loss = float(nn.functional.mse_loss(layer["map"](inputs), outputs))
    (held,) = tuning.adapter().layers.values()
    tuning.detach()
    x, y = (in_basis(each.double().numpy(), wavelet) for each in (inputs, outputs))
    return {"loss": loss, **least(x, y, held.indices.numpy())}


def in_basis(vectors: np.ndarray, wavelet: str) -> np.ndarray:
    """Returns vectors [k, n] as an orthonormal wavelet sees them.

    C = W dW W^T, so that dW maps x onto y where C maps W x onto W y: trained coefficients are trained entries, of
    another map.
    """
    return vectors if wavelet == "identity" else np.concatenate(pywt.dwt(vectors, wavelet, "periodization"), axis=-1)


def least(x: np.ndarray, y: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    """Returns the least loss that entries at flat `places` can reach, and how many rows have less than k of them.

    Rows do not know of each other: each is a least-squares problem of its own.

    Args:
        x, y: inputs and outputs [k, n] float64.
        places: [p] flat.
    """
    width = x.shape[1]
    rows, columns = np.divmod(places, width)
    total, short = 0.0, 0
    for row in range(width):
        own = columns[rows == row]
        short += len(own) < len(x)
        values = np.linalg.lstsq(x[:, own], y[:, row], rcond=None)[0] if len(own) else np.zeros(0)
        total += float(np.square(x[:, own] @ values - y[:, row]).sum())
    return {"least": total / y.size, "short_rows": int(short)}


def construction(inputs: torch.Tensor, outputs: torch.Tensor) -> dict[str, Any]:
    """Returns how well the proof's own update does: k common columns, float64, beside a W0 that is not zero.

    Source: section A.1.2, steps 1 to 3.
    """
    x, y = inputs.double().T, outputs.double().T  # [n, k], [m, k]
    width, pairs = x.shape
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    columns = torch.randperm(width, generator=generator)[:pairs]
    changed = torch.rand(width, generator=generator) < 0.5  # R: half of the rows have anything to learn
    z = torch.where(changed[:, None], y - base @ x, 0.0)
    update = torch.zeros(width, width, dtype=torch.float64)
    update[:, columns] = z @ torch.linalg.inv(x[columns])
    support = torch.zeros(width, width, dtype=torch.bool)
    support[changed.nonzero(), columns] = True
    return {
        "error": float(((base + update) @ x - (base @ x + z)).abs().max()),
        "rank": int(torch.linalg.matrix_rank(update)),
        "rank_of_z": int(torch.linalg.matrix_rank(z)),
        "outside": int((update != 0)[~support].sum()),
        "entries": int(support.sum()),
    }
