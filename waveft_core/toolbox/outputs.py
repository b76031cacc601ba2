"""A new file or folder beside an old one: what may be written where, what of a model's folder is copied, atomically."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import WaveFTError
from ..format.container import PIECE_BYTES
from ..format.disk import exists, files_below, is_file, is_folder, names_in, opened, read_text, resolved
from ..format.folders import WEIGHT_FILES, component_files, is_pipeline
from ..format.wholefile import atomic, beside, check_name

_NOT_MODELS = (".git", ".cache")  # a download's own bookkeeping, as large as the model
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif")  # of what the unmerged model draws
_SPARE_BYTES = 2**20  # headers, and what a file system rounds up


def check_target(base: Path, out: Path, size: int, overwrite: bool) -> None:
    """Refuses a target that must not or cannot be written.

    Args:
        base: the model that is read.
        out: the new file (or folder, where the base is one).
        size: bytes that will be written.
        overwrite: whether `out` may exist.

    Raises:
        WaveFTError: `out` is the base, holds it or lies in it; exists; is of another kind; or the disk is too full.
    """
    check_name(out)
    folder = is_folder(base)
    kind = "a folder" if folder else "a .safetensors file"
    if folder == (out.suffix == ".safetensors"):
        raise WaveFTError(f'out "{out}": expected {kind}, as the base is one, got another name. Change the name.')
    before, after = resolved(base), resolved(out)
    if before == after or (folder and (before in after.parents or after in before.parents)):
        raise WaveFTError(f'out "{out}": expected another place than the base, got "{base}". Choose a new name.')
    check_new(out, overwrite)
    if exists(out) and not (is_folder(out) if folder else is_file(out)):
        raise WaveFTError(f'out "{out}": expected {kind}, got something else of that name. Choose a new name.')
    if is_folder(out) and names_in(out):
        _check_model(out)
    check_space(out, size)


def check_new(out: Path, overwrite: bool) -> None:
    """Refuses a target that exists without leave to overwrite it, or whose folder does not.

    Raises:
        WaveFTError: either of the two, or a name that no file can have.
    """
    check_name(out)
    if not is_folder(out.parent):
        raise WaveFTError(f'out "{out}": expected an existing folder, got none at "{out.parent}". Make it first.')
    if exists(out) and not overwrite:
        remedy = "Choose another, or give overwrite=True."
        raise WaveFTError(f'out "{out}": expected a new name, got one that exists. {remedy}')


def check_space(out: Path, size: int) -> None:
    """Refuses to begin what the disk cannot hold.

    Raises:
        WaveFTError: fewer than `size` bytes are free where `out` will be.
    """
    free = shutil.disk_usage(out.parent).free
    if free < size + _SPARE_BYTES:
        raise WaveFTError(
            f'out "{out}": expected {size / 1e9:.2f} GB of free space, got {free / 1e9:.2f} GB. '
            "Free some, or write to another disk."
        )


def _check_model(folder: Path) -> None:
    """Refuses to replace a folder that is no model: it may hold anything."""
    try:
        component_files(folder)
    except WaveFTError:
        raise WaveFTError(
            f'out "{folder}": expected a model\'s folder to overwrite, got one that holds other things. '
            "Choose a new name."
        ) from None


def tree_of(base: Path, used: set[Path], touched: set[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the files of a model's folder that belong in its merged copy, and those that do not.

    A file that holds a touched component's weights in another form (a variant, a pickle, a whole checkpoint beside the
    components) would be the unmerged model under the new name; so would its README and its pictures. A licence stays.

    Args:
        base: the folder.
        used: the files that the weights were read from.
        touched: the folders of those that are changed.
    """
    stale = touched | ({base} if is_pipeline(base) else set())
    kept: list[Path] = []
    left_out: list[Path] = []
    for file in files_below(base, _NOT_MODELS):
        other = file not in used and file.parent in stale and _holds_weights(file, used)
        (left_out if other or _presents(file) else kept).append(file)
    return kept, left_out


def _presents(file: Path) -> bool:
    """Returns whether a file shows or tells people what the unmerged model is."""
    return file.suffix.lower() in _PICTURES or file.name.lower() in ("readme", "readme.md", "readme.txt")


def _holds_weights(file: Path, used: set[Path]) -> bool:
    """Returns whether a file beside the weights that were read holds weights, or is the index of such."""
    if ".index" in file.name and file.suffix == ".json":
        shards = sum(1 for held in used if held.parent == file.parent)
        text = read_text(file)
        return not (shards and all(f'"{held.name}"' in text for held in used if held.parent == file.parent))
    return file.suffix in WEIGHT_FILES


def copy_file(source: Path, target: Path, progress: Callable[[int], None]) -> None:
    """Copies a file's content, synced to disk; a link's target is copied."""
    with opened(source) as read, atomic(target) as written:
        while piece := read.read(PIECE_BYTES):
            written.write(piece)
            progress(len(piece))


@contextlib.contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Gives an empty folder to fill, which takes the place of `out` when all of it is written."""
    temporary = beside(out, ".tmp")
    old = temporary.with_suffix(".old")
    temporary.mkdir()
    try:
        yield temporary
        if exists(out):
            out.rename(old)
        try:
            temporary.rename(out)
        except BaseException:
            if exists(old):
                old.rename(out)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
