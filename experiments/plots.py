"""How the experiments' plots look: one colour a method, whatever the plot."""

from __future__ import annotations

from typing import Any

INK, FAINT, GRID = "#22272e", "#94a3b8", "#e5e9f0"
COLOURS = {
    "WaveFT": "#c2410c", "SHiRA": "#2563eb", "LoRA": "#15803d", "FourierFT": "#8b3fa8", "full": "#5a6472",
    "LP": "#a3912a", "BitFit": "#2a97a3", "AdaLoRA": "#7a4a2a", "VeRA": "#c23b6b", "LoHa": "#475569", "LoKr": "#94a3b8",
}  # fmt: skip
NAMES = {  # of the job's methods
    "waveft": "WaveFT", "shira": "SHiRA", "lora": "LoRA", "fourierft": "FourierFT", "adalora": "AdaLoRA",
    "vera": "VeRA", "loha": "LoHa", "lokr": "LoKr",
}  # fmt: skip
SERIES = ("#c2410c", "#2563eb", "#15803d", "#8b3fa8", "#a3912a", "#2a97a3", "#7a4a2a", "#c23b6b", "#5a6472", "#22272e")


def tidy(panel: Any, title: str, x: str = "", y: str = "") -> None:
    """Gives a panel its titles, and takes away what is no data."""
    panel.set_title(title, fontsize=9, loc="left", color=INK)
    panel.set_xlabel(x, fontsize=8)
    panel.set_ylabel(y, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)


def bars(panel: Any, rows: dict[str, tuple[float, float, float]], colours: dict[str, str] | None = None) -> None:
    """Draws a horizontal bar a row, with its interval as a line: name -> (middle, low, high)."""
    held = colours or COLOURS
    for place, (name, (middle, low, high)) in enumerate(reversed(rows.items())):
        panel.barh(place, middle, height=0.62, color=held.get(name.split()[0], FAINT), alpha=0.85)
        panel.plot([low, high], [place, place], color=INK, linewidth=1, marker="|", markersize=7)
        panel.text(max(middle, high), place, f" {middle:.3g}", va="center", fontsize=7, color=INK)
    panel.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=7)
