"""What lies in a job's folders and is not used: a person may take it for a picture, a caption or a mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from . import folders
from .captionfiles import caption_file, without_picture
from .folders import entries, hidden, image_files, listed
from .formats import PLUGINS
from .subsets import Folder

MOST_NAMED = 5
# What systems and programs leave behind, in small letters; names that begin with "._" too.
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".ds_store", ".directory", ".localized", ".picasa.ini"}
FOR_VERSIONS = {".gitignore", ".gitkeep", ".gitattributes"}


def notices(opened: Iterable[Folder]) -> Iterator[str]:
    """Yields what is left out of each folder, with why and what to do about it."""
    opened = list(opened)
    elsewhere = {path for folder in opened for path in (*folder.files, *folder.masks.values())}
    taken = {folder.path for folder in opened}
    for folder in opened:
        used = elsewhere | used_by(folder)
        left = [path for path in files_in(folder) if path not in used and not is_litter(path)]
        if left:
            names = listed(map(described, sorted(left)), MOST_NAMED)
            yield f'"{folder.path.name}": left out, neither pictures that are read here nor captions of theirs: {names}'
        if inside := folders_left(folder, taken):
            names = listed((f'"{path.name}"' for path in inside), MOST_NAMED)
            yield (
                f'"{folder.path.name}": left out, the images in {names} inside (recursive = true takes them, or a '
                "[[datasets.subsets]] of their own)"
            )
        if spare := masks_left(folder):
            yield f'"{folder.path.name}": masks without a picture: {listed(path.name for path in spare)}'


def used_by(folder: Folder) -> set[Path]:
    """Returns the files that a folder's pictures bring along, and those of which something else is said."""
    captions = {file for path in folder.files if (file := caption_file(path, folder.subset))}
    named = {Path(folder.subset.metadata_file)} if folder.subset.metadata_file else set()
    # of these something else is said
    missing = {folder.path / name for name in without_picture(folder)}
    unnamed = set(image_files(folder.path, folder.subset.recursive)) if folder.metadata else set()
    return captions | named | missing | unnamed


def files_in(folder: Folder) -> Iterator[Path]:
    """Yields everything in a folder that is none itself, in those inside too where the job takes their images."""
    masks = Path(folder.subset.conditioning_data_dir) if folder.subset.conditioning_data_dir else None
    places = [folder.path, *(folders.below(folder.path, masks) if folder.subset.recursive else ())]
    for place in places:
        yield from (path for path in entries(place) if not path.is_dir())


def is_litter(path: Path) -> bool:
    """Returns whether a file is nothing that a person put there."""
    name = path.name.lower()
    if name in LITTER or name in FOR_VERSIONS or name.startswith("._") or name.endswith("~"):
        return True
    return hidden(path) and not is_picture_by_name(path)


def is_picture_by_name(path: Path) -> bool:
    """Returns whether a name's ending is one of an image that is read here."""
    return path.suffix.lower() in folders.IMAGE_EXTENSIONS


def described(path: Path) -> str:
    """Returns a file's name with why it is left out, where that can be told."""
    if path.is_symlink() and not path.exists():
        return f"{path.name} (a link that leads nowhere)"
    if is_picture_by_name(path):
        return f"{path.name} ({'hidden' if hidden(path) else 'no plain file'})"
    return f"{path.name}{plugin(path)}"


def plugin(path: Path) -> str:
    """Returns what would make an image readable here, in brackets after a blank, "" where nothing is known."""
    for _, package, endings in PLUGINS.values():
        if path.suffix.lower() in endings:
            return f" (convert it, or pip install {package})"
    return ""


def folders_left(folder: Folder, taken: set[Path]) -> list[Path]:
    """Returns the folders inside whose images are left out, those of masks and of other subsets not counted."""
    subset = folder.subset
    if subset.recursive or folder.metadata:
        return []
    masks = Path(subset.conditioning_data_dir) if subset.conditioning_data_dir else None
    inside = (path for path in folders.folders_in(folder.path) if path != masks and path not in taken)
    return [path for path in inside if folders.concept(path) is None and image_files(path)]


def masks_left(folder: Folder) -> list[Path]:
    """Returns the masks that belong to no picture."""
    place = Path(folder.subset.conditioning_data_dir) if folder.subset.conditioning_data_dir else None
    if place is None or not place.is_dir():
        return []
    used = set(folder.masks.values())
    return [path for path in image_files(place, recursive=True) if path not in used and path not in folder.files]
