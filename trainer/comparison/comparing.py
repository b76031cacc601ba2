"""A comparison from its cells to its page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import loop
from ..base import precision
from ..embedders import lite0
from ..evaluation import asking, networks, photos
from ..evaluation.asking import Asked
from ..evaluation.evaluating import checked
from ..evaluation.networks import Networks
from ..job.schema import Job
from ..pictures import images
from ..run import state
from ..system.console import say
from ..system.files import write_atomically
from . import cautions, cells, choice, doing, plots, sheet, summary, verdict, workers, workqueue
from .cells import Cell
from .contestants import Contestant
from .doing import Place
from .page import columns as page_columns
from .page import page, shown_prompts


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        job: what all share.
        contestants: who is compared.
        cells: every training.
        out: folder of the comparison.
        allow_download: whether networks may be fetched.
    """

    job: Job
    contestants: Sequence[Contestant]
    cells: Sequence[Cell]
    out: Path
    allow_download: bool = False

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.out)


def grounded(every: Sequence[Cell]) -> list[Cell]:
    """Returns the cells, each with a digest of its base's weights, its pictures and their captions.

    Raises:
        UserError: the base or pictures are not there.
    """
    found: dict[str, str] = {}
    for cell in every:
        if cell.subject not in found:
            ready = checked(cell.job)
            parts = [(one.digest, one.caption.plain(), one.mask_digest) for one in (*ready.pictures, *ready.validation)]
            held = json.dumps([ready.facts.identity, len(ready.validation), parts])
            found[cell.subject] = hashlib.sha256(held.encode()).hexdigest()
    return [replace(cell, material=found[cell.subject]) for cell in every]


def compare(
    request: Request, arguments: Sequence[str], count: int, cluster: Sequence[str], page_only: bool = False
) -> int:
    """Does every cell that is missing and writes the page; returns 1 where a cell failed, else 0.

    Args:
        request: what is wanted.
        arguments: of the command line, for workers.
        count: of workers; 0 = this process alone.
        cluster: submitit's settings; none = workers on this machine.
        page_only: do no cell.

    Raises:
        UserError: a network is missing; nothing was trained.
    """
    found = networks.find(request.job.evaluation, request.allow_download)
    request.out.mkdir(parents=True, exist_ok=True)
    if not page_only:
        if count or cluster:
            started = (
                workers.on_cluster(arguments, max(1, count), request.out, cluster)
                if cluster
                else workers.here(arguments, count, request.out)
            )
            workers.wait(started)
        workqueue.finish(request.place, request.cells, lambda: load(request, found), loop.run)
    results = gathered(request)
    for path in write(request, results):
        say(f"  {path}")
    for text in (verdict.headline(results), *cautions.warnings(results)):
        say(text)
    return 1 if results.failures else 0


def as_worker(request: Request) -> int:
    """Does what nobody else does, as one of several processes; returns 0."""
    found = networks.find(request.job.evaluation, request.allow_download)
    workqueue.work(request.place, request.cells, lambda: load(request, found), loop.run)
    return 0


def load(request: Request, found: networks.Found) -> Networks:
    """Returns the networks, on the device that the job trains on."""
    return found.load(precision.choose(request.job.train).device)


def gathered(request: Request) -> summary.Results:
    """Returns what the cells' files say."""
    records = {cell.name: doing.read_record(request.place, cell) for cell in request.cells}
    pairs = {cell.name: (cell.subject, cell.seed) for cell in request.cells}
    return summary.gather(records, [one.label for one in request.contestants], pairs)


def write(request: Request, results: summary.Results) -> list[Path]:
    """Writes the page and the table behind it; returns their paths."""
    readies = {cell.subject: checked(cell.job) for cell in reversed(request.cells)}
    questions = {subject: asking.asked(ready.job, ready.pictures) for subject, ready in readies.items()}
    real = {subject: photos.of(ready) for subject, ready in readies.items()}
    shown = [(key, str(value)) for key, value in request.job.evaluation.model_dump().items() if value not in ("", [])]
    shown += [(key, str(value)) for key, value in state.environment().items() if value]
    shown.insert(0, ("base", request.job.model.pretrained_model_name_or_path))
    title = f"{', '.join(results.methods)}: side by side"
    network = Path(request.job.evaluation.image_model).name or lite0.NAME
    text = page(title, results, request.out, questions, shown, real, network)
    return [
        write_atomically(request.out / "comparison.html", text),
        write_atomically(request.out / "comparison.json", json.dumps(table(results), indent=1) + "\n"),
        *pictures(request, results, questions, real),
    ]


def pictures(
    request: Request,
    results: summary.Results,
    questions: Mapping[str, Sequence[Asked]],
    real: Mapping[str, photos.Photos],
) -> list[Path]:
    """Writes the fronts, and each subject's grid, as PNG files; returns their paths."""
    made = []
    if fronts := plots.png(results):
        made.append(write_atomically(request.out / "fronts.png", fronts))
    for subject in results.bases:
        columns = page_columns(subject, verdict.best(results), request.out)
        if len(columns) > 1:
            opened = [photos.opened(one) for one in (*real[subject].trained, *real[subject].held_out)]
            grid = images.png_bytes(sheet.draw(columns, shown_prompts(questions[subject]), opened))
            made.append(write_atomically(request.out / f"grid-{cells.plain(subject)}.png", grid))
    return made


def table(results: summary.Results) -> dict[str, object]:
    """Returns the comparison's table as JSON holds it: no time, no memory, so that the same cells give the same."""
    chosen = {method: choice.best(results, method) for method in results.methods}
    return {
        "headline": verdict.headline(results),
        "methods": results.methods,
        "best": {
            method: {
                "rate": one.rate,
                "step": one.step,
                "figures": {name: [figure.mean, figure.low, figure.high] for name, figure in one.figures.items()},
            }
            for method, one in chosen.items()
            if one
        },
        "differences": {
            plane: [
                {
                    "cost": cost,
                    **{
                        method: [figure.mean, figure.low, figure.high, figure.values] for method, figure in each.items()
                    },
                }
                for cost, each in summary.differences(results, plane)
            ]
            for plane in summary.PLANES
        },
        "failures": results.failures,
        "missing": results.missing,
    }
