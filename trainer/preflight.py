"""Everything that can be known of a job before torch is imported: all faults together, and what the run will do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from . import captions, dataset, jobtext, modelcheck
from .config import is_hub_id
from .dataset import Picture
from .errors import UserError
from .schema import Job

SDXL_RESOLUTION = 1024  # px, where no config says otherwise
SDXL_MULTIPLE = 32  # px: the VAE's 8 times the UNet's 4
TOO_MUCH_CROPPED, TOO_MUCH_ENLARGED = 0.25, 1.5
MOST_NOTICES = 8  # that are printed; the report has them all


@dataclass(frozen=True)
class Ready:
    """A job that was checked, with what the checks found.

    Attributes:
        job: as given, paths absolute.
        pictures: each picture once.
        resolution: px.
        multiple: px, of which every size must be a multiple.
    """

    job: Job
    pictures: tuple[Picture, ...]
    resolution: int
    multiple: int

    @property
    def epoch(self) -> tuple[Picture, ...]:
        """The pictures of one epoch, each as often as its repeats say."""
        return tuple(picture for picture in self.pictures for _ in range(picture.repeats))

    @property
    def global_batch(self) -> int:
        """Pictures seen for one optimizer step."""
        return self.job.general.batch_size * self.job.train.gradient_accumulation_steps

    @property
    def adapter_path(self) -> Path:
        """The file that the run is for."""
        return self.output(".safetensors")

    def output(self, ending: str) -> Path:
        """Returns the path of a file of this run: output_dir/output_name + ending."""
        return Path(self.job.save.output_dir) / f"{self.job.save.output_name}{ending}"


def check(job: Job) -> Ready:
    """Returns the job ready to run.

    Raises:
        UserError: with every fault of model, pictures, captions, sizes, output and texts.
    """
    facts, problems = modelcheck.check(job.model)
    resolution = job.general.resolution or facts.resolution or SDXL_RESOLUTION
    multiple = facts.multiple or SDXL_MULTIPLE
    pictures, faults = dataset.scan(job, resolution)
    ready = Ready(job, tuple(pictures), resolution, multiple)
    problems += faults + size_faults(ready) + trigger_faults(job) + output_faults(ready)
    problems += jobtext.faults(jobtext.public_job(job, resolution))
    if problems:
        raise UserError(problems)
    return ready


def size_faults(ready: Ready) -> list[str]:
    """Returns the sizes that the base cannot have."""
    sample, where = ready.job.sample, {"[general] resolution": ready.resolution}
    where |= {f"[sample] {key}": value for key in ("width", "height") if (value := getattr(sample, key))}
    found = []
    for key, value in where.items():
        if value % ready.multiple:
            nearest = max(1, round(value / ready.multiple)) * ready.multiple
            found.append(f"{key}: expected a multiple of {ready.multiple} px, got {value}. Write {nearest}.")
    return found


def trigger_faults(job: Job) -> list[str]:
    """Returns the texts of the job that ask for a trigger phrase it does not have."""
    if job.metadata.trigger_phrase:
        return []
    texts = {f"[sample] prompts {number + 1}": prompt.prompt for number, prompt in enumerate(job.sample.prompts)}
    for number, subset in enumerate(job.subsets()):
        fields = (subset.class_tokens, subset.caption_prefix, subset.caption_suffix)
        texts[f"[[datasets.subsets]] {number + 1}"] = " ".join(text for text in fields if text)
    return [
        f"{where}: asks for the trigger, but [metadata] trigger_phrase is empty. Set it."
        for where, text in texts.items()
        if captions.has_trigger(text)
    ]


def output_faults(ready: Ready) -> list[str]:
    """Returns why nothing can be written, or what would be overwritten."""
    folder, target = Path(ready.job.save.output_dir), ready.adapter_path
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        return [f'[save] output_dir "{folder}": expected a folder, got the file "{nearest}". Name another.']
    if not os.access(nearest, os.W_OK | os.X_OK):
        return [f'[save] output_dir "{folder}": "{nearest}" cannot be written to. Name another.']
    if target.exists() and not ready.job.save.overwrite:
        return [f'[save] output_name: "{target}" exists. Choose another name or set overwrite = true.']
    return []


def notices(ready: Ready) -> list[str]:
    """Returns what is no fault but may surprise."""
    found = []
    for picture in ready.pictures:
        geometry = picture.geometry
        if geometry.cropped_away > TOO_MUCH_CROPPED:
            found.append(
                f"{picture.path.name}: {geometry.cropped_away:.0%} is cropped away (a square about the centre stays)"
            )
        if geometry.enlarged > TOO_MUCH_ENLARGED:
            found.append(f"{picture.path.name}: enlarged {geometry.enlarged:.1f} times")
    trigger = ready.job.metadata.trigger_phrase
    if trigger and not any(trigger in picture.caption for picture in ready.pictures):
        found.append(f'the trigger phrase "{trigger}" is in no caption')
    return found


def describe(ready: Ready) -> list[str]:
    """Returns the lines that say what the run will do."""
    job, network, count = ready.job, ready.job.network, len(ready.epoch)
    seen = job.train.max_train_steps * ready.global_batch
    base = job.model.pretrained_model_name_or_path
    lines = [
        f"base        {base if is_hub_id(base) else Path(base).name}, trained at {ready.resolution} px",
        f"pictures    {len(ready.pictures)} ({count} an epoch with repeats)",
        f"captions    {'; '.join(dict.fromkeys(repr(picture.caption) for picture in ready.pictures[:5]))}",
        f"steps       {job.train.max_train_steps}, each of {ready.global_batch} pictures "
        f"({job.general.batch_size} at a time): {seen} in all, {seen / count:.1f} epochs",
        f"adapter     {network.coefficients} coefficients a layer, {network.wavelet}, scaling {network.scaling:g}",
        f"writes      {ready.adapter_path}",
    ]
    found = notices(ready)
    rest = [f"and {len(found) - MOST_NOTICES} more"] if len(found) > MOST_NOTICES else []
    return lines + [f"notice      {text}" for text in found[:MOST_NOTICES] + rest]


def dry_run_text(ready: Ready, resolved: str) -> str:
    """Returns what `--dry-run` prints: the job with every default, the pictures' sizes, and what the run would do."""
    rows = [
        f"  {picture.path.name}: {picture.geometry.original[0]} x {picture.geometry.original[1]} px, resized to "
        f"{picture.geometry.resized[0]} x {picture.geometry.resized[1]}, crop at {picture.geometry.offset}"
        for picture in ready.pictures
    ]
    return "\n".join([resolved, *describe(ready), *rows])
