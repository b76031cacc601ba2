"""From the folders that a job names to its pictures: each with its caption, its bucket, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..job.dataschema import Buckets, inherited
from ..job.schema import Job
from . import buckets, captionfiles, notices, split
from .folders import image_files
from .picture import Picture
from .picturefile import Measured, Progress, measure_all
from .subsets import Folder, Remarks, open_all

__all__ = ["Found", "Picture", "image_files", "scan"]

MASK_OFF = 1.02  # factor by which a mask's aspect ratio may differ from its picture's: rounding of a smaller one


@dataclass(frozen=True)
class Found:
    """What a scan found.

    Attributes:
        train: pictures to train, each once.
        validation: pictures that never are.
        problems: faults; with any, the rest is not complete.
        notices: what is no fault but may surprise.
    """

    train: tuple[Picture, ...] = ()
    validation: tuple[Picture, ...] = ()
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def scan(job: Job, resolution: int | tuple[int, int], multiple: int, progress: Progress | None = None) -> Found:
    """Returns every picture of the job, in the order of its subsets and of file names, and what is wrong with them.

    Args:
        job: paths absolute.
        resolution: the base's own, px or (width, height), for datasets that name none.
        multiple: px, of which the base needs every side to be a multiple.
        progress: called with how many images were opened, and how many there are.
    """
    remarks = Remarks()
    own = (resolution, resolution) if isinstance(resolution, int) else resolution
    settings = [settled(job, number, own, multiple, remarks) for number in range(len(job.datasets))]
    opened = open_all(job, remarks)
    files = dict.fromkeys(path for folder in opened for path in (*folder.files, *folder.masks.values()))
    measured = measure_all(list(files), progress)
    pictures: list[Picture] = []
    for folder in opened:
        pictures += gather(folder, settings[folder.dataset], measured, job.metadata.trigger_phrase, remarks)
    only_class_pictures(job, remarks)
    remarks.notices += notices.of(pictures, measured)
    held = split.held_out(*shares(job, pictures), remarks) if not remarks.problems else set()
    if not remarks.problems and not pictures:
        remarks.problems.append("[[datasets]]: expected pictures to train, got none. Name a folder that holds some.")
    return Found(
        tuple(picture for picture in pictures if picture.is_reg or picture.digest not in held),
        tuple(picture for picture in pictures if not picture.is_reg and picture.digest in held),
        list(dict.fromkeys(remarks.problems)),
        list(dict.fromkeys(remarks.notices)),
    )


def table_of(job: Job, number: int) -> Callable[[str], str]:
    """Returns a function: key of a dataset -> the table that says it, for messages."""
    title = f"[[datasets]] {number + 1}"
    return lambda key: title if getattr(job.datasets[number], key) is not None else "[general]"


def settled(job: Job, number: int, own: tuple[int, int], multiple: int, remarks: Remarks) -> buckets.Settings:
    """Returns a dataset's buckets."""
    keys = inherited(Buckets, job.datasets[number], job.general)
    settings, problems = buckets.settle(keys, own, multiple, table_of(job, number))
    remarks.problems += problems
    return settings


def gather(
    folder: Folder, settings: buckets.Settings, measured: dict[Path, Measured | str], trigger: str, remarks: Remarks
) -> list[Picture]:
    """Returns the pictures of a folder, those left out that have a fault."""
    found, subset = [], folder.subset
    captions = captionfiles.read_all(folder, trigger, remarks)
    for path in folder.files:
        known, mask = measured[path], folder.masks.get(path)
        if isinstance(known, str):
            remarks.problems.append(f'image "{path}": cannot be read ({known}). Replace or remove it.')
            continue
        if mask and (fault := mask_fault(known, measured[mask])):
            remarks.problems.append(f'mask "{mask}": {fault}')
        if path not in captions:
            continue
        picture = Picture(
            path,
            known.digest,
            captions[path],
            buckets.fit(known.size, buckets.choose(known.size, settings)),
            folder.dataset,
            repeats=subset.num_repeats or 1,
            is_reg=subset.is_reg,
            flip=bool(subset.flip_aug),
            color=bool(subset.color_aug),
            random_crop=bool(subset.random_crop),
            background=subset.transparent_background or "white",
            interpolation=subset.resize_interpolation or "auto",
            mask=mask,
            alpha_mask=subset.alpha_mask,
        )
        found.append(picture)
    return found


def mask_fault(picture: Measured, mask: Measured | str) -> str:
    """Returns what is wrong with a picture's mask, or ""."""
    if isinstance(mask, str):
        return f"cannot be read ({mask}). Replace it."
    if buckets.apart(buckets.ratio(picture.size), buckets.ratio(mask.size)) <= MASK_OFF:
        return ""
    wanted, got = (f"{width} x {height} px" for width, height in (picture.size, mask.size))
    return f"expected the picture's shape, {wanted}, got {got}. Draw it at the picture's size."


def only_class_pictures(job: Job, remarks: Remarks) -> None:
    """Notes datasets of class pictures alone: an epoch sees as many of them as of the dataset's others, so none."""
    for number, dataset in enumerate(job.datasets, 1):
        if all(subset.is_reg for subset in dataset.subsets):
            remarks.problems.append(
                f"[[datasets]] {number}: expected pictures of your own beside those with is_reg = true, got none. "
                "Put these subsets into their dataset."
            )


def shares(job: Job, pictures: Sequence[Picture]) -> tuple[list[split.Share], set[str]]:
    """Returns each dataset's part of the validation, and the digests that are trained in any case."""
    found = []
    for number, dataset in enumerate(job.datasets):
        keys = inherited(Buckets, dataset, job.general)
        part, seed, where = keys["validation_split"], keys["validation_seed"], table_of(job, number)("validation_split")
        if part is None:
            part, where = job.validation.validation_split, "[validation]"
        seed = job.validation.validation_seed if seed is None else seed
        digests = {picture.digest for picture in pictures if picture.dataset == number and not picture.is_reg}
        found.append(split.Share(where, part, seed, digests))
    return found, {picture.digest for picture in pictures if picture.is_reg}
