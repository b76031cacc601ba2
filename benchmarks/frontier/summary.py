"""What the runs say: the frontier of each subject and seed, medians over them, a table and a plot."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from trainer.measures import fronts

DRIFTS = (0.002, 0.0035, 0.005)  # where the tables read the frontiers: most cells have runs on both sides
GRID = np.linspace(0.0004, 0.01, 49)
UNIFORM, GRADIENT = "uniform", "gradient 16"

Cell = tuple[str, float, str]  # wavelet, c, arm
Pair = tuple[str, int]  # subject, seed


def read(path: Path) -> tuple[dict[str, dict], list[dict]]:
    """Returns the base's rows by subject, and the runs' rows."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["base"]: row for row in rows if "base" in row}, [row for row in rows if "base" not in row]


def frontiers(bases: dict[str, dict], rows: list[dict]) -> dict[Cell, dict[Pair, np.ndarray]]:
    """Returns the points of each cell's subjects and seeds: [points, 2], drift and the unseen loss over the base's.

    A run that was measured at 50, 100 and 200 steps gives three points: the learning rate is constant, so that each is
    a training of that length.  The base itself is a point of every frontier.
    """
    points: dict[Cell, dict[Pair, list]] = defaultdict(lambda: defaultdict(lambda: [(0.0, 1.0)]))
    for row in rows:
        base = bases[row["subject"]]
        held = points[row["wavelet"], row["c"], row["arm"]][row["subject"], row["seed"]]
        for fidelity, ordinary in zip(row["fidelity"], row["ordinary"], strict=True):
            held.append((max(0.0, ordinary - base["ordinary"]), fidelity / base["fidelity"]))
    return {cell: {pair: np.array(sorted(held)) for pair, held in pairs.items()} for cell, pairs in points.items()}


def at(points: np.ndarray, drifts: np.ndarray) -> np.ndarray:
    """Returns the lowest loss that a drift buys, NaN where no run drifted as little or as far (`measures.fronts`)."""
    return -fronts.at(points * np.array([1, -1]), drifts)


def common(cells: dict[Cell, dict[Pair, np.ndarray]], wanted: list[Cell]) -> list[Pair]:
    """Returns the subjects and seeds that every one of the cells has."""
    shared = set.intersection(*(set(cells.get(cell, {})) for cell in wanted))
    return sorted(shared)


def curves(cells: dict[Cell, dict[Pair, np.ndarray]], cell: Cell, pairs: list[Pair], drifts: np.ndarray) -> np.ndarray:
    """Returns the frontiers of some subjects and seeds, [pairs, drifts]."""
    return np.array([at(cells[cell][pair], drifts) for pair in pairs])


def table(path: Path, against: str = UNIFORM) -> str:
    """Returns each cell's median, and that of its differences from the cell `against` with their range, as Markdown.

    Differences are taken within a subject and seed, where both arms have runs that drifted less and more.
    """
    bases, rows = read(path)
    cells = frontiers(bases, rows)
    drifts = np.array(DRIFTS)
    lines = ["| basis, c | positions | pairs | " + " | ".join(f"drift {drift}" for drift in DRIFTS) + " |"]
    lines.append("|---" * (3 + len(DRIFTS)) + "|")
    for wavelet, c, arm in sorted(cells, key=lambda cell: (cell[0], cell[1], cell[2] != against, cell[2])):
        pairs = common(cells, [(wavelet, c, against), (wavelet, c, arm)]) if (wavelet, c, against) in cells else []
        if not pairs:
            continue
        own = curves(cells, (wavelet, c, arm), pairs, drifts)
        less = own - curves(cells, (wavelet, c, against), pairs, drifts)
        text = []
        for values, differences in zip(own.T, less.T, strict=True):
            both = differences[np.isfinite(differences)]
            if not len(both):
                text.append("-")
                continue
            said = f"{np.median(values[np.isfinite(differences)]):.3f}"
            if arm != against:
                said += f", {np.median(both):+.3f} ({both.min():+.3f} to {both.max():+.3f})"
            text.append(said + (f" of {len(both)}" if len(both) < len(pairs) else ""))
        lines.append(f"| {wavelet}, {c} | {arm} | {len(pairs)} | " + " | ".join(text) + " |")
    return "\n".join(lines)


def closed(path: Path, wavelet: str = "db1", few: float = 0.1, many: float = 1, arm: str = GRADIENT) -> str:
    """Returns which part of the way from few uniform positions to many the choice goes, at equal drift."""
    bases, rows = read(path)
    cells = frontiers(bases, rows)
    wanted = [(wavelet, few, UNIFORM), (wavelet, few, arm), (wavelet, many, UNIFORM)]
    pairs, drifts = common(cells, wanted), np.array(DRIFTS)
    if not pairs:
        return f"{arm}: no runs"
    low, chosen, high = (curves(cells, cell, pairs, drifts) for cell in wanted)
    said = []
    for column, drift in enumerate(DRIFTS):
        held = np.isfinite(low[:, column] + chosen[:, column] + high[:, column])
        gap, gain = (low - high)[held, column], (low - chosen)[held, column]
        shares = gain / gap
        if held.any():
            quartiles = "{:.0%} to {:.0%}".format(*np.percentile(shares, (25, 75)))
            said.append(f"drift {drift}: {np.median(shares):.0%} (quartiles {quartiles}, {held.sum()} pairs)")
    return f"{wavelet}, {arm}, part of the gap between c = {few} and c = {many}: {'; '.join(said)}"


def painted(path: Path) -> str:
    """Returns what was measured on painted pictures, medians over subjects, as Markdown: a row a cell and rate."""
    bases, rows = read(path)
    groups: dict[tuple[float, str, float], list[dict]] = defaultdict(list)
    for row in rows:
        if "moved" in row:
            groups[row["c"], row["arm"], row["rate"]].append(row)
    lines = ["| c | positions | learning rate | subjects | drift | distance | moved |", "|---" * 7 + "|"]
    for (c, arm, rate), held in sorted(
        groups.items(), key=lambda item: (item[0][0], item[0][2], item[0][1] != UNIFORM)
    ):
        drift = np.median([row["ordinary"][-1] - bases[row["subject"]]["ordinary"] for row in held])
        distance = np.median([row["distance"] / bases[row["subject"]]["distance"] for row in held])
        moved = np.median([row["moved"] for row in held])
        lines.append(f"| {c} | {arm} | {rate} | {len(held)} | {drift:.4f} | {distance:.3f} | {moved:.3f} |")
    return "\n".join(lines)


def report(path: Path) -> str:
    """Returns all tables and the parts of the gap that were closed."""
    gaps = [closed(path, arm=arm) for arm in (GRADIENT, "gradient 64", "across 16", "squares 16")]
    more = [closed(path, few=0.03, many=0.1), closed(path, few=0.03), closed(path, few=0.1, many=0.3)]
    return "\n\n".join([table(path), *gaps, *more, table(path, against=GRADIENT), painted(path)])


def plot(path: Path, picture: Path) -> None:
    """Draws, for each c, the two frontiers above and their differences within a subject and seed below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bases, rows = read(path)
    cells = frontiers(bases, rows)
    counts = sorted({c for wavelet, c, arm in cells if wavelet == "db1" and arm == GRADIENT})
    size = (2.5 * len(counts) + 0.6, 5.2)
    figure, panels = pyplot.subplots(2, len(counts), figsize=size, sharex=True, sharey="row", dpi=110, squeeze=False)
    for (upper, lower), c in zip(panels.T, counts, strict=True):
        pairs = common(cells, [("db1", c, UNIFORM), ("db1", c, GRADIENT)])
        drawn, chosen = (curves(cells, ("db1", c, arm), pairs, GRID) for arm in (UNIFORM, GRADIENT))
        for held, color, style, label in (
            (drawn, "tab:gray", "--", "uniform"),
            (chosen, "tab:blue", "-", "chosen by the gradient"),
        ):
            upper.plot(GRID, np.median(held, axis=0), style, color=color, label=label)
            upper.fill_between(GRID, *np.percentile(held, (25, 75), axis=0), color=color, alpha=0.18, linewidth=0)
        lower.plot(GRID, (chosen - drawn).T, color="tab:blue", alpha=0.3, linewidth=0.8)
        lower.plot(GRID, np.median(chosen - drawn, axis=0), color="tab:blue")
        lower.axhline(0, color="tab:gray", linestyle="--")
        upper.set_title(f"p = {c} (m + n)\n{len(pairs)} subjects x seeds", fontsize=9)
        lower.set_xlabel("drift", fontsize=8)
        for panel in (upper, lower):
            panel.tick_params(labelsize=7)
            panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("loss on unseen pictures, base = 1", fontsize=8)
    panels[1, 0].set_ylabel("chosen - uniform", fontsize=8)
    panels[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture)
    pyplot.close(figure)
