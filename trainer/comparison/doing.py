"""One cell: trained, drawn, measured, and written as one file that nobody makes twice."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..base import precision
from ..evaluation import asking, candidates, photos
from ..evaluation.candidates import Candidate
from ..evaluation.drawing import Painter
from ..evaluation.evaluating import checked
from ..evaluation.networks import Networks
from ..evaluation.scoring import Scorer, Scores
from ..preflight import preflight
from ..preflight.preflight import Ready
from ..result.runlog import Outcome
from ..run import metrics, state
from ..run.runfolder import RunFolder
from ..system.console import forget_peak_memory
from ..system.errors import TrainingStopped
from ..system.files import write_atomically
from ..system.reading import read_bytes, read_json
from .cells import Cell

Train = Callable[[Ready], Outcome]
SIGNALLED = 128  # exit statuses above it are a signal's: Ctrl-C, or SIGTERM


@dataclass(frozen=True)
class Place:
    """Where a comparison lies.

    Attributes:
        out: its folder.
    """

    out: Path

    def record(self, cell: Cell) -> Path:
        """Returns the file of a cell's numbers."""
        return self.out / "cells" / f"{cell.name}.json"

    def pictures(self, cell: Cell) -> Path:
        """Returns the folder of a cell's pictures; the base's are its subject's."""
        return self.out / "pictures" / cell.name

    def base_pictures(self, cell: Cell) -> Path:
        """Returns the folder of the base's pictures of a subject's prompts."""
        return self.out / "pictures" / f"base--{cell.subject}"


def is_done(place: Place, cell: Cell) -> bool:
    """Returns whether a cell was done with this very job, well or not."""
    return read_record(place, cell) is not None


def read_record(place: Place, cell: Cell) -> dict[str, Any] | None:
    """Returns a cell's numbers; None where there are none, or of another job."""
    try:
        found = read_json(place.record(cell))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("digest") == cell.digest else None


def do(place: Place, cell: Cell, networks: Networks, train: Train) -> dict[str, Any]:
    """Trains, draws and measures one cell; returns its numbers, which are written.

    Raises:
        UserError, WaveFTError: its job cannot be run.
        TrainingStopped: it stopped before its end.
        KeyboardInterrupt: a signal stopped it; nothing is written, so that the cell is done another time.
    """
    began = time.perf_counter()
    forget_peak_memory(precision.choose(cell.job.train).device)  # another cell's is not this one's
    outcome = train(preflight.check(cell.job))
    if outcome.exit_status > SIGNALLED:  # somebody wants the comparison to end, not this cell to fail
        raise KeyboardInterrupt
    if outcome.exit_status:
        raise TrainingStopped(outcome.warning or "stopped before its end")
    trained = time.perf_counter() - began
    scores = measure(place, cell, networks)
    made = {
        **head(cell),
        "status": "done",
        "train": training(cell, outcome, trained),
        "points": [point(one, found) for one, found in scores.items()],
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_atomically(place.record(cell), json.dumps(made, indent=1) + "\n")
    return made


def failed(place: Place, cell: Cell, why: str) -> dict[str, Any]:
    """Writes that a cell failed, and why; returns it."""
    made = {**head(cell), "status": "failed", "error": why}
    write_atomically(place.record(cell), json.dumps(made, indent=1) + "\n")
    return made


def head(cell: Cell) -> dict[str, Any]:
    """Returns what a cell is."""
    return {
        "subject": cell.subject,
        "method": cell.contestant.label,
        "rate": cell.rate,
        "seed": cell.seed,
        "digest": cell.digest,
        "versions": state.environment(),
    }


def measure(place: Place, cell: Cell, networks: Networks) -> dict[Candidate, Scores]:
    """Returns what the base and the cell's adapters draw, measured."""
    job = cell.job
    ready = checked(job)
    questions = asking.asked(job, ready.pictures)
    shots = asking.shots(job, questions, ready.resolution)
    own, of_base = Painter(ready, place.pictures(cell)), Painter(ready, place.base_pictures(cell))
    before = of_base.pictures(Candidate(0), shots)
    folder = RunFolder(Path(job.save.output_dir), job.save.output_name)
    scorer = Scorer(job.evaluation, networks, photos.of(ready), questions, place.out / "embeddings" / cell.subject)
    found = {Candidate(0): scorer.score(before, before)}
    own.share(of_base)  # one base is enough for both
    for one in candidates.of_run(folder, (1.0,), ready.steps)[1:]:
        found[one] = scorer.score(own.pictures(one, shots), before)
    return found


def training(cell: Cell, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Returns what the training cost."""
    folder = RunFolder(Path(cell.job.save.output_dir), cell.job.save.output_name)
    rows = [row for row in map(metrics.parsed, read_bytes(folder.metrics, metrics.LARGEST_LOG).splitlines()) if row]
    clock = [row["seconds"] for row in rows if row.get("seconds") is not None]
    steps = [after - before for before, after in pairwise(clock)]  # the first step warms up, and is left out
    return {
        "steps": outcome.steps,
        "seconds": round(seconds, 2),
        "seconds_per_step": round(statistics.median(steps), 4) if steps else None,
        "peak_memory": outcome.peak_memory,
        "file_bytes": folder.adapter.stat().st_size if folder.adapter.is_file() else None,
        "parameters": outcome.parameters,
        "loss": [row["loss"] for row in rows if row.get("loss") is not None][-1:],
        "validation": candidates.validation_losses(folder),
    }


def point(one: Candidate, scores: Scores) -> dict[str, Any]:
    """Returns a step's numbers, each picture's own: what is paired later."""
    columns = {
        name: {f"{key[0]}/{key[1]}": round(value, 6) for key, value in column.items()}
        for name, column in scores.columns.items()
    }
    return {"step": one.step, "cmmd": scores.cmmd, "columns": columns, "adapter": one.digest}


def numbers(made: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record without what differs between two machines that did the same: times, memory and versions."""
    kept = {key: value for key, value in made.items() if key not in ("versions", "seconds", "train")}
    return kept | {"parameters": made.get("train", {}).get("parameters")}
