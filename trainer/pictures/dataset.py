"""From the folders that a job names to its pictures: each with its caption, its bucket, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..job.dataschema import Buckets, inherited
from ..job.schema import Job, Subset
from ..system.errors import UserError
from . import buckets, captionfiles, leftout, notices, split
from .folders import image_files
from .picture import Picture
from .picturefile import Measured, Progress, measure_all
from .subsets import Folder, Remarks, open_all

__all__ = ["Found", "Picture", "image_files", "scan"]

MOST_VIEWS = 1_000_000  # an epoch: more are a slip, and more than a plan can hold
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
    try:
        opened = open_all(job, remarks)
    except UserError as error:  # a folder that cannot be looked into
        return Found(problems=[*remarks.problems, *error.problems])
    files = dict.fromkeys(path for folder in opened for path in (*folder.files, *folder.masks.values()))
    measured = measure_all(list(files), progress)
    pictures: list[Picture] = []
    for folder in opened:
        pictures += gather(folder, settings[folder.dataset], measured, job.metadata.trigger_phrase, remarks)
    only_class_pictures(job, remarks)
    remarks.notices += leftout.notices(opened)
    remarks.notices += notices.of(pictures, measured)
    held = split.held_out(*shares(job, pictures), remarks) if not remarks.problems else set()
    if not remarks.problems and not pictures:
        remarks.problems.append("[[datasets]]: expected pictures to train, got none. Name a folder that holds some.")
    pictures += to_be_drawn(job, settings)
    if (views := sum(picture.repeats for picture in pictures)) > MOST_VIEWS:
        remarks.problems.append(
            f"[[datasets]]: expected at most {MOST_VIEWS:,} views an epoch, got {views:,}. Lower num_repeats."
        )
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
            mask_digest=digest_of(measured.get(mask)) if mask else "",
        )
        found.append(picture)
    return found


def digest_of(known: Measured | str | None) -> str:
    """Returns the digest of a file that can be read, "" of any other."""
    return known.digest if isinstance(known, Measured) else ""


def to_be_drawn(job: Job, settings: Sequence[buckets.Settings]) -> Iterator[Picture]:
    """Yields the class pictures that the job asks for and that its folders lack: the run draws them before it trains.

    They are drawn at the first dataset's resolution, and counted here as if they were there.
    """
    size = settings[0].resolution
    owners = (number for number, dataset in enumerate(job.datasets) for _ in dataset.subsets)
    for owner, subset in zip(owners, job.subsets(), strict=True):
        for place in class_places(subset):
            yield Picture(
                place,
                "",
                captionfiles.of_text(subset.class_tokens or "", subset, job.metadata.trigger_phrase),
                buckets.fit(size, buckets.choose(size, settings[owner])),
                owner,
                repeats=subset.num_repeats or 1,
                is_reg=True,
                flip=bool(subset.flip_aug),
                color=bool(subset.color_aug),
                random_crop=bool(subset.random_crop),
                interpolation=subset.resize_interpolation or "auto",
            )


def class_places(subset: Subset) -> list[Path]:
    """Returns the files of the class pictures that are still to be drawn for a subset."""
    folder = Path(subset.image_dir)
    have = len(image_files(folder)) if subset.num_class_images and folder.is_dir() else 0
    return [folder / f"class-{number + 1:05d}.png" for number in range(have, subset.num_class_images)]


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
