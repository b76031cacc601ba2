"""Figure 7: where the energy of trained coefficients lies, by sub-band and layer."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import waveft_core
from trainer import loop
from trainer.preflight import preflight
from trainer.run.runfolder import RunFolder
from trainer.system.errors import TrainingStopped, UserError

from . import coverage, jobs, plots
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BANDS = ("aa", "ad", "da", "dd")  # first letter: rows; a = low-pass, d = high-pass


class Energy(Measured):
    """Energy by sub-band over layers."""

    NAME = "energy"
    PAPER = "Figure 7"
    ABOUT = "Whether training puts its energy into one of the four sub-bands."
    SMALL = "WaveFT on the nano base and its robot: a minute"
    SEE = "Which sub-bands the trained coefficients use, layer by layer: a quarter each is no preference"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds base and photographs, or adapters that are there already."""
        jobs.options(parser)
        parser.add_argument(
            "--adapters", type=Path, nargs="+", default=[], metavar="FILE", help="train nothing: read these"
        )

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns a cell an adapter."""
        if options.adapters:
            paths = [path.expanduser().resolve() for path in options.adapters]
            if missing := [path for path in paths if not path.is_file()]:
                raise UserError(f"--adapters: expected WaveFT files, {missing[0]} is none.")
            return [Cell(path.stem, {"adapter": str(path)}) for path in paths]
        return [Cell(name, jobs.settings(job)) for name, job in jobs.subjects(options, options.out)]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Trains, unless there is a file, and returns each layer's shares."""
        path = Path(cell.settings["adapter"]) if "adapter" in cell.settings else train(cell.settings["job"])
        return shares(waveft_core.load(path))

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns means and spread over layers, an adapter each."""
        made = {}
        for name, (_, result) in results.items():
            values = np.array([[layer[band] for band in BANDS] for layer in result["layers"].values()])
            made[name] = {
                "mean": dict(zip(BANDS, values.mean(axis=0).round(4).tolist(), strict=True)),
                "low": dict(zip(BANDS, np.percentile(values, 2.5, axis=0).round(4).tolist(), strict=True)),
                "high": dict(zip(BANDS, np.percentile(values, 97.5, axis=0).round(4).tolist(), strict=True)),
                "total": result["total"],
                "layers": values.round(5).tolist(),
            }
        return {"adapters": made}

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns each band's share."""
        return [
            f"{name}: "
            + ", ".join(f"{band} {one['mean'][band]:.1%}" for band in BANDS)
            + " of a layer's energy, the mean "
            f"over {len(one['layers'])} layers (a quarter each if no band is preferred)"
            for name, one in summary["adapters"].items()
        ]

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws the shares over layers, stacked."""
        panels = figure.subplots(1, len(summary["adapters"]), squeeze=False)[0]
        for panel, (name, one) in zip(panels, summary["adapters"].items(), strict=True):
            values = np.array(one["layers"]).T
            panel.stackplot(range(values.shape[1]), values, labels=BANDS, colors=plots.SERIES[:4], alpha=0.8)
            for edge in (0.25, 0.5, 0.75):
                panel.axhline(edge, color="white", linewidth=0.8, linestyle=":")
            plots.tidy(
                panel, f"energy of the trained coefficients by band: {name}", "layer, in the model's order", "share"
            )
        title = "band (rows, columns): a = smooth, d = detail; dotted: a quarter each"
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, names, frameon=False, fontsize=7, ncol=4, loc="outside lower center", title=title, title_fontsize=7
        )


def train(text: str) -> Path:
    """Trains a job and returns its adapter."""
    job = coverage.read_job(text)
    outcome = loop.run(preflight.check(job))
    if outcome.exit_status:
        raise TrainingStopped(outcome.warning or "stopped before its end")
    return RunFolder(Path(job.save.output_dir), job.save.output_name).adapter


def shares(adapter: waveft_core.Adapter) -> dict[str, Any]:
    """Returns each layer's energy by band, divided by the layer's, and by how many coefficients the band has.

    Positions are drawn evenly, but a band of few may hold more of them by chance: what is compared is the mean energy
    of a coefficient in each band.
    """
    layers, total = {}, dict.fromkeys(BANDS, 0.0)
    for name, layer in adapter.layers.items():
        m, n = layer.shape[0], int(np.prod(layer.shape[1:]))
        rows, columns = np.divmod(layer.indices.numpy(), n)  # periodization: C is as large as the weight
        energy = np.square(adapter.scaling * layer.values.double().numpy())
        means = {}
        for band in BANDS:
            inside = ((rows >= m // 2) == (band[0] == "d")) & ((columns >= n // 2) == (band[1] == "d"))
            means[band] = float(energy[inside].mean()) if inside.any() else 0.0
            total[band] += float(energy[inside].sum())
        whole = sum(means.values()) or 1.0
        layers[name] = {band: value / whole for band, value in means.items()}
    whole = sum(total.values()) or 1.0
    return {"layers": layers, "total": {band: value / whole for band, value in total.items()}}
