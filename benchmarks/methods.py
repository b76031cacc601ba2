"""What docs/compare.md shows, from the means of its trainings: eight methods on the nano base.

    python -m benchmarks.methods                          the tables, and what `compare` says of them
    python -m benchmarks.methods --page docs/compare.md --plot docs/compare-fronts.png       the page's own, anew
    python -m benchmarks.methods --add runs/methods       first take in the cells of a comparison's folder

A line of benchmarks/results/methods.jsonl is a training's means, or with the method "base" a subject's before any.  The
figures, the ranking and the plot are `trainer.comparison`'s own, made of these means as they are of cells.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.comparison import cautions, choice, plots, summary, verdict
from trainer.comparison.summary import Results
from trainer.evaluation.columns import shown
from trainer.system.files import write_atomically

from .__main__ import ROOT, refreshed
from .measure import table

ROWS = ROOT / "benchmarks" / "results" / "methods.jsonl"
METHODS = {
    "waveft": "WaveFT", "shira": "SHiRA", "lora:1": "LoRA rank 1", "loha:1": "LoHa", "lokr:6": "LoKr",
    "adalora:1": "AdaLoRA", "vera:106": "VeRA", "fourierft:205": "FourierFT",
}  # fmt: skip
SIZES = {  # as many numbers as LoRA rank 1 times this
    "0.1": ("waveft:20", "shira:20", ""),
    "0.3": ("waveft:62", "shira:62", ""),
    "1": ("waveft", "shira", "lora:1"),
    "3": ("waveft:615", "shira:615", "lora:3"),
}
SIZED = ("backpack", "dog", "red_cartoon", "robot", "teapot")  # subjects of which sizes were tried
SIZED_METHODS = ("WaveFT", "SHiRA", "LoRA")
DRIFTS = (0.15, 0.2, 0.25)
HEAD = ("subject", "method", "rate", "seed", "step")
SHOWN = {"held_out": 3, "trained": 3, "prompt": 2, "drift": 3}  # measures of the table, and their digits

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Returns the lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def lines_of(cell: Row) -> list[Row]:
    """Returns the lines that a cell's file comes to: its base's, and one for each step; none of a cell that failed."""
    found = []
    for point in cell.get("points", ()):
        is_base = point["step"] == 0
        own = {"method": "base", "rate": None} if is_base else {"method": cell["method"], "rate": cell["rate"]}
        means = {
            name: round(statistics.fmean(column.values()), 4)
            for name, column in point["columns"].items()
            if column and (is_base or name != "plain_apart")  # the base's alone is room for drift
        }
        found.append({"subject": cell["subject"], **own, "seed": cell["seed"], "step": point["step"], **means})
    return found


def added(rows: Sequence[Row], cells: Iterable[Row]) -> list[Row]:
    """Returns the lines, and behind them those of cells that they lack; a subject's base is there once.

    Raises:
        SystemExit: a cell's base is not the one that its subject's other lines rest on.
    """
    made = list(rows)
    known = {key(row) for row in rows}
    bases = {row["subject"]: row for row in rows if row["method"] == "base"}
    for cell in cells:
        for row in lines_of(cell):
            held = bases.setdefault(row["subject"], row) if row["method"] == "base" else row
            if {**held, "seed": 0} != {**row, "seed": 0}:
                raise SystemExit(f"{row['subject']}, seed {row['seed']}: drawn by another base than its other lines.")
            if held is row and key(row) not in known:
                known.add(key(row))
                made.append(row)
    return made


def key(row: Row) -> tuple[Any, ...]:
    """Returns what a line is of."""
    return tuple(row[name] or 0 for name in HEAD)


def gathered(rows: Sequence[Row], methods: Iterable[str]) -> Results:
    """Returns the results of the rates that every subject and seed has, as `compare` gathers them from cells."""
    bases = {row["subject"]: row for row in rows if row["method"] == "base"}
    labels = list(methods)
    trained = [row for row in rows if row["method"] in labels]
    pairs: dict[tuple[str, float], set[tuple[str, int]]] = {}
    for row in trained:
        pairs.setdefault((row["method"], row["rate"]), set()).add((row["subject"], row["seed"]))
    every = set().union(*pairs.values())
    records = {
        "--".join(str(row[name]) for name in HEAD): {
            **row,
            "status": "done",
            "train": {},
            "points": [point(bases[row["subject"]]), point(row)],
        }
        for row in trained
        if pairs[row["method"], row["rate"]] == every
    }
    return summary.gather(records, labels)


def point(row: Row) -> Row:
    """Returns a line as a cell's file has a step: each mean is a column of one picture."""
    return {"step": row["step"], "columns": {name: {"0/0": mean} for name, mean in row.items() if name not in HEAD}}


def equal_drift(results: Results, head: str, names: Mapping[str, str]) -> str:
    """Returns fidelity less the first method's at equal drift, with how many pairs reach it with both."""
    found = summary.differences(results, "drift", DRIFTS)
    rows = [
        [names[method], *(f"{shown(each[method], 3, True)} of {each[method].values}" for _, each in found)]
        for method in results.methods[1:]
    ]
    return table([head, *(f"at drift {drift:.2f}" for drift in DRIFTS)], rows)


def at_best(results: Results) -> str:
    """Returns each method at its best, the base first."""
    bases = list(results.bases.values())
    base = [f"{statistics.fmean(one[name] for one in bases):.{digits}f}" for name, digits in SHOWN.items()]
    rows = [["base", "", *base]]
    for one in verdict.best(results):
        figures = [shown(one.figures[name], digits) for name, digits in SHOWN.items()]
        rows.append([METHODS[one.method], f"{one.rate:g}", *figures])
    return table(["", "learning rate", "similarity, held-out", "similarity, trained", "prompt score", "drift"], rows)


def ranked(results: Results) -> str:
    """Returns the ranking, each subject at the learning rate that the others chose."""
    found = choice.ranking(results)
    rows = []
    for one in found:
        rates = " or ".join(f"{rate:g}" for rate in sorted({rate for rate, _ in one.settings.values()}))
        less = "" if one is found[0] else shown(one.behind, 3, True)
        own = choice.best(results, one.method)
        every = [choice.worth(results, point) for point in results.points if point.method == one.method]
        best, mean = f"{own.worth if own else 0:.3f}", f"{statistics.fmean(every):.3f}"
        rows.append([METHODS[one.method], rates, shown(one.score), less, best, mean])
    head = ["method", "learning rate", "score", "less the first's", "at its own best", "mean of its rates"]
    return table(head, rows)


def sizes(rows: Sequence[Row]) -> str:
    """Returns similarity at drift for each size and rate, and each size beside WaveFT's own at equal drift."""
    own = [row for row in rows if row["subject"] in SIZED]
    made: list[list[str]] = []
    names: dict[str, str] = {}
    for size, methods in SIZES.items():
        of_size = [gathered(own, [method]) for method in methods]
        said = [", ".join(means(one, rate) for rate in sorted(one.rates.get(one.methods[0], ()))) for one in of_size]
        made.append([size, *(text or "no such rank" for text in said)])
        names |= {method: f"{name}, {size}" for name, method in zip(SIZED_METHODS, methods, strict=True) if method}
    results = gathered(own, ["waveft", *(method for method in names if method != "waveft")])
    beside = equal_drift(results, "less WaveFT at size 1", names)
    return "\n\n".join([table(["numbers", *SIZED_METHODS], made), beside])


def means(results: Results, rate: float) -> str:
    """Returns a rate's mean similarity and drift."""
    held = [one.values for one in results.points if one.rate == rate]
    return " at ".join(f"{statistics.fmean(one[name] for one in held):.3f}" for name in ("held_out", "drift"))


def report(rows: Sequence[Row]) -> str:
    """Returns all of it as Markdown: the sentence that heads it, the tables, and what is to be known before."""
    results = gathered(rows, METHODS)
    tables = ranked(results), equal_drift(results, "less WaveFT", METHODS), at_best(results), sizes(rows)
    return "\n\n".join([verdict.headline(results), *tables, *verdict.verdict(results), *cautions.warnings(results)])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, default=ROWS, help="the means")
    parser.add_argument("--add", type=Path, metavar="DIR", help="a comparison's folder, whose cells the rows lack")
    parser.add_argument("--page", type=Path, help="whose tables are made anew")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the fronts here")
    options = parser.parse_args(argv)
    rows = read(options.rows) if options.rows.exists() else []
    if options.add:
        cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(options.add.glob("cells/*.json"))]
        rows = added(rows, cells)
        write_atomically(options.rows, "".join(json.dumps(row) + "\n" for row in rows))
    text = report(rows)
    print(text)
    if options.page:
        page, _ = refreshed(options.page.read_text(encoding="utf-8"), text)
        options.page.write_text(page, encoding="utf-8")
    if options.plot:
        options.plot.write_bytes(plots.png(gathered(rows, METHODS)))


if __name__ == "__main__":
    main()
