"""Where adapter files lie: `models/waveft` first, then the WaveFT files among `models/loras`."""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import folder_paths

from .core import Adapter, WaveFTError, load, read_header

FOLDERS = ("waveft", "loras")
EXTENSION = ".safetensors"
# A safetensors file opens with the length of its JSON header (8 bytes) and the header, which names every tensor.
HEADER_TENSOR = b'"waveft.header"'
HEADER_LIMIT_BYTES = 1 << 25


def register() -> None:
    """Makes `models/waveft` known to ComfyUI, beside whatever extra_model_paths.yaml already named "waveft"."""
    folder = Path(folder_paths.models_dir) / "waveft"
    with suppress(OSError):  # read-only models: a folder that is missing lists nothing
        folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("waveft", str(folder))
    paths, extensions = folder_paths.folder_names_and_paths["waveft"]
    # ComfyUI gives a new entry no extensions, and none means every file
    folder_paths.folder_names_and_paths["waveft"] = (paths, {*extensions, EXTENSION})


def choices() -> list[str]:
    """Returns the names to choose from, sorted within each folder.

    All of `models/waveft`, and of `models/loras` the WaveFT files alone: a list of a thousand LoRAs, of which three
    load, would be a trap. A file in both folders is listed once and taken from `models/waveft`.
    """
    own = folder_paths.get_filename_list("waveft")
    shared = [name for name in folder_paths.get_filename_list("loras") if name.endswith(EXTENSION) and name not in own]
    return own + [name for name in shared if _is_waveft(folder_paths.get_full_path("loras", name))]


def find(name: str) -> tuple[Path, str]:
    """Returns an adapter's path and which of `FOLDERS` it lies in.

    Raises:
        WaveFTError: no folder has it.
    """
    for folder in FOLDERS:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return Path(path), folder
    raise WaveFTError(
        f'adapter "{name}": expected a file in models/waveft or models/loras, got none of that name. '
        "Put it there and press R in ComfyUI to read the folders again, or choose another."
    )


def stamp(path: Path) -> str:
    """Returns what changes when a file is written anew: its size and its time, in nanoseconds."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def check(name: str) -> None:
    """Reads the file's header alone, and refuses what is no WaveFT adapter.

    Raises:
        WaveFTError: no such file, or not an adapter.
    """
    read_header(find(name)[0])


def read(name: str) -> Adapter:
    """Returns the adapter, validated whole; the last few files stay in memory, as they are on the disk now.

    Raises:
        WaveFTError: no such file, or not an adapter.
    """
    path = find(name)[0]
    return _read(path, stamp(path))


@lru_cache(maxsize=4)
def _read(path: Path, _stamp: str) -> Adapter:
    return load(path)


def _is_waveft(path: str | None) -> bool:
    if path is None:
        return False
    with suppress(OSError):  # a link to nowhere, or not ours to read: nothing that could be loaded
        return _mentions_header(path, stamp(Path(path)))
    return False


@lru_cache(maxsize=1 << 14)
def _mentions_header(path: str, _stamp: str) -> bool:
    """Says whether a file's safetensors header names our header tensor, without parsing it.

    ComfyUI asks for the list several times a prompt. Parsing the JSON of a LoRA's 2364 tensors takes 12 ms, looking for
    the name 0.2 ms, and a file that was looked at is not opened again until its size or time changes.
    """
    with Path(path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return HEADER_TENSOR in file.read(min(length, HEADER_LIMIT_BYTES))
