"""From image folders to a list of pictures with their captions, and what is wrong with them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from . import buckets, captions
from .schema import Job, Subset

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ORIENTATION = 0x0112  # the EXIF tag; values of 5 and more lie on their side


@dataclass(frozen=True)
class Picture:
    """One picture as it is trained.

    Attributes:
        path: the image file.
        caption: final text, before dropout.
        geometry: how it comes to its bucket.
        dropout: part of the time that it is seen without caption, 0 to 1.
        flip: whether half of its views are mirrored.
        repeats: how often an epoch holds it.
    """

    path: Path
    caption: str
    geometry: buckets.Geometry
    dropout: float
    flip: bool
    repeats: int


def scan(job: Job, resolution: int) -> tuple[list[Picture], list[str]]:
    """Returns every picture of the job, in the order of its subsets and of file names, and what is wrong with them."""
    pictures: list[Picture] = []
    problems: list[str] = []
    for subset in job.subsets():
        found, faults = scan_subset(subset, resolution, job.metadata.trigger_phrase)
        pictures += found
        problems += faults
    return pictures, problems


def scan_subset(subset: Subset, resolution: int, trigger: str) -> tuple[list[Picture], list[str]]:
    """Returns the pictures of one folder and what is wrong with it."""
    folder = Path(subset.image_dir)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing there"
        return [], [
            f'[[datasets.subsets]] image_dir "{folder}": expected a folder, got {what}. '
            "Relative paths are relative to the folder of the job file."
        ]
    files = image_files(folder)
    if not files:
        return [], [f'[[datasets.subsets]] image_dir "{folder}": {no_images(folder)}']
    pictures, problems = [], []
    for path in files:
        size, fault = measure(path)
        text, caption_fault = read_caption(path, subset)
        if text and captions.has_trigger(text) and not trigger:
            caption_fault = (
                f'caption of "{path}": asks for the trigger, but [metadata] trigger_phrase is empty. Set it.'
            )
        problems += [text for text in (fault, caption_fault) if text]
        if size and text is not None:
            caption = captions.compose(text, subset.caption_prefix or "", subset.caption_suffix or "", trigger)
            geometry = buckets.fit(size, buckets.choose(size, resolution))
            dropout, flip = subset.caption_dropout_rate or 0.0, bool(subset.flip_aug)
            pictures.append(Picture(path, caption, geometry, dropout, flip, subset.num_repeats))
    return pictures, problems


def image_files(folder: Path) -> list[Path]:
    """Returns the folder's images, sorted by name, hidden files left out."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted((path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS), key=lambda path: path.name)


def no_images(folder: Path) -> str:
    """Returns what to do about a folder without images: often it is one level too high."""
    below = sorted(path.name for path in folder.iterdir() if path.is_dir() and image_files(path))
    if below:
        return f'no images in it, but in "{below[0]}" inside. Name that folder, one [[datasets.subsets]] for each.'
    return f"no images in it. Put in {', '.join(IMAGE_EXTENSIONS)} files."


def measure(path: Path) -> tuple[tuple[int, int] | None, str]:
    """Returns the upright picture's (width, height) in px and an empty text, or None and why it cannot be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # of odd metadata and of large pictures, which are decoded all the same
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) >= 5
            image.draft("RGB", (64, 64))  # JPEG is decoded small: quick, and a cut-short file still shows
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return None, f'image "{path}": cannot be read ({error}). Replace or remove it.'
    return ((height, width) if sideways else (width, height)), ""


def read_caption(path: Path, subset: Subset) -> tuple[str | None, str]:
    """Returns the picture's caption and an empty text, or None and what is wrong with it."""
    endings = dict.fromkeys((subset.caption_extension or ".txt", ".txt", ".caption"))
    file = next((found for ending in endings if (found := path.with_suffix(ending)).is_file()), None)
    if file is None:
        if subset.class_tokens is None:
            name = path.with_suffix(next(iter(endings))).name
            return (
                None,
                f'image "{path}": expected a caption in {name}, got none. Write it, or set class_tokens for all.',
            )
        return subset.class_tokens, ""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return None, f'caption "{file}": expected text in UTF-8, got: {error}. Save it as UTF-8.'
    if not text.strip():
        return (
            None,
            f'caption "{file}": expected a text, got an empty file. Write it, or remove it and set class_tokens.',
        )
    return text, ""
