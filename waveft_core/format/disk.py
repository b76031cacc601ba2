"""What lies at a path, and a stranger's file opened: the one place where this package opens files to read them.

A path that somebody gave, or that a folder holds, may be anything: a FIFO (to open one is to wait for its writer, for
ever), a device, a folder, a link to nothing, a name that no file system takes.  Only regular files are opened, and what
is wrong with the others is said.  Bytes are read and counted, never mapped into memory: a map of a file that somebody
cuts short meanwhile ends the process by SIGBUS, which no Python code can catch.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from ..errors import WaveFTError

MAX_JSON_BYTES = 2**25  # an index of shards has some 200 kB, a config some kB

PathLike = str | os.PathLike[str]
Version = tuple[int, int, int, int]

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# non-blocking: whoever puts a FIFO in the file's place between the look and the opening makes nobody wait
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def is_file(path: PathLike) -> bool:
    """Returns whether a regular file lies at `path`; False for whatever cannot be looked at."""
    found = _stat(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: PathLike) -> bool:
    """Returns whether a folder lies at `path`; False for whatever cannot be looked at."""
    found = _stat(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def exists(path: PathLike) -> bool:
    """Returns whether anything lies at `path`; False for whatever cannot be looked at."""
    return _stat(path) is not None


def size_of(path: PathLike) -> int | None:
    """Returns the bytes of the regular file at `path`, None where there is none."""
    found = _stat(path)
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None


def what_lies_at(path: PathLike) -> str:
    """Returns what lies at a path where a file was expected, in words: "a folder", "none there"."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return "none there"
    except ValueError:  # a NUL in the name
        return "a name that no file can have"
    except OSError as error:
        too_long = error.errno == errno.ENAMETOOLONG
        return f"a name of {len(os.fsencode(Path(path).name))} bytes" if too_long else f"none ({_words(error)})"
    return next((words for check, words in _KINDS if check(mode)), "a file")


@contextlib.contextmanager
def opened(path: PathLike, expected: str = "a file", remedy: str = "Check the path.") -> Iterator[FileIO]:
    """Gives the regular file at `path`, opened to be read (`take`).

    Args:
        expected: what should lie there, for the refusal.
        remedy: what to do where nothing does.

    Raises:
        WaveFTError: something else than a file, or one that cannot be opened.
    """
    if not is_file(path):
        raise WaveFTError(f'file "{path}": expected {expected}, got {what_lies_at(path)}. {remedy}')
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        raise WaveFTError(f'file "{path}": expected {expected}, got: {_words(error)}. {remedy}') from None
    with os.fdopen(descriptor, "rb", 0) as file:  # unbuffered: what is read goes where it belongs
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise WaveFTError(f'file "{path}": expected {expected}, got {what_lies_at(path)}. {remedy}')
        yield file


def take(file: FileIO, path: PathLike, into: memoryview) -> None:
    """Fills `into` with the file's next bytes.

    Raises:
        WaveFTError: fewer are left, or they cannot be read.
    """
    done = 0
    try:
        while done < len(into) and (count := file.readinto(into[done:])):
            done += count
    except OSError as error:
        raise WaveFTError(f'file "{path}": expected one that can be read, got: {_words(error)}.') from None
    if done < len(into):
        raise WaveFTError(
            f'file "{path}": expected {len(into) - done} more bytes, got the file\'s end: it is cut short. '
            "Copy or download it again."
        )


def stamp(path: PathLike) -> str:
    """Returns what changes when a file is written anew: its size and its time, in nanoseconds.

    Raises:
        OSError: it cannot be looked at.
    """
    status = Path(path).stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def version_of(file: FileIO) -> Version:
    """Returns what changes when another file takes the place of an opened one, or somebody writes to it."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_json(path: PathLike, expected: str = "a JSON file") -> object:
    """Returns what a small JSON file holds.

    Raises:
        WaveFTError: none there, one of more than `MAX_JSON_BYTES`, or other than JSON.
    """
    content = _small(path, expected)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        why = "nesting that is too deep" if isinstance(error, RecursionError) else error
        raise WaveFTError(f'file "{path}": expected {expected}, got other than JSON: {why}. Fetch it again.') from None


def read_text(path: PathLike, expected: str = "a text file") -> str:
    """Returns what a small text file holds, what is not UTF-8 in it replaced.

    Raises:
        WaveFTError: none there, or one of more than `MAX_JSON_BYTES`.
    """
    return _small(path, expected).decode("utf-8", "replace")


def _small(path: PathLike, expected: str) -> bytes:
    with opened(path, expected) as file:
        size = version_of(file)[2]
        if size > MAX_JSON_BYTES:
            raise WaveFTError(f'file "{path}": expected {expected} of at most {MAX_JSON_BYTES} bytes, got {size}.')
        content = bytearray(size)
        take(file, path, memoryview(content))
    return bytes(content)


def names_in(folder: Path) -> list[Path]:
    """Returns what a folder holds, in the order of names.

    Raises:
        WaveFTError: it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise WaveFTError(f'folder "{folder}": expected one that can be listed, got: {_words(error)}.') from None


def resolved(path: PathLike) -> Path:
    """Returns the path without links and `..`, as far as it exists; a link that leads to itself is left as it is."""
    return Path(os.path.realpath(path))


def files_below(folder: Path, left_out: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yields the files of a folder and of those in it, in the order of names; links are followed, each folder once.

    Args:
        left_out: names of folders that are not looked into.

    Raises:
        WaveFTError: something else than files and folders in it, which nothing can be read or copied from.
    """
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        found = Path(root).stat()
        if (found.st_dev, found.st_ino) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add((found.st_dev, found.st_ino))
        folders[:] = sorted(name for name in folders if name not in left_out)
        for file in (Path(root) / name for name in sorted(names)):
            if not is_file(file):
                got = f'{what_lies_at(file)} at "{file}"'
                raise WaveFTError(f'folder "{folder}": expected files and folders alone, got {got}. Fetch it whole.')
            yield file


def _stat(path: PathLike) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except (OSError, ValueError):
        return None


def _words(error: OSError) -> str:
    return error.strerror or str(error)
