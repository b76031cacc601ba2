"""Proposition 1 and table 1: how many trained numbers see any gradient; by formula, by chance, and on real gradients.

The paper sets the share rho of weights that get a gradient to 0.1 and never measures it. Here it is measured: of the
base's own gradients under photographs, and of a text encoder's under rated sentences.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.job.schema import Job
from waveft_core.basis.atoms import axis

from . import gradients, jobs, plots, sentences
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RHO = 0.1
BASES = {"SHiRA": "identity", "WaveFT": "db1", "db2": "db2", "sym4": "sym4"}
SIZE = 256  # of the plane that chance is counted on
BATCHES = 8
LEVELS = (0.1, 0.3, 1.0, 3.0)  # thresholds, in root mean squares of a layer's gradient


class Coverage(Measured):
    """Table 1, and what it says of gradients that exist."""

    NAME = "coverage"
    PAPER = "Proposition 1, table 1"
    ABOUT = "The share of trained numbers that see a gradient, if a tenth of the weights have one, and as measured."
    SMALL = "the nano base under its robot and, with the extra `paper`, MiniLM under rated sentences: a minute"
    SEE = "Does a number that trains see a gradient? By arithmetic, and how real gradients are spread"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds base, photographs and a text encoder."""
        jobs.options(parser)
        sentences.options(parser)
        parser.add_argument(
            "--batches", type=int, default=BATCHES, metavar="N", help=f"of photos; {BATCHES} unless given"
        )

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell for the formula and chance, one a subject, and one for the sentences where there are some."""
        found = [Cell("formula", {"rho": RHO, "size": SIZE, "seed": 0})]
        for name, job in jobs.subjects(options, options.out):
            found.append(Cell(f"pictures-{name}", {**jobs.settings(job), "batches": options.batches}))
        if (text := sentences.found(options)) is not None:
            found.append(Cell("sentences", {**text, "count": 64}))
        return found

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns a cell's coverage."""
        if cell.name == "formula":
            return {"methods": by_chance(cell.settings["rho"], cell.settings["size"], cell.settings["seed"])}
        return of_layers(taken(cell))

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns the table, and each source's coverage."""
        made: dict[str, Any] = {"formula": None, "sources": {}}
        for name, (_, result) in results.items():
            if name == "formula":
                made["formula"] = result["methods"]
            else:
                made["sources"][name] = dict(result)
        return made

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns the table in words, and what the gradients say."""
        found = []
        for name, one in (summary["formula"] or {}).items():
            found.append(
                f"{name}: receptive field {one['field']:,}, {one['formula']:.1%} by formula, {one['chance']:.1%}"
            )
        for name, one in summary["sources"].items():
            found.append(
                f"{name}: {one['half']:.1%} of the weights hold half of the squared gradient, {one['most']:.1%} hold "
                f"90 %; where a tenth of them count, {one['cells']:.1%} of the 2 x 2 cells have one (chance: 34.4 %)"
            )
        return found

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws the formula beside chance, and how the squared gradient is spread over weights and coefficients."""
        left, right = figure.subplots(1, 2)
        rows = {
            f"{name} ({one['field']:,})": (one["chance"], one["formula"], one["formula"])
            for name, one in (summary["formula"] or {}).items()
        }
        plots.bars(left, rows)
        title = "if a tenth of the weights have a gradient\n(brackets: weights that one number reaches; mark: formula)"
        plots.tidy(left, title, "share of trained numbers that see one")
        for (name, one), colour in zip(summary["sources"].items(), plots.SERIES, strict=False):
            for key, style in (("curve_identity", "-"), ("curve_db1", "--")):
                label = f"{name}, {'weights' if key.endswith('identity') else 'Haar coefficients'}"
                right.plot(SHARES, one[key], style, color=colour, label=label)
        if summary["sources"]:
            right.plot(SHARES, [EVEN[share] for share in SHARES], ":", color=plots.FAINT, label="normal noise")
            right.set_xscale("log")
            right.legend(frameon=False, fontsize=6)
        plots.tidy(
            right,
            "measured: what the largest gradients hold",
            "share of the numbers, largest first",
            "of the squared gradient",
        )


SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def normal_shares() -> dict[float, float]:
    """Returns how much of the sum of squares the largest share of normal numbers holds."""
    from statistics import NormalDist

    made = {}
    for share in SHARES:
        edge = NormalDist().inv_cdf(1 - share / 2) if share < 1 else 0.0
        made[share] = share + 2 * edge * NormalDist().pdf(edge)  # the integral of x^2 phi(x) over |x| > edge
    return made


EVEN = normal_shares()


def formula(rho: float, field: int) -> float:
    """Returns 1 - (1 - rho)^|R|, proposition 1."""
    return 1 - (1 - rho) ** field


def by_chance(rho: float, size: int, seed: int) -> dict[str, Any]:
    """Returns each basis's receptive field, its coverage by formula, and counted on a plane of random gradients."""
    mask = np.random.default_rng(seed).random((size, size)) < rho
    made = {}
    for name, wavelet in BASES.items():
        field = axis(wavelet, "periodization", size).length ** 2
        made[name] = {"field": field, "formula": formula(rho, field), "chance": float(covered(mask, wavelet).mean())}
    made["FourierFT"] = {"field": size * size, "formula": formula(rho, size * size), "chance": float(mask.any())}
    return made


def covered(mask: np.ndarray, wavelet: str) -> np.ndarray:
    """Returns which coefficients [M, N] see any weight of `mask` [m, n] within their receptive field."""
    rows, columns = (axis(wavelet, "periodization", size).positions for size in mask.shape)
    held = mask[rows].any(axis=1)  # [M, k, n] -> [M, n]
    return np.asarray(held[:, columns].any(axis=2))


def coefficients(gradient: torch.Tensor, wavelet: str) -> torch.Tensor:
    """Returns dL/dC [m, n] of dL/dW [m, n], both sizes even: the transform of the gradient, at scaling 1."""
    m, n = gradient.shape
    return axis(wavelet, "periodization", m).analyze(axis(wavelet, "periodization", n).analyze(gradient))


def taken(cell: Cell) -> gradients.Gradients:
    """Returns a cell's gradients."""
    held = cell.settings
    if "job" in held:
        return gradients.of_pictures(read_job(held["job"]), held["batches"])
    texts, ratings = sentences.rated(Path(held["data"]), held["count"])
    return gradients.of_sentences(Path(held["encoder"]), texts, ratings, sentences.ATTENTION)


def read_job(text: str) -> Job:
    """Returns the job of a cell's settings."""
    import tomllib

    return Job.model_validate(tomllib.loads(text))


def of_layers(found: gradients.Gradients) -> dict[str, Any]:
    """Returns means over layers of how sparse their gradients are, in weights and in Haar coefficients."""
    layers = {name: of_layer(held) for name, held in found.items() if not any(size % 2 for size in held.shape)}
    keys = next(iter(layers.values())).keys()

    def mean(key: str) -> Any:
        values = [one[key] for one in layers.values()]
        return np.mean(values, axis=0).round(5).tolist() if isinstance(values[0], list) else statistics.fmean(values)

    return {**{key: mean(key) for key in keys}, "layers": len(layers)}


def of_layer(gradient: torch.Tensor) -> dict[str, Any]:
    """Returns how sparse one gradient [m, n] is."""
    weights, haar = gradient.abs(), coefficients(gradient, "db1").abs()
    edge = float(np.quantile(weights.numpy(), 1 - RHO))
    mask = (weights > edge).numpy()
    root = float(gradient.square().mean().sqrt())
    return {
        "curve_identity": concentration(weights),
        "curve_db1": concentration(haar),
        "half": share_for(weights, 0.5),
        "most": share_for(weights, 0.9),
        "rho": float(mask.mean()),
        "cells": float(covered(mask, "db1").mean()),
        "over_weights": [float((weights > level * root).float().mean()) for level in LEVELS],
        "over_haar": [float((haar > level * root).float().mean()) for level in LEVELS],
    }


def concentration(sizes: torch.Tensor) -> list[float]:
    """Returns which part of the sum of squares the largest of `sizes` hold, for each of SHARES."""
    energy = sizes.double().square().flatten().sort(descending=True).values.cumsum(0)
    if not float(energy[-1]):
        return [0.0 for _ in SHARES]
    return [float(energy[max(1, round(share * len(energy))) - 1] / energy[-1]) for share in SHARES]


def share_for(sizes: torch.Tensor, part: float) -> float:
    """Returns the least share of the numbers that hold `part` of their sum of squares."""
    energy = sizes.double().square().flatten().sort(descending=True).values.cumsum(0)
    return float((energy < part * energy[-1]).sum() + 1) / len(energy)
