"""Lemma 1 and figure 3: how fast the rank of a sparse update grows with the number of its entries.

The rank of a matrix whose p nonzero entries are drawn from a density is, with probability 1, the size of the largest
matching of rows and columns among their positions. That is counted exactly, without rounding; dense updates are held
against it by their singular values.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from waveft_core import Adapter, Layer
from waveft_core.basis.locations import draw

from . import plots
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHAPES = ((640, 640), (640, 2048), (1280, 1280), (1280, 2048))  # of SDXL's attention
P = 2592  # of a layer at LoRA rank 1's budget on SDXL
RANKS = (1, 2, 3, 4)
BASES = ("identity", "db1", "db2")
FREE = -1


class Rank(Measured):
    """Rank over p, for SDXL's four shapes."""

    NAME = "rank"
    PAPER = "Lemma 1, figure 3"
    ABOUT = "The rank of sparse updates over the number of their entries: how soon it is full."
    SMALL = "5 draws, about a minute; else 20 draws, some minutes"
    SEE = "The rank of an update, by how many numbers train: scattered entries reach nearly all of it, LoRA stays at r"

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell a shape and draw, and one for each dense check."""
        draws = 5 if options.small else 20
        found = [
            Cell(f"{m}x{n}-draw{seed:02d}", {"shape": [m, n], "counts": counts(), "seed": seed})
            for m, n in SHAPES
            for seed in range(draws)
        ]
        return found + [
            Cell(f"{m}x{n}-dense-{basis}-r{r}", {"shape": [m, n], "basis": basis, "p": P * r, "seed": 0})
            for m, n in SHAPES[: 1 if options.small else None]
            for basis in BASES
            for r in RANKS
        ]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns the rank for each p, or the dense update's beside that of its coefficients."""
        held = cell.settings
        m, n = held["shape"]
        if "basis" not in held:
            order = np.random.default_rng(held["seed"]).permutation(m * n)[: max(held["counts"])]
            return {"ranks": [generic_rank(order[:p], (m, n)) for p in held["counts"]]}
        return dense(held["basis"], (m, n), held["p"], held["seed"])

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns for each shape the mean and the band over draws, and the dense checks."""
        shapes = []
        for m, n in SHAPES:
            draws = [
                (cell.settings["counts"], result["ranks"])
                for cell, result in results.values()
                if cell.settings["shape"] == [m, n] and "counts" in cell.settings
            ]
            if draws:
                ranks = np.array([each for _, each in draws])
                low, high = np.percentile(ranks, (2.5, 97.5), axis=0)
                shapes.append(
                    {
                        "shape": [m, n],
                        "p": draws[0][0],
                        "mean": ranks.mean(axis=0).round(2).tolist(),
                        "low": low.tolist(),
                        "high": high.tolist(),
                        "draws": len(ranks),
                        "at_rank": {str(r): float(np.median(ranks[:, draws[0][0].index(P * r)])) for r in RANKS},
                        "full": {str(r): float((ranks[:, draws[0][0].index(P * r)] == m).mean()) for r in RANKS},
                    }
                )
        dense = [{**cell.settings, **result} for cell, result in results.values() if "basis" in cell.settings]
        return {"shapes": shapes, "dense": dense}

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns the ranks at whole budgets."""
        found = []
        for one in summary["shapes"]:
            m, n = one["shape"]
            held = ", ".join(f"{one['at_rank'][str(r)]:g} at r = {r}" for r in RANKS)
            full = ", ".join(f"{one['full'][str(r)]:.0%}" for r in RANKS)
            found.append(f"{m} x {n}: median rank {held} of {m}; full in {full} of {one['draws']} draws")
        if summary["dense"]:
            same = sum(one["coefficients"] == one["update"] for one in summary["dense"])
            found.append(
                f"rank of dW = rank of C in {same} of {len(summary['dense'])} dense updates, by singular values"
            )
        found.append(f"Lemma 1's own threshold n ln n is {1280 * math.log(1280):.0f} for n = 1280; r = 3 is {3 * P}")
        return found

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws rank over p for each shape."""
        shapes = summary["shapes"]
        panels = figure.subplots(1, len(shapes), squeeze=False)[0]
        for panel, one in zip(panels, shapes, strict=True):
            m, n = one["shape"]
            panel.fill_between(one["p"], one["low"], one["high"], color=plots.COLOURS["WaveFT"], alpha=0.25)
            panel.plot(one["p"], one["mean"], color=plots.COLOURS["WaveFT"], linewidth=1.5)
            panel.axhline(m, color=plots.INK, linewidth=0.8, linestyle=":")
            for r in RANKS:
                panel.axvline(P * r, color=plots.FAINT, linewidth=0.8, linestyle="--")
                panel.text(P * r, 0, f"r={r}", fontsize=6, rotation=90, va="bottom", ha="right")
            panel.plot([P * r for r in RANKS], RANKS, "o", color=plots.COLOURS["LoRA"], markersize=3)
            plots.tidy(panel, f"a weight of {m} x {n}", "entries that train, p", "rank of the update")
        panels[0].plot([], [], color=plots.COLOURS["WaveFT"], label="sparse (SHiRA, WaveFT)")
        panels[0].plot([], [], "o", color=plots.COLOURS["LoRA"], markersize=3, label="LoRA of that budget")
        panels[0].plot([], [], color=plots.INK, linewidth=0.8, linestyle=":", label="full rank")
        panels[0].legend(frameon=False, fontsize=6, loc="center right")


def counts() -> list[int]:
    """Returns the p at which ranks are counted: evenly apart on a log scale up to rank 4's budget, ranks' own among."""
    log = np.unique(np.geomspace(1, P * RANKS[-1], 30).round().astype(int)).tolist()
    return sorted({*log, *(P * r for r in RANKS)})


def generic_rank(places: np.ndarray, shape: tuple[int, int]) -> int:
    """Returns the rank that almost every matrix with nonzero entries at flat `places` [p] has: its largest matching.

    Source: Hopcroft and Karp, An n^(5/2) algorithm for maximum matchings in bipartite graphs (1973).
    """
    rows, columns = np.divmod(places, shape[1])
    near: list[list[int]] = [[] for _ in range(shape[0])]
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        near[row].append(column)
    of_row, of_column = [FREE] * shape[0], [FREE] * shape[1]
    while depth := layers(near, of_row, of_column):
        for row in range(shape[0]):
            if of_row[row] == FREE and near[row]:
                augment(row, near, of_row, of_column, depth)
    return sum(column != FREE for column in of_row)


def layers(near: Sequence[Sequence[int]], of_row: Sequence[int], of_column: Sequence[int]) -> dict[int, int]:
    """Returns each row's distance from the rows without a column; empty where no path makes the matching larger."""
    depth = {row: 0 for row, columns in enumerate(near) if of_row[row] == FREE and columns}
    waiting, reached = deque(depth), False
    while waiting:
        row = waiting.popleft()
        for column in near[row]:
            other = of_column[column]
            if other == FREE:
                reached = True
            elif other not in depth:
                depth[other] = depth[row] + 1
                waiting.append(other)
    return depth if reached else {}


def augment(
    start: int, near: Sequence[Sequence[int]], of_row: list[int], of_column: list[int], depth: dict[int, int]
) -> bool:
    """Makes the matching larger by a shortest path from row `start`, where there is one left."""
    stack = [(start, iter(near[start]))]
    path: list[int] = []  # the column by which each row of the stack is left
    while stack:
        row, columns = stack[-1]
        for column in columns:
            other = of_column[column]
            if other == FREE:
                for (back, _), taken in zip(stack, [*path, column], strict=True):
                    of_row[back], of_column[taken] = taken, back
                return True
            if depth.get(other) == depth[row] + 1:
                path.append(column)
                stack.append((other, iter(near[other])))
                break
        else:
            depth[row] = FREE - 1  # no path leads on from here
            stack.pop()
            if path:
                path.pop()
    return False


def dense(basis: str, shape: tuple[int, int], p: int, seed: int) -> dict[str, Any]:
    """Returns the ranks of coefficients and of the update that they make, both by singular values in float64."""
    places = draw(f"uniform:{seed}", f"{basis} {p}", basis, "periodization", shape, p)
    values = torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    layer = Layer(values.float(), places, shape)
    update = Adapter({"lora_rank": layer}, basis).delta("lora_rank", dtype=torch.float64)
    coeffs = torch.zeros(shape[0] * shape[1], dtype=torch.float64)
    coeffs[places.long()] = layer.values.double()
    ranks = [int(torch.linalg.matrix_rank(each)) for each in (coeffs.view(shape), update.double())]
    return {
        "coefficients": ranks[0],
        "update": ranks[1],
        "by_matching": generic_rank(places.numpy(), shape),
        "median_value": statistics.median(values.abs().tolist()),
    }
