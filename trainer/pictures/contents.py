"""What a folder of pictures holds, as far as it decides what a job for it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..system.reading import decoded, is_file, read_bytes
from . import captions, folders
from .captionfiles import LARGEST_CAPTION
from .picturefile import Measured, measure_all

MASK_FOLDERS = ("masks", "mask", "conditioning")
CAPTION_ENDINGS = (".txt", ".caption")


@dataclass(frozen=True)
class Found:
    """What a folder of pictures holds.

    Attributes:
        folder: as it was named.
        files: the pictures, those of `N_concept` folders inside among them.
        concepts: those folders.
        captioned: how many pictures have a caption file.
        ending: of the caption files.
        asks: whether a caption asks for the trigger.
        sizes: (width, height) px of the pictures that can be read.
        transparent: whether some picture has transparency.
        masks: a folder of masks with the pictures' names, or None.
    """

    folder: Path
    files: list[Path]
    concepts: list[folders.Concept]
    captioned: int
    ending: str
    asks: bool
    sizes: list[tuple[int, int]]
    transparent: bool
    masks: Path | None


def look(folder: Path) -> Found:
    """Returns what a folder of pictures holds."""
    own, concepts = folders.image_files(folder), folders.concepts(folder)
    files = own or [path for one in concepts for path in folders.image_files(one.folder)]
    written = [path.with_suffix(ending) for path in files for ending in CAPTION_ENDINGS]
    there = [path for path in written if is_file(path)]
    measured = [one for one in measure_all(files).values() if isinstance(one, Measured)]
    return Found(
        folder,
        files,
        [] if own else concepts,
        len({path.with_suffix("") for path in there}),
        there[0].suffix if there else CAPTION_ENDINGS[0],
        any(map(asks, there)),
        [one.size for one in measured],
        any(one.alpha for one in measured),
        masks_of(folder, {path.stem for path in files}) if own else None,
    )


def asks(path: Path) -> bool:
    """Returns whether a caption file asks for the trigger; what is wrong with it is told when it is trained."""
    try:
        return captions.has_trigger(decoded(read_bytes(path, LARGEST_CAPTION)))
    except (OSError, ValueError):
        return False


def masks_of(folder: Path, stems: set[str]) -> Path | None:
    """Returns a folder inside or beside the pictures' that holds a mask for each of them, None where there is none."""
    for place in (inside / name for inside in (folder, folder.parent) for name in MASK_FOLDERS):
        if place.is_dir() and stems <= {path.stem for path in folders.image_files(place)}:
            return place
    return None
