"""The cells of a comparison: one training each, as a job of its own. Torch is not imported."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..job import config
from ..job.faults import describe_all
from ..job.jobtext import job_toml
from ..job.networks import METHODS, with_method
from ..job.schema import Job
from ..pictures import folders
from ..system.errors import UserError
from .contestants import Contestant

POINTS = 3  # steps of a run that are measured, unless the job saves at steps of its own
FIRST_LOCATIONS = 777  # the seed of positions of a job that names none


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        subject: what its photographs are called.
        contestant: what is trained.
        rate: learning rate.
        seed: of the run.
        job: all of it, paths absolute.
        material: hexadecimal, of the base's weights and the pictures; "" before anybody looked at them.
    """

    subject: str
    contestant: Contestant
    rate: float
    seed: int
    job: Job
    material: str = ""

    @property
    def name(self) -> str:
        """A file's name for it."""
        return f"{plain(self.subject)}--{self.contestant.name}--{self.rate:g}--{self.seed}"

    @property
    def digest(self) -> str:
        """Of all that its numbers depend on: a cell whose job, base or pictures have changed is another one."""
        text = job_toml(self.job.model_copy(update={"save": self.job.save.model_copy(update={"output_dir": "."})}))
        return hashlib.sha256(f"{self.material}{text}".encode()).hexdigest()[:16]


def plain(text: str) -> str:
    """Returns a text as file names can hold it."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in text)


def subjects(job: Job, folder: Path | None) -> list[tuple[str, Job]]:
    """Returns each subject with its job: the job's own pictures, or a folder's folders, one subject each.

    A folder's name is what its subject is, such as "dog": its trigger is "sks dog", and its class word "dog".

    Raises:
        UserError: the folder holds no folders of pictures.
    """
    if folder is None:
        return [(job.save.output_name, job)]
    if not folder.is_dir():
        raise UserError(f'--subjects "{folder}": {folders.not_a_folder(folder)}')
    found = [inside for inside in folders.folders_in(folder) if folders.image_files(inside)]
    if not found:
        raise UserError(
            f'--subjects "{folder}": expected a folder of pictures for each subject in it, got '
            + (
                "pictures themselves. Put them into a folder inside it that is named after what they show, such as dog."
                if folders.image_files(folder)
                else "none."
            )
        )
    return [(inside.name, of_subject(job, inside)) for inside in found]


def of_subject(job: Job, folder: Path) -> Job:
    """Returns the job with a folder's pictures in the place of its own."""
    word = folder.name.replace("_", " ")
    subset = (
        job.datasets[0]
        .subsets[0]
        .model_copy(update={"image_dir": str(folder), "class_tokens": "{trigger}", "metadata_file": ""})
    )
    return job.model_copy(
        update={
            "datasets": [job.datasets[0].model_copy(update={"subsets": [subset]})],
            "metadata": job.metadata.model_copy(update={"trigger_phrase": f"sks {word}"}),
            "evaluation": job.evaluation.model_copy(update={"class_word": word}),
        }
    )


def grid(
    job: Job, contestants: Sequence[Contestant], seeds: int, folder: Path | None, out: Path, points: int = POINTS
) -> list[Cell]:
    """Returns every cell, ordered so that a comparison that is stopped early has whole seeds.

    Raises:
        UserError: with every key that a method does not take.
    """
    found, problems = [], dict[str, None]()
    every = list(itertools.product(range(seeds), subjects(job, folder), contestants))
    for number, (subject, own), contestant in every:
        for rate in contestant.rates:
            try:
                made = job_of(own, contestant, rate, number, points)
            except ValidationError as error:
                problems |= dict.fromkeys(
                    f"--methods {contestant.label}: {text}" for text in describe_all(error.errors())
                )
                break
            cell = Cell(subject, contestant, rate, job.train.seed + number, made)
            save = made.save.model_copy(update={"output_dir": str(out / "runs" / cell.name)})
            found.append(Cell(subject, contestant, rate, cell.seed, made.model_copy(update={"save": save})))
    if problems:
        raise UserError(list(problems))
    return found


def job_of(job: Job, contestant: Contestant, rate: float, number: int, points: int) -> Job:
    """Returns a cell's job: the method, its rate and seed, and what a comparison needs no run to write.

    Raises:
        ValidationError: the method does not take a key, or not that value.
    """
    table = job.model_dump(exclude_none=True, exclude_unset=True)
    table["network"] = network(table.get("network", {}), contestant, number)
    table.setdefault("optimizer", {})["learning_rate"] = rate
    table.setdefault("train", {})["seed"] = job.train.seed + number
    steps = job.train.max_train_steps
    every = job.save.save_every_n_steps or max(1, steps // points)
    table["save"] = {"output_name": "run", "save_every_n_steps": every, "save_state": False, "overwrite": True}
    table["sample"] = {key: value for key, value in table.get("sample", {}).items() if key not in DRAWN}
    table.pop("logging", None)
    return Job.model_validate(table)


DRAWN = ("prompts", "sample_prompts", "sample_every_n_steps", "sample_every_n_epochs", "sample_at_first")


def network(own: dict[str, Any], contestant: Contestant, number: int) -> dict[str, Any]:
    """Returns [network] of a contestant: what the job says and the method takes too, then the contestant's own.

    Positions are drawn anew for each seed: an interval over seeds is one over draws of positions too.
    """
    table = with_method(own, contestant.method) | dict(contestant.keys)
    if "locations" in METHODS[contestant.method].model_fields:
        kind, _, first = str(table.get("locations", f"uniform:{FIRST_LOCATIONS}")).partition(":")
        table["locations"] = f"{kind}:{int(first) + number}"
    return table


def steps_of(cell: Cell) -> Iterator[int]:
    """Yields the optimizer steps at which a cell's run is measured."""
    total, every = cell.job.train.max_train_steps, cell.job.save.save_every_n_steps
    yield from range(every, total, every)
    yield total


def read(path: Path, overrides: Sequence[str]) -> Job:
    """Returns a comparison's job.

    Raises:
        UserError: it cannot be read, or it is measured in epochs.
    """
    job = config.load(path, overrides)
    if job.train.max_train_epochs:
        raise UserError(
            "[train] max_train_epochs: expected max_train_steps, so that all methods are measured at equal steps."
        )
    return job
