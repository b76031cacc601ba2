"""Where adapter files lie: `models/waveft` and `output/waveft` first, then the WaveFT files among `models/loras`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePath

import folder_paths

from .core import WaveFTError, is_waveft, listed, load, nearest, read_header, sha256, stamp
from .sockets import Carried

FOLDERS = ("waveft", "loras")
EXTENSION = ".safetensors"
EMPTY = "put an adapter into models/waveft"  # what an empty list shows
LISTED_S = 1.0
_listed: tuple[tuple[list[str], list[str]], float, list[str]] | None = None


def register() -> None:
    """Makes `models/waveft` and `output/waveft` known, beside what extra_model_paths.yaml already named "waveft"."""
    for parent in (folder_paths.models_dir, folder_paths.get_output_directory()):
        folder = Path(parent) / "waveft"
        with suppress(OSError):  # read-only: a folder that is missing lists nothing
            folder.mkdir(parents=True, exist_ok=True)
        folder_paths.add_model_folder_path("waveft", str(folder))
    paths, extensions = folder_paths.folder_names_and_paths["waveft"]
    # ComfyUI gives a new entry no extensions, and none means every file
    folder_paths.folder_names_and_paths["waveft"] = (paths, {*extensions, EXTENSION})


def choices() -> list[str]:
    """Returns the names to choose from, sorted within each folder; where there is none, what to do about it.

    All of `models/waveft`; of `models/loras` and of ComfyUI's output the WaveFT files alone: a list of a thousand
    LoRAs, of which three load, would be a trap, and a training run leaves more than its adapters. A name in several
    folders is listed once and taken from the first.
    """
    global _listed
    held = (folder_paths.get_filename_list("waveft"), folder_paths.get_filename_list("loras"))
    # ComfyUI asks several times a prompt for each node, and looking at the times of thousands of files takes a while
    if _listed is None or _listed[0] != held or time.monotonic() - _listed[1] > LISTED_S:
        _listed = (held, time.monotonic(), _choices(*held))
    return list(_listed[2])


def _choices(own: list[str], loras: list[str]) -> list[str]:
    output = str(folder_paths.get_output_directory())
    found: dict[str, None] = {}
    for name in own:
        path = folder_paths.get_full_path("waveft", name)
        if path is not None and (not path.startswith(output) or (is_waveft(path) and not _is_intermediate(name))):
            found[name] = None
    for name in loras:
        if name.endswith(EXTENSION) and name not in found and is_waveft(folder_paths.get_full_path("loras", name)):
            found[name] = None
    return list(found) or [EMPTY]


def _is_intermediate(name: str) -> bool:
    """Says whether a file is one of a training's steps: of `training/dog/` the loader lists `dog.safetensors`."""
    path = PurePath(name)
    return path.parts[0] == "training" and len(path.parts) > 2 and path.stem != path.parent.name


def find(name: str) -> tuple[Path, str]:
    """Returns an adapter's path and which of `FOLDERS` it lies in.

    Raises:
        WaveFTError: no folder has it.
    """
    remedy = "Put it there and press R in ComfyUI to read the folders again, or choose another."
    if not isinstance(name, str) or name == EMPTY:
        got = "none" if name == EMPTY else repr(name)
        raise WaveFTError(f"adapter: expected a file in models/waveft or models/loras, got {got}. {remedy}")
    for folder in FOLDERS:
        for spelled in (name, name.replace("\\", "/")):  # a workflow made on Windows
            path = folder_paths.get_full_path(folder, spelled)
            if path is not None:
                return Path(path), folder
    near = [other for other in nearest(name, choices(), 3) if other != EMPTY]
    raise WaveFTError(
        f'adapter "{name}": expected a file in models/waveft, output/waveft or models/loras, got none of that name. '
        f"{remedy}{f' Nearest: {listed(near)}.' if near else ''}"
    )


def check(name: str) -> None:
    """Reads the file's header alone, and refuses what is no WaveFT adapter.

    Raises:
        WaveFTError: no such file, or not an adapter.
    """
    path = find(name)[0]
    with _named(path, name):
        read_header(path)


def read(name: str) -> Carried:
    """Returns the adapter, validated whole; the last few files stay in memory, as they are on the disk now.

    Its tensors are copies, so that a file that is overwritten cannot change what a graph still holds.

    Raises:
        WaveFTError: no such file, or not an adapter.
    """
    path = find(name)[0]
    return _read(name, path, stamp(path))


@lru_cache(maxsize=8)  # 12 MB each for SDXL at the paper's budget
def _read(name: str, path: Path, _stamp: str) -> Carried:
    with _named(path, name):
        adapter = load(path)
    return Carried(adapter, name, {"file": name, "sha256": sha256(path)})


def output_path(prefix: str) -> Path:
    """Returns a new file's path under ComfyUI's output folder, numbered as ComfyUI numbers pictures.

    Args:
        prefix: a folder and the name's beginning, such as `waveft/dog`; %year% and its like are filled in.

    Raises:
        WaveFTError: a prefix without a name, or one that leads out of the output folder.
    """
    output = Path(folder_paths.get_output_directory()).resolve()
    expected = 'expected a name or folder/name inside ComfyUI\'s output folder, such as "waveft/dog"'
    if not prefix.strip() or prefix.endswith(("/", "\\")):
        raise WaveFTError(f'filename_prefix "{prefix}": {expected}, got no name. Add one.')
    if not (output / prefix).resolve().is_relative_to(output):
        raise WaveFTError(f'filename_prefix "{prefix}": {expected}, got a place outside it. Leave out ".." and "/".')
    folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, str(output))
    searched = output / "waveft"
    while True:
        path = Path(folder) / f"{name}_{counter:05}_{EXTENSION}"
        # a file that was moved to models/waveft would be taken in place of a new one of its name
        listed = path.relative_to(searched).as_posix() if path.is_relative_to(searched) else None
        if listed is None or all(folder_paths.get_full_path(kind, listed) is None for kind in FOLDERS):
            return path
        counter += 1


def fingerprint(*names: str | None) -> str | float:
    """Returns what changes when one of the files is written anew; NaN, which equals nothing, while one is linked."""
    if any(name is None for name in names):
        return float("nan")
    return " ".join(stamp(find(name)[0]) for name in names if name is not None)


def checked(*names: str | None) -> bool | str:
    """Returns True, or why one of the files cannot be loaded; reads headers alone. A name of None is linked."""
    try:
        for name in names:
            if name is not None:
                check(name)
    except WaveFTError as error:
        return str(error)
    return True


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Has errors call a file what the graph calls it, which fits into a message at a node."""
    try:
        yield
    except WaveFTError as error:
        raise WaveFTError(str(error).replace(str(path), name)) from None
