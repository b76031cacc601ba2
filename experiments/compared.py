"""Cells of `waveft compare` as a table of the paper: a row a variant, the base's first.

Each is trained from one job with the same draws, drawn and measured by the same code, its numbers in one file that is
made once.
"""

from __future__ import annotations

import argparse
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer.comparison import cells, comparing, doing
from trainer.comparison.cells import Cell
from trainer.comparison.doing import Place
from trainer.job.schema import Job
from trainer.system.console import say
from trainer.system.files import write_atomically

from . import dreambooths, jobs, panels, running
from .experiment import Experiment
from .rows import BASE, table, with_losses, words
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

# What the small form leaves out, so that a cell takes a minute or two.
SMALL = (
    "evaluation.images_per_prompt=2",
    'evaluation.subject_prompts=["{trigger}", "{trigger} on the beach", "{trigger} in the snow"]',
    'evaluation.plain_prompts=["a red cup on a wooden table", "a house in the snow"]',
)


class Compared(Experiment):
    """An experiment whose cells the trainer's comparison makes."""

    SEEDS: ClassVar[int] = 1
    HINT: ClassVar[str] = ""  # of the plot: what the rows' names say

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
            drawn = running.png(lambda canvas: self.draw(rows, canvas), self.SEE)
            say(f"  {write_atomically(out / f'{self.NAME}.png', drawn)}")
        return failed

    def plan(self, options: argparse.Namespace) -> tuple[list[Cell], list[Variant], Job]:
        """Returns every cell, the variants, and the first subject's job."""
        small = jobs.is_small(options)
        if small:
            options = argparse.Namespace(**{**vars(options), "overrides": [*SMALL, *options.overrides]})
        if options.steps:
            longer = [*options.overrides, f"train.max_train_steps={options.steps}"]
            options = argparse.Namespace(**{**vars(options), "overrides": longer})
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
        panels.dots(rows, canvas, self.HINT)


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
