"""Which image files a folder holds, and, where it holds none, what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..system import commandline
from ..system.console import counted
from ..system.errors import RELATIVE, UserError
from .formats import ENDINGS as IMAGE_EXTENSIONS
from .formats import PLUGINS

CONCEPT = re.compile(r"(\d+)_(.+)")
WINDOWS = re.compile(r"[A-Za-z]:\\")
SYSTEM = {"__MACOSX"}  # what unpacking leaves behind


class Concept(NamedTuple):
    """A folder whose name says how its pictures are trained, such as `10_sks dog`."""

    folder: Path
    repeats: int
    tokens: str


def concept(folder: Path) -> Concept | None:
    """Returns what the folder's name says, None where it is a plain name."""
    found = CONCEPT.fullmatch(folder.name)
    return Concept(folder, int(found[1]), found[2].strip()) if found else None


def concepts(folder: Path) -> list[Concept]:
    """Returns the `N_concept` folders directly inside, by name."""
    return [found for inside in folders_in(folder) if (found := concept(inside))]


def entries(folder: Path) -> list[Path]:
    """Returns everything directly inside a folder, by name.

    Raises:
        UserError: it cannot be looked into.
    """
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(
            f'folder "{folder}": cannot be looked into ({error.strerror or error}). Get the right to read it, or move '
            "it away."
        ) from None


def folders_in(folder: Path) -> list[Path]:
    """Returns the folders directly inside, by name; hidden ones, and links back to where it lies, are left out."""
    return [path for path in entries(folder) if path.is_dir() and not hidden(path) and not leads_back(path)]


def leads_back(folder: Path) -> bool:
    """Returns whether a folder is a link to one that it lies in, which would hold itself without end."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def below(folder: Path, but: Path | None = None) -> Iterator[Path]:
    """Yields the folders inside, and those in them, each before what it holds; `but` and what it holds left out."""
    for inside in folders_in(folder):
        if inside != but:
            yield inside
            yield from below(inside, but)


def hidden(path: Path) -> bool:
    """Returns whether a file or folder is not meant to be seen."""
    return path.name.startswith(".") or path.name in SYSTEM


def image_files(folder: Path, recursive: bool = False, but: Path | None = None) -> list[Path]:
    """Returns the folder's images in the order of their names, hidden files left out.

    Args:
        folder: an existing folder.
        recursive: take those of folders inside too, after its own.
        but: a folder inside that is left out.
    """
    places = [folder, *(below(folder, but) if recursive else ())]
    files = (path for place in places for path in entries(place) if path.is_file() and not hidden(path))
    return [path for path in files if path.suffix.lower() in IMAGE_EXTENSIONS]


def not_a_folder(path: Path) -> str:
    """Returns what is wrong with a path that should be a folder, and which one was probably meant."""
    if path.is_file():
        inside = f' Name its folder "{path.parent}".' if path.suffix.lower() in IMAGE_EXTENSIONS else ""
        return f"expected a folder, got a file.{inside}"
    missing = "expected a folder, got nothing there."
    if WINDOWS.match(path.name):
        return f"{missing} {path.name} is a path of Windows, this is not Windows."
    parent = next(above for above in path.parents if above.exists())
    if not parent.is_dir():
        return f'{missing} "{parent}" is a file.'
    asked = path.relative_to(parent).parts[0]
    names = [inside.name for inside in folders_in(parent)]
    same = [name for name in names if name.lower() == asked.lower()]
    near = same or difflib.get_close_matches(asked, names, n=1)
    if near:
        return f'{missing} "{parent}" holds "{near[0]}": write that{", in the same case" if same else ""}.'
    count = len(image_files(parent))
    if count:
        return f'{missing} "{parent}" itself holds {counted(count, "image")}: name that one.'
    holds = f'"{parent}" holds {listed(names)}.' if names else f'"{parent}" is empty.'
    return f"{missing} {holds} {RELATIVE}"


def no_images(folder: Path) -> str:
    """Returns what to do about a folder without images: often it is a level too high."""
    inside = folders_in(folder)
    if direct := [path for path in inside if image_files(path)]:
        return (
            f'no images in it, but in "{direct[0].name}" inside. Name that folder, one [[datasets.subsets]] for each, '
            "or set recursive = true."
        )
    for path in inside:
        if below := [found for found in folders_in(path) if image_files(found)]:
            meant = path if concept(below[0]) else below[0]
            return (
                f'no images in it, but in "{path.name}/{below[0].name}", two levels inside. '
                f'Name "{meant.relative_to(folder).as_posix()}".'
            )
    for path in entries(folder):
        for _, package, endings in PLUGINS.values():
            if path.suffix.lower() in endings:
                return (
                    f'no images that are read here, but "{path.name}". Convert it to PNG or JPEG, or run: '
                    f"{commandline.install(package)}"
                )
    if zips := sorted(path.name for path in entries(folder) if path.suffix.lower() in (".zip", ".rar", ".7z")):
        return f'no images in it, but "{zips[0]}". Unpack it.'
    return f"no images in it. Put in {', '.join(IMAGE_EXTENSIONS)} files."


def listed(names: Iterable[str], most: int = 3, joiner: str = ", ") -> str:
    """Returns the first names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return joiner.join(names[:most]) + rest
