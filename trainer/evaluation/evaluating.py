"""An evaluation from its beginning to its page: every stage finds what an interrupted one left."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base import modelcheck, precision
from ..job.schema import Job
from ..pictures import dataset
from ..preflight import preflight
from ..preflight.preflight import Ready
from ..run import state
from ..run.runfolder import RunFolder
from ..samples import prompts, sampling
from ..system.console import counter, say
from ..system.errors import UserError
from ..system.files import write_atomically
from . import asking, candidates, networks, photos, recommend, table
from .asking import Asked, Key
from .candidates import Candidate
from .columns import figure
from .drawing import Painter
from .page import Evaluated, headline, page
from .scoring import Scorer, Scores


@dataclass(frozen=True)
class Request:
    """What is wanted.

    Attributes:
        job: of the run, paths absolute.
        folder: of the run.
        strengths: that adapters are applied at.
        steps: to look at; () = all.
        samples_only: measure what the run drew, and draw nothing.
        allow_download: whether networks may be fetched.
    """

    job: Job
    folder: RunFolder
    strengths: tuple[float, ...] = (1.0,)
    steps: tuple[int, ...] = ()
    samples_only: bool = False
    allow_download: bool = False

    @property
    def place(self) -> Path:
        """Where pictures and embeddings are kept."""
        return self.folder.output("-evaluation")


Pictures = dict[Candidate, dict[Key, Path]]


def evaluate(request: Request) -> list[Path]:
    """Draws, measures, says and writes; returns the files that were written.

    Raises:
        UserError: something is missing; nothing was drawn.
        TrainingStopped: a picture came out not finite.
    """
    found = networks.find(request.job.evaluation, request.allow_download)
    ready = checked(request.job)
    real = photos.of(ready)
    questions, pictures = sampled(request, ready) if request.samples_only else drawn(request, ready)
    seeing = found.load(precision.choose(request.job.train).device)
    say(f"measuring with {seeing.images.name}" + (f" and {seeing.clip.pictures.name}" if seeing.clip else ""))
    scorer = Scorer(request.job.evaluation, seeing, real, questions, request.place / "embeddings")
    base = next((files for one, files in pictures.items() if one.path is None), {})
    scores = {one: scorer.score(files, base) for one, files in pictures.items()}
    interval = request.job.evaluation.interval
    made = Evaluated(
        request.folder.name,
        scores,
        pictures,
        questions,
        real,
        scorer.subject,
        seeing,
        interval,
        recommend.advise(scores, scorer.subject, real, interval),
        notes(request),
        settings(request, seeing),
    )
    tell(made)
    return write(made, request)


def checked(job: Job) -> Ready:
    """Returns the job with its pictures as they are now; what only a training needs is not asked for.

    Raises:
        UserError: the base or the pictures are not there.
    """
    facts, problems = modelcheck.check(job.model)
    if problems:
        raise UserError(problems)
    resolution, multiple = preflight.sizes(job, facts)
    found = dataset.scan(job, facts.resolution or preflight.SDXL_RESOLUTION, multiple, counter("checking pictures"))
    if found.problems:
        raise UserError(found.problems)
    return Ready(job, tuple(found.train), tuple(found.validation), resolution, multiple, facts)


def drawn(request: Request, ready: Ready) -> tuple[list[Asked], Pictures]:
    """Returns the prompts, and each candidate's pictures of them."""
    every = candidates.of_run(request.folder, request.strengths, ready.steps)
    if request.steps:
        chosen = [one for one in every if one.path is None or one.step in request.steps]
        if len(chosen) < 2:
            there = ", ".join(str(step) for step in sorted({one.step for one in every if one.step}))
            raise UserError(f"--steps {','.join(map(str, request.steps))}: expected some of {there}, got none of them.")
        every = chosen
    questions = asking.asked(request.job, ready.pictures)
    shots = asking.shots(request.job, questions, ready.resolution)
    painter = Painter(ready, request.place / "pictures", counter("drawing"))
    return questions, {one: painter.pictures(one, shots) for one in every}


def sampled(request: Request, ready: Ready) -> tuple[list[Asked], Pictures]:
    """Returns the run's own sample prompts, and the samples of each moment; those before the training are the base's.

    Raises:
        UserError: the run drew none, or none before the training.
    """
    job, folder = request.job, request.folder
    shots = prompts.shots(job, ready.resolution)
    moments = sampling.found(shots, folder.samples, folder.name)
    if sampling.BEFORE not in moments or len(moments) < 2:
        raise UserError(
            f'samples "{folder.samples}": expected some from before the training and from later, got '
            f"{', '.join(moments) or 'none'}. Leave --samples-only out, or train with [sample] prompts."
        )
    phrase = asking.trigger(job, ready.pictures)
    word = asking.with_article(asking.class_word(job, phrase))
    said = {"full": phrase, "class": word, "without_trigger": ""}[job.evaluation.prompt_text]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(shot.prompt for shot in shots))}
    questions = [
        Asked(number, text, asking.read_as(text, phrase, said), bool(phrase) and phrase not in text)
        for text, number in numbers.items()
    ]
    keys = [(numbers[shot.prompt], shot.seed) for shot in shots]
    last = candidates.steps_done(folder) or ready.steps
    return questions, {moment_of(name, last): dict(zip(keys, files, strict=True)) for name, files in moments.items()}


def moment_of(name: str, last: int) -> Candidate:
    """Returns the candidate that a moment of the run was; its file is not looked at."""
    if name == sampling.BEFORE:
        return Candidate(0)
    found = sampling.STEP.fullmatch(name)
    return Candidate(int(found[1]) if found else last, 1.0, Path(name))


def notes(request: Request) -> list[str]:
    """Returns what the run's own log says of its steps."""
    losses = candidates.validation_losses(request.folder)
    if not losses:
        return []
    step, loss = min(losses, key=lambda one: one[1])
    return [f"Its loss on the held-out photos was least after step {step} ({loss:.4f}); a loss sees no pictures."]


def settings(request: Request, seeing: networks.Networks) -> list[tuple[str, str]]:
    """Returns what the numbers depend on: definitions, networks, versions."""
    chosen = request.job.evaluation.model_dump()
    rows = [(key, str(value)) for key, value in chosen.items() if value not in ("", [])]
    rows.append(("image network", seeing.images.identity))
    if seeing.clip:
        rows.append(("CLIP", seeing.clip.pictures.identity))
    return rows + [(key, str(value)) for key, value in state.environment().items() if value]


def tell(made: Evaluated) -> None:
    """Prints the measures and the advice."""
    for line in table.lines(table.head(made.found, made.networks), table.rows(made.found, made.subject, made.interval)):
        say(line)
    say(table.counts(list(made.found.values())[-1]))
    for note in made.notes:
        say(note)
    say(headline(made.advice))
    say(made.advice.reason)


def write(made: Evaluated, request: Request) -> list[Path]:
    """Writes the page and the numbers; returns their paths."""
    numbers = json.dumps(record(made), indent=1, ensure_ascii=False) + "\n"
    return [
        write_atomically(request.folder.output("-evaluation.html"), page(made)),
        write_atomically(request.folder.output("-evaluation.json"), numbers),
    ]


def record(made: Evaluated) -> dict[str, Any]:
    """Returns everything that was measured, as JSON holds it."""
    advised = made.advice.candidate
    return {
        "run": made.name,
        "advice": {
            "verdict": made.advice.verdict,
            "step": advised.step if advised else None,
            "strength": advised.strength if advised else None,
            "reason": made.advice.reason,
        },
        "photos": {
            "trained": len(made.photos.trained),
            "held_out": len(made.photos.held_out),
            "ceilings": made.subject.ceilings,
            "closest_pair": made.subject.closest_pair if len(made.photos.trained) > 1 else None,
        },
        "prompts": [asdict(one) for one in made.questions],
        "settings": dict(made.settings),
        "candidates": [candidate_record(one, scores, made.interval) for one, scores in made.found.items()],
    }


def candidate_record(one: Candidate, scores: Scores, interval: str) -> dict[str, Any]:
    """Returns a candidate's numbers: each measure's mean and interval, and the picture's own."""
    columns: dict[str, Any] = {}
    for name, column in scores.columns.items():
        held = asdict(figure(column, interval))
        rounded = {key: finite(value) for key, value in held.items()}
        columns[name] = rounded | {"each": {f"{key[0]}/{key[1]}": round(value, 6) for key, value in column.items()}}
    return {
        "name": one.name,
        "step": one.step,
        "strength": one.strength,
        "adapter": one.digest,
        "cmmd": scores.cmmd,
        "columns": columns,
    }


def finite(value: float) -> float | None:
    """Returns the number, None for what JSON cannot hold."""
    return value if value == value else None
