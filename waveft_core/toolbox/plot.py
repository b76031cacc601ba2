"""An adapter as a picture: energy by block and sub-band, its values, and where its largest layers' coefficients lie."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..basis.atoms import IDENTITY, coeffs_shape
from ..errors import Refusal, WaveFTError, listed, nearest, printable
from ..format.adapter import Adapter
from ..format.wholefile import atomic
from .summary import BANDS, kind_of, summarize

_COLOURS = {"aa": "#1f5fbf", "ad": "#e08a1e", "da": "#3d9a5f", "dd": "#b03a5b", "": "#1f5fbf"}
_ROWS = 8  # a panel has room for, however few there are
_MAPS = 3  # layers shown where none are named
_LEAST = 1e-200  # what is smaller is drawn as 0: matplotlib's axes end in errors where numbers lose their digits
_POINTS = 8000  # of a map: beyond it, the largest alone


def plot(
    adapter: Adapter,
    path: str | os.PathLike[str],
    layers: Sequence[str] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Writes a PNG of the adapter to `path`, whole or not at all.

    Args:
        layers: up to three layers whose coefficients are mapped; by default those of the largest energy.
        summary: what `summarize` said of it, where that is at hand.

    Raises:
        WaveFTError: matplotlib is not installed, no such layer, or more than three.
        OSError: it cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window system, no global state
    except ImportError:
        raise WaveFTError(
            f'plot: expected matplotlib, got none installed. Run: "{sys.executable}" -m pip install matplotlib'
        ) from None
    told = summary or summarize(adapter)
    shown = _chosen(adapter, layers, told)
    figure: Any = Figure(figsize=(14, 8.6), layout="constrained", dpi=110)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    blocks, kinds, sizes = top.subplots(1, 3, width_ratios=(1.35, 1, 1))
    _draw_blocks(blocks, told["energy"])
    _draw_kinds(kinds, told["energy"])
    _draw_sizes(sizes, adapter)
    for axes, name in zip(bottom.subplots(1, _MAPS), [*shown, *[None] * _MAPS], strict=False):
        if name is None:
            axes.set_axis_off()
        else:
            _draw_map(bottom, axes, adapter, name)
    figure.suptitle(_title(adapter, told), fontsize=12, parse_math=False)
    with atomic(Path(path)) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+")  # a name in letters that the font lacks shows boxes
        figure.savefig(file, format="png", metadata={"Software": None})


def _chosen(adapter: Adapter, layers: Sequence[str] | None, told: Mapping[str, Any]) -> list[str]:
    if layers is None:
        by_layer = told["by_layer"]
        return sorted(by_layer, key=lambda name: -float(by_layer[name]["energy"]))[:_MAPS]
    fail = Refusal(adapter.source)
    for name in layers:
        if name not in adapter.layers:
            close = listed(nearest(name, adapter.layers, 3))
            raise fail(name, "layer", "one of the adapter's", "no such layer", f"Nearest names: {close}.")
    if len(layers) > _MAPS:
        raise fail(None, "layers", f"at most {_MAPS} to map", len(layers), "Choose fewer.")
    return list(layers)


def _title(adapter: Adapter, told: Mapping[str, Any]) -> str:
    name = _short(Path(adapter.source).name, 80) if adapter.source else "adapter"
    basis = adapter.wavelet if adapter.wavelet == IDENTITY else f"{adapter.wavelet}, {adapter.mode}"
    total = told["coefficients"]["total"]
    layers = "1 layer" if told["layers"] == 1 else f"{told['layers']} layers"
    return f"{name}   ·   {basis}, λ = {adapter.scaling:g}   ·   {layers}, {total:,} coefficients"


def _draw_blocks(axes: Any, energy: Mapping[str, Any]) -> None:
    """Draws the energy of each block, its sub-bands stacked."""
    blocks, total = energy["block"], energy["total"] or 1.0
    names = _fewer(blocks)
    bands = [band for band in BANDS if band in energy["band"]] or [""]
    left = np.zeros(len(names))
    for band in bands:
        share = np.array([100 * blocks[name][band or "total"] / total for name in names])
        axes.barh(range(len(names)), share, left=left, color=_COLOURS[band], label=band or None, height=0.75)
        left += share
    axes.set_yticks(range(len(names)), [_short(name, 26) for name in names], fontsize=8, parse_math=False)
    axes.set_ylim(max(len(names), _ROWS) - 0.4, -0.6)
    axes.set(xlabel="percent of the energy", title="energy by block" + (" and sub-band" if bands != [""] else ""))
    axes.title.set_fontsize(10)
    if bands != [""]:
        parts = [f"{band}  {100 * energy['band'][band] / total:.0f} %" for band in bands]
        axes.legend(axes.get_legend_handles_labels()[0], parts, frameon=False, fontsize=8, loc="best")
    axes.spines[["top", "right"]].set_visible(False)


def _fewer(blocks: Mapping[str, Any], most: int = 24) -> list[str]:
    """Returns the blocks to show in their order: the largest where there are too many to read."""
    kept = set(sorted(blocks, key=lambda name: -float(blocks[name]["total"]))[:most])
    return [name for name in blocks if name in kept]


def _draw_kinds(axes: Any, energy: Mapping[str, Any]) -> None:
    kinds, total = energy["kind"], energy["total"] or 1.0
    names = [name for name in sorted(kinds) if name in set(sorted(kinds, key=lambda name: -kinds[name])[:16])]
    axes.barh(range(len(names)), [100 * kinds[name] / total for name in names], color="#6b7a8f", height=0.7)
    axes.set_yticks(range(len(names)), [_short(name, 26) for name in names], fontsize=8, parse_math=False)
    axes.set_ylim(max(len(names), _ROWS) - 0.4, -0.6)
    axes.set(xlabel="percent of the energy", title="energy by kind of layer")
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_sizes(axes: Any, adapter: Adapter) -> None:
    """Draws how large the coefficients are: a histogram over the logarithm of their magnitude."""
    every = np.concatenate([layer.values.detach().double().cpu().numpy() for layer in adapter.layers.values()])
    sizes = np.abs(every * adapter.scaling)
    above = sizes[sizes > _LEAST]
    if above.size:
        low, high = max(float(above.min()), float(above.max()) * 1e-6), float(above.max())
        if high > 20 * low:
            axes.hist(above, bins=np.geomspace(low, high * 1.0001, 60), color="#6b7a8f")
            axes.set_xscale("log")
        else:
            axes.hist(above, bins=40, range=(0, high * 1.1), color="#6b7a8f")
        axes.margins(y=0.12)
        middle = float(np.median(above))
        axes.axvline(middle, color="#b03a5b", linewidth=1)
        axes.text(middle, 0.98, f" median {middle:.2g}", color="#b03a5b", fontsize=8, va="top", transform=_across(axes))
    none = sizes.size - above.size
    zeros = f", {none:,} {'is' if none == 1 else 'are'} 0" if none else ""
    axes.set(xlabel="|λ · value|", ylabel="coefficients", title=f"size of the coefficients{zeros}")
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)


def _across(axes: Any) -> Any:
    """Returns the transform whose x is the data's and whose y is the panel's, 0 to 1."""
    return axes.get_xaxis_transform()


def _draw_map(figure: Any, axes: Any, adapter: Adapter, name: str) -> None:
    """Draws where one layer's coefficients lie in C and how large they are, the quadrants marked."""
    layer = adapter.layers[name]
    across, along = coeffs_shape(adapter.wavelet, adapter.mode, layer.shape)
    values = layer.values.detach().double().cpu().numpy() * adapter.scaling
    kept = np.sort(np.argsort(np.abs(values), kind="stable")[-_POINTS:])
    kept = kept[np.argsort(np.abs(values[kept]), kind="stable")]  # the largest on top
    row, column = np.divmod(layer.indices.cpu().numpy()[kept], along)
    most = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max())
    most = most if most > _LEAST else 1.0
    size = np.clip(20000 / len(kept), 2.5, 40)
    points = axes.scatter(column, row, c=values[kept], s=size, cmap="RdBu_r", vmin=-most, vmax=most, linewidths=0)
    axes.set_facecolor("#ececec")
    axes.set(xlim=(-0.5, along - 0.5), ylim=(across - 0.5, -0.5), xlabel=f"column of C ({along})")
    axes.set_ylabel(f"row of C ({across})")
    axes.set_aspect("auto" if max(across, along) > 3 * min(across, along) else "equal")
    if adapter.wavelet != IDENTITY:
        axes.axhline(across / 2 - 0.5, color="#404040", linewidth=0.8)
        axes.axvline(along / 2 - 0.5, color="#404040", linewidth=0.8)
        for band, (x, y) in zip(BANDS, ((0.02, 0.98), (0.52, 0.98), (0.02, 0.48), (0.52, 0.48)), strict=True):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
            axes.text(x, y, band, transform=axes.transAxes, va="top", fontsize=9, bbox=box, fontweight="bold")
    axes.set_title(f"{_broken(name)}\n{math.prod(layer.values.shape):,} coefficients", fontsize=8, parse_math=False)
    axes.tick_params(labelsize=8)
    figure.colorbar(points, ax=axes, shrink=0.75, extend="both").ax.tick_params(labelsize=7)


def _broken(name: str) -> str:
    """Returns a layer's name in two lines, its kind in the second."""
    kind = kind_of(name)
    head = name.removesuffix(kind).rstrip("_")
    return f"{_short(head, 52)}\n{_short(kind, 52)}" if head not in ("", "lora") else _short(name, 52)


def _short(text: str, most: int) -> str:
    """Returns text out of a file as a label: printable, its middle left out where it is too long."""
    text = printable(text[: 2 * most] + text[-2 * most :] if len(text) > 4 * most else text)
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"
