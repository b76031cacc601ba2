"""Everything that can be known of a job before torch is imported, and the checked job that the rest works from.

First the job's keys, paths and files' headers, all faults together (`read`, `job_faults`); then pictures and captions
(`check`). What only the device and the loaded base can tell comes later, in `setup`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ..base import modelcheck
from ..base.modelfacts import ModelFacts
from ..job import config, optimcheck
from ..job.dataschema import Buckets, inherited
from ..job.schema import Job
from ..pictures import dataset
from ..pictures.dataset import Picture
from ..pictures.plan import Plan
from ..run.runfolder import RunFolder
from ..system.errors import UserError
from . import jobcheck, trial

SDXL_RESOLUTION = 1024  # px, where no config says otherwise
SDXL_MULTIPLE = 32  # px: the VAE's 8 times the UNet's 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ready:
    """A job that was checked, with what the checks found.

    Attributes:
        job: as given, paths absolute.
        pictures: each that is trained, once.
        validation: those that never are.
        resolution: (width, height) px, of the first dataset.
        multiple: px, of which every size must be a multiple.
        facts: what the base's files say of it.
        world_size: processes that share the run.
        notices: what is no fault but may surprise.
        home: folder of the job's file.
    """

    job: Job
    pictures: tuple[Picture, ...]
    validation: tuple[Picture, ...]
    resolution: tuple[int, int]
    multiple: int
    facts: ModelFacts = field(default_factory=ModelFacts)
    world_size: int = 1
    notices: tuple[str, ...] = ()
    home: Path = Path()

    @cached_property
    def plan(self) -> Plan:
        """Which pictures are seen when."""
        return Plan(self.pictures, self.batch_size, self.job.train.seed)

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole run; whole epochs end in the step in which their last batch falls."""
        epochs = self.job.train.max_train_epochs
        if not epochs:
            return self.job.train.max_train_steps
        return max(1, -(-self.plan.batches(epochs) // self.batches_per_step))

    @property
    def batches_per_step(self) -> int:
        """Batches of all processes for one optimizer step."""
        return self.job.train.gradient_accumulation_steps * self.world_size

    @cached_property
    def pictures_per_step(self) -> int:
        """Pictures seen for one optimizer step: with datasets of several batch sizes, about so many."""
        sizes = {self.batch_size(picture.dataset) for picture in self.pictures}
        if len(sizes) == 1:
            return sizes.pop() * self.batches_per_step
        return max(1, round(sum(len(self.plan.batch(number)) for number in range(100)) / 100 * self.batches_per_step))

    @property
    def epoch_length(self) -> int:
        """Pictures seen in one epoch, repeats and regularisation pictures among them."""
        return self.plan.views

    @property
    def folder(self) -> RunFolder:
        """The run's files."""
        return RunFolder(Path(self.job.save.output_dir), self.job.save.output_name)

    @property
    def cache_folder(self) -> Path:
        """Where what is encoded is kept for the next run, if the job asks for it."""
        return Path(self.job.cache.cache_dir or Path(self.job.save.output_dir) / "cache")

    def batch_size(self, number: int) -> int:
        """Returns how many pictures of a dataset are seen at a time."""
        return inherited(Buckets, self.job.datasets[number], self.job.general)["batch_size"]


def read(path: Path, overrides: Iterable[str] = ()) -> Job:
    """Returns the job of a file.

    Raises:
        UserError: with every fault of its keys and, where it has any, those of what it names too.
    """
    job, problems = config.read(path, overrides)
    if job is None or problems:
        # the sections that have a fault are not complete: what they lack may look like another one
        faulty = tuple(tag for text in problems for tag in re.findall(r": (\[+\w+)", text))
        more = job_faults(job)[1] if job else []
        raise UserError([*problems, *(text for text in more if not text.startswith(faulty))])
    return job


def job_faults(job: Job, resume: Path | None = None) -> tuple[ModelFacts, list[str]]:
    """Returns what the base's files say, and the faults that can be known before pictures are opened."""
    facts, problems = modelcheck.check(job.model)
    resolution, multiple = sizes(job, facts)
    return facts, [*problems, *jobcheck.faults(job, facts, resolution, multiple, resume is not None)]


def sizes(job: Job, facts: ModelFacts) -> tuple[tuple[int, int], int]:
    """Returns the first dataset's resolution (width, height), and of what it must be a multiple, px."""
    given = inherited(Buckets, job.datasets[0], job.general)["resolution"] or facts.resolution or SDXL_RESOLUTION
    return (given, given) if isinstance(given, int) else tuple(given), facts.multiple or SDXL_MULTIPLE


def check(job: Job, resume: Path | None = None, progress: Progress | None = None, home: Path | None = None) -> Ready:
    """Returns the job ready to run.

    Args:
        job: as `config.load` gives it.
        resume: the state that the run goes on from, if it does: its files are then meant to be there.
        progress: called with how many pictures were opened, and how many there are.
        home: folder of the job's file; None = the one that the process is in.

    Raises:
        UserError: with every fault of paths and headers or, where there is none but files of an earlier run, of those,
            pictures and captions.
    """
    facts, problems = job_faults(job, resume)
    if problems and problems != jobcheck.existing_faults(job, resume is not None):
        raise UserError(problems)
    resolution, multiple = sizes(job, facts)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    ready = Ready(job, (), (), resolution, multiple, facts, world_size, home=home or Path.cwd())
    try:
        ready = again(ready, progress)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    if problems:
        raise UserError(problems)
    return ready


def again(ready: Ready, progress: Progress | None = None) -> Ready:
    """Returns the checked job with its pictures as they are in their folders now.

    Raises:
        UserError: with every fault of pictures and captions.
    """
    job, own = ready.job, ready.facts.resolution or SDXL_RESOLUTION
    found = dataset.scan(job, own, ready.multiple, progress)
    if found.problems:
        raise UserError(found.problems)
    ready = replace(ready, pictures=tuple(found.train), validation=tuple(found.validation))
    faults = optimcheck.length_faults(job.optimizer, ready.steps) if job.train.max_train_epochs else []
    if faults := faults or trial.faults(job, ready.facts, ready.steps):
        raise UserError(faults)
    notices = (
        *found.notices,
        *trigger_notice(ready),
        *jobcheck.notices(job),
        *optimcheck.notices(job.optimizer),
        *trial.long_captions(job, ready.pictures),
    )
    return replace(ready, notices=notices)


def trigger_notice(ready: Ready) -> list[str]:
    """Returns that the trigger phrase is in no caption, where it is in none."""
    trigger = ready.job.metadata.trigger_phrase
    if not trigger or any(
        trigger in line for one in ready.pictures for line in (one.caption.plain(), *one.caption.lines)
    ):
        return []
    return [f'the trigger phrase "{trigger}" is in no caption: write it or {{trigger}} there, or in caption_prefix']
