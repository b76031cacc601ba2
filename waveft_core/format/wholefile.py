"""A file that is written whole or not at all: to a temporary name beside its target, synced and renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import WaveFTError
from .disk import exists, is_file, is_folder, what_lies_at

MAX_NAME_BYTES = 255  # of every file system in use


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of `path` when all of it is on disk; no reader sees half of one.

    Raises:
        WaveFTError: the folder does not exist, or something else than a file lies at `path`.
        OSError: it cannot be written to; what was at `path` stands.
    """
    check_name(path)
    if not is_folder(path.parent):
        raise WaveFTError(f'file "{path}": expected an existing folder, got none at "{path.parent}". Make it first.')
    if exists(path) and not is_file(path):  # renamed over, a device or a FIFO would be gone for everybody
        got = what_lies_at(path)
        raise WaveFTError(f'file "{path}": expected a file or none there, got {got}. Choose another name.')
    temporary = beside(path, ".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:  # speaks of the file that was asked for
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all; see `atomic`."""
    with atomic(path) as file:
        file.write(content)


def beside(path: Path, ending: str) -> Path:
    """Returns a new name beside `path`, hidden, no longer than file systems take however long its own is."""
    stem = os.fsencode(path.name)[: MAX_NAME_BYTES - 40].decode("utf-8", "ignore")
    return path.with_name(f".{stem}.{secrets.token_hex(4)}{ending}")


def check_name(path: Path) -> None:
    """Refuses a name that no file system takes.

    Raises:
        WaveFTError: more than 255 bytes, none, a NUL, or half a letter.
    """
    try:
        size = len(os.fsencode(path.name))
    except UnicodeEncodeError:
        size = -1
    if size < 1 or "\0" in str(path):
        raise WaveFTError(f'file "{path}": expected a name that a file can have, got another. Change the name.')
    if size > MAX_NAME_BYTES:
        raise WaveFTError(f'file "{path}": expected a name of at most {MAX_NAME_BYTES} bytes, got {size}. Shorten it.')
