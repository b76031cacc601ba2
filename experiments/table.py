"""Tables of methods tuned beside a head: rates chosen on the validation part, medians over seeds, on the test part."""

from __future__ import annotations

import argparse
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.system.errors import UserError

from . import plots
from .experiment import Cell, Result
from .scores import best_epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEDS = (7, 77, 777, 7777, 77777)  # FourierFT's
# What plots call the rows: the paper's short names say too little alone.
WORDS = {"LP": "head alone", "full": "all weights", "Adapter": "Adapter, width"}
WORDS |= {name: f"{name}, rank" for name in ("LoRA", "AdaLoRA")}


def cells(
    task: str, settings: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> list[Cell]:
    """Returns a cell a method, rate and seed.

    Args:
        task: its name.
        settings: what all cells share.
        methods: label -> `method`, `network`, and `rates` to try.
        seeds: of the runs.
    """
    return [
        Cell(
            f"{task}--{label.replace(' ', '-')}--{rate:g}--{seed}",
            {**settings, "task": task, "label": label, **method_of(one), "rate": rate, "seed": seed},
        )
        for seed in seeds
        for label, one in methods.items()
        for rate in one["rates"]
    ]


def options(parser: argparse.ArgumentParser, full: Mapping[str, Any], small: Mapping[str, Any]) -> None:
    """Adds which methods are tuned, and at which rates."""
    names = f"some of {', '.join(full)}; small: of {', '.join(small)}"
    parser.add_argument("--methods", default="", metavar="NAMES", help=names)
    parser.add_argument(
        "--rates", default="", metavar="LIST", help='of some of them, "WaveFT=1e-3,3e-3;LoRA 1=1e-2": those alone'
    )


def picked(methods: Mapping[str, Mapping[str, Any]], names: str, rates: str = "") -> dict[str, Mapping[str, Any]]:
    """Returns the methods of a command line, all of them where none is named, at its rates where it has any.

    Raises:
        UserError: a name is none of theirs, or a rate no number.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(methods)
    own: dict[str, list[float]] = {}
    for part in filter(str.strip, rates.split(";")):
        name, _, numbers = part.partition("=")
        try:
            own[name.strip()] = [float(number) for number in numbers.split(",")]
        except ValueError:
            raise UserError(f'--rates: expected NAME=RATE,... with ";" between methods, got {part.strip()}.') from None
    for option, held in (("--methods", wanted), ("--rates", list(own))):
        if unknown := [name for name in held if name not in methods]:
            raise UserError(f"{option}: expected some of {', '.join(methods)}, got {unknown[0]}.")
    return {name: {**methods[name], "rates": own.get(name, methods[name]["rates"])} for name in wanted}


def method_of(one: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a method's settings without the rates that are tried."""
    return {key: value for key, value in one.items() if key != "rates"}


def summary(results: Mapping[str, tuple[Cell, Result]], select: str) -> dict[str, Any]:
    """Returns for each task and method its median on the test part, at the rate that is best on the validation part.

    Args:
        results: by the cells' names.
        select: "valid" = the epoch is chosen on the validation part, and scored on the test part; "last" = the last.
    """
    tasks: dict[str, dict[str, Any]] = {}
    for cell, result in results.values():
        held = cell.settings
        rows = tasks.setdefault(held["task"], {}).setdefault(held["label"], {})
        rows.setdefault(held["rate"], []).append({"seed": held["seed"], **result})
    return {
        "select": select,
        "tasks": {
            task: {label: chosen(rates, select) for label, rates in methods.items()} for task, methods in tasks.items()
        },
    }


def chosen(rates: Mapping[float, Sequence[Mapping[str, Any]]], select: str) -> dict[str, Any]:
    """Returns the best rate's runs: their median and each one's score."""

    def epoch(run: Mapping[str, Any]) -> int:
        return best_epoch(run["valid"]) if select == "valid" else len(run["valid"]) - 1

    rate = max(rates, key=lambda one: statistics.median(run["valid"][epoch(run)] for run in rates[one]))
    runs = sorted(rates[rate], key=lambda run: run["seed"])
    scores = [run["test"][epoch(run)] for run in runs]
    return {
        "rate": rate,
        "rates": sorted(rates),
        "at_edge": len(rates) > 1 and rate in (min(rates), max(rates)),
        "parameters": runs[0]["parameters"],
        "scores": scores,
        "median": statistics.median(scores),
        "deviation": round(statistics.stdev(scores), 5) if len(scores) > 1 else None,
        "best_of_test": statistics.median(max(run["test"]) for run in runs),
        "last": statistics.median(run["test"][-1] for run in runs),
    }


def lines(made: Mapping[str, Any]) -> list[str]:
    """Returns a line a task and method."""
    found = []
    for task, methods in made["tasks"].items():
        for label, one in methods.items():
            edge = ", the edge of what was tried" if one["at_edge"] else ""
            spread = f" +- {100 * one['deviation']:.1f}" if one["deviation"] is not None else ""
            found.append(
                f"{task}, {label}: {100 * one['median']:.1f}{spread} (median of {len(one['scores'])}), "
                f"{one['parameters']:,} numbers, rate {one['rate']:g}{edge}; best epoch on the test part "
                f"{100 * one['best_of_test']:.1f}, last epoch {100 * one['last']:.1f}"
            )
    return found


def draw(made: Mapping[str, Any], figure: Figure, titles: Mapping[str, str], score: str) -> None:
    """Draws every seed's score and their median, a panel a task.

    Args:
        made: the summary.
        figure: drawn on.
        titles: of tasks, where their names do not say enough.
        score: what all are scored by.
    """
    figure.set_size_inches(9, 4)
    panels = figure.subplots(1, len(made["tasks"]), squeeze=False)[0]
    for panel, (task, methods) in zip(panels, made["tasks"].items(), strict=True):
        names = [f"{words(label)} ({one['parameters']:,})" for label, one in methods.items()]
        for place, (label, one) in enumerate(methods.items()):
            colour, own = plots.COLOURS.get(label.split()[0], plots.FAINT), [100 * each for each in one["scores"]]
            panel.plot([min(own), max(own)], [place, place], color=colour, linewidth=1)
            panel.plot(own, [place] * len(own), "o", color=colour, alpha=0.4, markersize=4)
            panel.plot(100 * one["median"], place, "D", color=colour, markersize=6)
            panel.annotate(
                f"{100 * one['median']:.1f}", (100 * one["median"], place), (0, 6), textcoords="offset points",
                fontsize=7, ha="center", color=plots.INK,
            )  # fmt: skip
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.set_ylim(len(names) - 0.4, -0.7)
        plots.tidy(panel, textwrap.fill(titles.get(task, task), 96 // len(made["tasks"])), score)
    hint = "in brackets: numbers that train beside the head; diamond: the median of the seeds, each of which is a dot"
    figure.supxlabel(hint, fontsize=8)


def words(label: str) -> str:
    """Returns what a plot calls a row."""
    name, _, size = label.partition(" ")
    return f"{WORDS.get(name, name)} {size}".strip()
