"""Files that are there whole or not at all, and files that one process holds at a time."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from .console import counted

BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # by which systems tell of a lock that another process holds
LOCKED_BYTE = 2**20  # Windows locks bytes rather than files, and nobody reads a locked one: far behind the text


class InUse(OSError):
    """A file that another process holds; its text names the process."""


def write_atomically(path: Path, content: bytes | str) -> Path:
    """Writes the file whole or not at all, its folder made where there is none; returns its path.

    Raises:
        OSError: it cannot be written, or something else than a file lies there; that stands.
    """
    from waveft_core.errors import WaveFTError  # what only asks for names and sizes waits for nothing of the core's
    from waveft_core.format import wholefile

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        wholefile.write_atomically(path, content.encode() if isinstance(content, str) else content)
    except WaveFTError as error:
        raise OSError(str(error)) from error
    return path


def locked(path: Path) -> tuple[AbstractContextManager[None], bool]:
    """Returns a context that lets go of the file when it is left, held from now on; and whether it is held at all.

    The system holds the lock for as long as the process lives, and lets go of it however the process ends. Some
    network disks know no locks: the file is there, and keeps nobody away.

    Raises:
        InUse: another process holds it.
        OSError: it cannot be written.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        held = True
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno in BUSY:
                holder = os.read(descriptor, 200).decode(errors="replace").strip()
                os.close(descriptor)
                raise InUse(holder or "an unknown process") from None
            held = False
        with suppress(FileNotFoundError):  # who held it before may have deleted it between our opening and locking
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                break
        os.close(descriptor)
    with suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
    return _released(path, descriptor), held


@contextmanager
def _released(path: Path, descriptor: int) -> Iterator[None]:
    """Lets go of a locked file when it is left."""
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open, and an unheld one harms nobody
            path.unlink()
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Locks an open file for this process; OSError where another has."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def free_name(path: Path, taken: Callable[[Path], bool] = Path.exists) -> Path:
    """Returns `path`, or the first of `name-2`, `name-3` ... that is not taken."""
    candidate, number = path, 2
    while taken(candidate):
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def readable_size(path: Path) -> str:
    """Returns the file's size in words: bytes, kB or MB (powers of 1000)."""
    size = path.stat().st_size
    if size < 1000:
        return counted(size, "byte")
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"
