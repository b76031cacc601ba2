"""Where a run's work goes when its own folder takes no more files: hours of training must not be lost to a disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ..preflight.preflight import Ready
from ..system.console import notice
from ..system.errors import reason
from ..system.files import free_name

LONGEST = 60  # bytes of the run's name that a rescued file keeps: it fits everywhere


def places(ready: Ready) -> Iterator[Path]:
    """Yields the folders to try: the run's own, made anew if it is gone, the job's, the user's, the system's."""
    yield ready.folder.folder
    yield ready.home
    with suppress(RuntimeError):  # a system that has none
        yield Path.home()
    yield Path(tempfile.gettempdir())


def elsewhere(ready: Ready, ending: str, write: Callable[[Path], object]) -> Path | None:
    """Returns the file that `write` could write, in the first folder that takes it; None where none does.

    Args:
        ready: the run's checked job.
        ending: of the file's name, such as "-tensors.safetensors".
        write: writes a file whole or raises.
    """
    name = os.fsencode(ready.folder.name)[:LONGEST].decode(errors="ignore") + ending
    for folder in places(ready):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = free_name(folder / name)
            write(path)
        except Exception as error:  # noqa: BLE001 - whatever one folder has against it, the next one is tried
            notice(f'"{folder}" takes no file ({reason(error)})')
        else:
            return path
    return None
