"""What the trainer's comparison trains and measures, read as a table of the paper: a row a variant, the base's first.

Every variant is a cell of `waveft compare`: trained from one job with the same draws, drawn and measured by the same
code, its numbers in one file that is made once.
"""

from __future__ import annotations

import argparse
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.comparison import cells, comparing, contestants, doing
from trainer.comparison.cells import Cell
from trainer.comparison.contestants import Contestant
from trainer.comparison.doing import Place
from trainer.comparison.summary import Pair, Point, Results
from trainer.evaluation.columns import BY_NAME, LOWER, Measure
from trainer.job.schema import Job
from trainer.measures.intervals import Figure, bootstrap, paired
from trainer.system.console import say
from trainer.system.files import write_atomically

from . import dreambooths, jobs, plots, running
from .experiment import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

BASE = "base"
LOSS = Measure("loss", "held-out loss", LOWER, "the training's loss on the photos that are never trained", 4)
MEASURES = {**BY_NAME, LOSS.name: LOSS}
SHOWN = (
    "loss",
    "held_out",
    "trained",
    "clip_held_out",
    "prompt",
    "drift",
    "copy",
    "seeds",
    "lpips_distance",
    "paper_div",
)
# What plots call the measures: by what a reader should wish for.
WORDS = {
    "loss": "loss on unseen photos\n(lower is better)",
    "held_out": "likeness to unseen photos\n(higher is better)",
    "trained": "likeness to the photos\n(copies count too)",
    "clip_held_out": "the same, as the CLIP sees it\n(higher is better)",
    "prompt": "agreement with the prompt\n(higher is better)",
    "drift": "change of other pictures\n(lower is better)",
    "seeds": "difference between seeds\n(higher is more diverse)",
}
# What the small form leaves out, so that a cell takes a minute or two.
SMALL = (
    "evaluation.images_per_prompt=2",
    'evaluation.subject_prompts=["{trigger}", "{trigger} on the beach", "{trigger} in the snow"]',
    'evaluation.plain_prompts=["a red cup on a wooden table", "a house in the snow"]',
)
SMALL_P = 205  # the mean over the nano base's layers: LoRA rank 1's budget
FULL_P = 2592
SMALL_RATE, FULL_RATE = 1e-3, 1e-4


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        label: as the table calls it.
        method: of [network].
        keys: of [network].
        rates: learning rates.
        base: another base than the job's own.
        weights: file to start from, which settles the method's keys.
    """

    label: str
    method: str
    keys: Mapping[str, Any]
    rates: tuple[float, ...]
    base: str = ""
    weights: str = ""

    @property
    def contestant(self) -> Contestant:
        """The same as the comparison knows it."""
        return Contestant(self.label, self.method, dict(self.keys), self.rates)


class Compared(Experiment):
    """An experiment whose cells the trainer's comparison makes."""

    SEEDS: ClassVar[int] = 1

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds what is trained on what."""
        jobs.options(parser)
        parser.add_argument(
            "--seeds", type=int, default=self.SEEDS, metavar="N", help=f"runs of each; {self.SEEDS} unless given"
        )
        parser.add_argument("--steps", type=int, metavar="N", help="optimizer steps; 500 unless given, 120 small")

    @abstractmethod
    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns the rows of the table; the first is what the others are compared with."""

    def run(self, options: argparse.Namespace) -> int:
        """Has the comparison do what is missing, and writes table and plot; returns 1 where a cell failed, else 0."""
        every, variants, job = self.plan(options)
        if options.dry_run:
            place = Place(options.out.expanduser().resolve())
            for cell in every:
                say(f"{cell.name}: {'done' if doing.is_done(place, cell) else 'to do'}")
            return 0
        out = options.out.expanduser().resolve()
        request = comparing.Request(job, [one.contestant for one in variants], every, out)
        failed = comparing.compare(request, [], 0, [], options.page_only)
        rows = table(with_losses(comparing.gathered(request), request), variants)
        for line in self.lines(rows):
            say(line)
        say(f"  {write_atomically(out / 'summary.json', json.dumps(rows, indent=1) + chr(10))}")
        if any(row["label"] != BASE for row in rows["rows"]):
            say(f"  {write_atomically(out / f'{self.NAME}.png', running.png(lambda canvas: self.draw(rows, canvas)))}")
        return failed

    def plan(self, options: argparse.Namespace) -> tuple[list[Cell], list[Variant], Job]:
        """Returns every cell, the variants, and the first subject's job."""
        small = jobs.is_small(options)
        if small:
            options = argparse.Namespace(**{**vars(options), "overrides": [*SMALL, *options.overrides]})
        if options.steps:
            options.overrides = [*options.overrides, f"train.max_train_steps={options.steps}"]
        job = jobs.job(options)
        photos = options.photos.expanduser().resolve() if options.photos else None
        every = dreambooths.subjects(job, photos) if photos else [(jobs.DRAWN, job)]
        variants = self.variants(options, every[0][1])
        return grid(every, variants, options.seeds, options.out.expanduser().resolve()), variants, every[0][1]

    def lines(self, rows: Mapping[str, Any]) -> list[str]:
        """Returns a line a row."""
        return words(rows)

    def draw(self, rows: Mapping[str, Any], canvas: Canvas) -> None:
        """Draws every row's measures."""
        dots(rows, canvas)


def grid(every: Sequence[tuple[str, Job]], variants: Sequence[Variant], seeds: int, out: Path) -> list[Cell]:
    """Returns every cell: whole seeds first, then whole subjects."""
    return [
        cell(subject, own, one, rate, number, out)
        for number in range(seeds)
        for subject, own in every
        for one in variants
        for rate in one.rates
    ]


def cell(subject: str, job: Job, one: Variant, rate: float, number: int, out: Path) -> Cell:
    """Returns a variant's cell: the comparison's, on another base or from a file where it says so."""
    made = cells.job_of(job, one.contestant, rate, number, points=1)
    if one.base:
        made = made.model_copy(
            update={"model": made.model.model_copy(update={"pretrained_model_name_or_path": one.base})}
        )
    if one.weights:
        kind = type(made.network)
        kept = {key: getattr(made.network, key) for key in ("method",) if hasattr(made.network, key)}
        made = made.model_copy(update={"network": kind.model_validate({**kept, "network_weights": one.weights})})
    found = Cell(subject, one.contestant, rate, job.train.seed + number, made)
    return replace(found, job=jobs.placed(made, out / "runs" / found.name))


def with_losses(results: Results, request: comparing.Request) -> Results:
    """Returns the same with the loss on the photos that are never trained, where there are any, as one more measure.

    It is taken at fixed times and noises, and so tells two trainings apart where a few drawn pictures cannot.
    """
    last: dict[str, tuple[int, float]] = {}
    bases = {subject: dict(values) for subject, values in results.bases.items()}
    for cell in request.cells:
        record = doing.read_record(request.place, cell)
        losses = record["train"]["validation"] if record and record["status"] == "done" else []
        for step, loss in losses:
            if step == 0 and cell.subject in bases:
                bases[cell.subject].setdefault(LOSS.name, loss)
            last[cell.name] = (step, loss)
    points = [
        replace(point, values={**point.values, LOSS.name: last[point.cell][1]})
        if last.get(point.cell, (-1, 0.0))[0] == point.step
        else point
        for point in results.points
    ]
    return replace(results, points=points, bases=bases)


def table(results: Results, variants: Sequence[Variant]) -> dict[str, Any]:
    """Returns a row for the base and for each variant and rate: means with intervals, and differences from the first.

    Intervals are drawn over subjects where there are several, else over seeds; differences are paired.
    """
    rows: list[dict[str, Any]] = []
    if results.bases:
        drawn = {name: [own[name] for own in results.bases.values() if name in own] for name in SHOWN}
        of_base = {name: told(bootstrap(each)) for name, each in drawn.items() if each}
        rows.append({"label": BASE, "rate": None, "figures": of_base})
    first = next(((one.label, rate) for one in variants for rate in one.rates), None)
    for one in variants:
        for rate in one.rates:
            held, other = last_points(results, one.label, rate), last_points(results, *first) if first else {}
            if not held:
                continue
            figures, differences = {}, {}
            for name in SHOWN:
                own = {pair: point.values[name] for pair, point in held.items() if name in point.values}
                if not own:
                    continue
                groups = {pair: pair[0] if len({subject for subject, _ in own}) > 1 else pair for pair in own}
                figures[name] = told(bootstrap(list(own.values()), list(groups.values())))
                theirs = {pair: point.values[name] for pair, point in other.items() if name in point.values}
                if (one.label, rate) != first and theirs:
                    differences[name] = told(paired(own, theirs, groups))
            costs = [cost for cost in results.costs.get(one.label, []) if cost.get("parameters")]
            rows.append(
                {
                    "label": one.label,
                    "rate": rate,
                    "steps": max(point.step for point in held.values()),
                    "parameters": costs[0]["parameters"] if costs else None,
                    "figures": figures,
                    "differences": differences,
                }
            )
    return {"rows": rows, "failures": dict(results.failures), "missing": list(results.missing)}


def last_points(results: Results, label: str, rate: float) -> dict[Pair, Point]:
    """Returns a variant's trainings at their last step, by subject and seed."""
    found: dict[Pair, Point] = {}
    for point in results.points:
        if (point.method, point.rate) == (label, rate) and point.step >= getattr(found.get(point.pair), "step", 0):
            found[point.pair] = point
    return found


def told(figure: Figure) -> list[float | None]:
    """Returns mean, low and high as JSON has them: no interval of one group alone."""
    return [None if value != value else round(value, 6) for value in (figure.mean, figure.low, figure.high)]


def words(rows: Mapping[str, Any]) -> list[str]:
    """Returns each row in words."""
    found = []
    for row in rows["rows"]:
        name = row["label"] if row["rate"] is None else f"{row['label']} at {row['rate']:g}"
        held = ", ".join(
            f"{measure} {value[0]:.{MEASURES[measure].digits}f}" for measure, value in row["figures"].items()
        )
        found.append(f"{name}: {held}")
    return found


def dots(rows: Mapping[str, Any], canvas: Canvas) -> None:
    """Draws a line of dots a row, a panel a measure; the base is the dotted line, intervals where there are any."""
    measures = measured(rows, (LOSS.name, fidelity(rows), "prompt", "drift"))
    held = [row for row in rows["rows"] if row["label"] != BASE]
    canvas.set_size_inches(9, max(3.0, 1.2 + 0.19 * len(held)))
    several = {row["label"] for row in held if sum(row["label"] == other["label"] for other in held) > 1}
    worst = max((row["figures"][LOSS.name][0] for row in rows["rows"][:1] if LOSS.name in row["figures"]), default=1.0)
    edge = 2 * worst  # a training that went wrong must not hide how the others differ
    names = [f"{row['label']}, {row['rate']:g}" if row["label"] in several else row["label"] for row in held]
    for panel, measure in zip(canvas.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
        for place, row in enumerate(held):
            if measure not in row["figures"]:
                continue
            middle, low, high = row["figures"][measure]
            colour = plots.COLOURS.get(plots.NAMES.get(row["label"].split()[0], ""), plots.INK)
            beyond = measure == LOSS.name and middle > edge
            panel.plot(
                min(middle, edge) if beyond else middle, place, ">" if beyond else "o", color=colour, markersize=4
            )
            if low is not None and high is not None:
                panel.plot([low, high], [place, place], color=colour, linewidth=1)
        base_line(rows, panel.axvline, measure)
        plots.tidy(panel, WORDS.get(measure, measure))
    first = canvas.axes[0]
    first.set_yticks(range(len(names)), names, fontsize=7)
    first.invert_yaxis()
    canvas.supxlabel("dotted: the base, before any training; an arrow: further right", fontsize=7)


def base_line(rows: Mapping[str, Any], draw: Callable[..., Any], measure: str) -> None:
    """Draws the base's measure as a dotted line, by `axvline` or `axhline` of a panel."""
    for row in rows["rows"]:
        if row["label"] == BASE and measure in row["figures"]:
            draw(row["figures"][measure][0], color=plots.FAINT, linestyle=":", linewidth=1.2)


def measured(rows: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Returns those of the measures that any row has."""
    return [name for name in names if any(name in row["figures"] for row in rows["rows"])]


def fidelity(rows: Mapping[str, Any]) -> str:
    """Returns the measure of fidelity that every row has."""
    return "held_out" if all("held_out" in row["figures"] for row in rows["rows"]) else "trained"


def curves(rows: Mapping[str, Any], canvas: Canvas, x: Mapping[str, tuple[str, float]], title: str) -> None:
    """Draws measures over a number of each variant: label -> (its line's name, the number)."""
    measures = measured(rows, (LOSS.name, fidelity(rows), "prompt", "seeds", "drift"))
    canvas.set_size_inches(2.3 * len(measures), 3.6)
    lines = list(dict.fromkeys(name for name, _ in x.values()))
    for panel, measure in zip(canvas.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        for line in lines:
            held = [
                row for row in rows["rows"] if x.get(row["label"], ("", 0))[0] == line and measure in row["figures"]
            ]
            places = [x[row["label"]][1] for row in held]
            middles = [row["figures"][measure][0] for row in held]
            colour = plots.COLOURS.get(line, plots.SERIES[lines.index(line)])
            panel.plot(places, middles, marker=".", color=colour, label=line)
        base_line(rows, panel.axhline, measure)
        plots.tidy(panel, WORDS.get(measure, measure))
    canvas.axes[0].legend(frameon=False, fontsize=7)
    canvas.supxlabel(f"{title}; dotted: the base, before any training", fontsize=7)


def sizes(small: bool) -> tuple[int, float]:
    """Returns p of rank 1's budget and the learning rate of a form."""
    return (SMALL_P, SMALL_RATE) if small else (FULL_P, FULL_RATE)


def default_rates(method: str, keys: Mapping[str, Any], job: Job) -> tuple[float, ...]:
    """Returns the comparison's three rates of a method, which reach about as far as the job's own."""
    own = job.model_dump(exclude_none=True, exclude_unset=True).get("network", {})
    return tuple(contestants.default_rates(method, keys, own, job.optimizer.learning_rate))
