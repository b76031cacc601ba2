"""Files that are read: plain ones of a bounded size, and nothing of what they hold taken on trust."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import UserError
from .plaintext import unwritten

LARGEST_TEXT = 2**24  # bytes of a text that people write: a job, captions, prompts

# Files of tensors by their endings: never a text, and mostly larger than one may be.
TENSORS = {
    ".safetensors": "an adapter or a model (.safetensors)",
    ".state": "a run's state (.state)",
    **{ending: f"a file of tensors ({ending})" for ending in (".ckpt", ".pt", ".pth", ".bin", ".gguf")},
}
KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
LARGEST_JSON = 2**26  # bytes: a vocabulary has 1 MB


def open_regular(path: Path) -> BufferedReader:
    """Returns the file opened for reading, once it is known to be a plain one.

    Opening a pipe waits until somebody writes into it, and a device may never end: neither is a file that a run reads.

    Raises:
        OSError: it is something else, with that in words, or cannot be opened.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((words for test, words in KINDS.items() if test(mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return path.open("rb")


def read_bytes(path: Path, most: int) -> bytes:
    """Returns a plain file's content.

    Raises:
        OSError: it is no plain file, larger than `most` bytes, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than the {most:,} that such a file may have")
        return file.read(most)


def is_file(path: Path) -> bool:
    """Returns whether a plain file is there; a name that no disk could hold is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def tensors(path: Path) -> str:
    """Returns what a file that is there holds by its ending, where that is tensors; else ""."""
    return TENSORS.get(path.suffix.lower(), "") if is_file(path) else ""


def read_text(path: Path, where: str, missing: str = "Correct the path.") -> str:
    """Returns a text file's content.

    Args:
        path: the file, in UTF-8 with or without a mark.
        where: what it is, as a fault says it.
        missing: what to do where it is not there.

    Raises:
        UserError: it is not there, or is no such text.
    """
    if held := tensors(path):
        raise UserError(f"{where}: expected a text, got {held}. {missing}")
    try:
        return decoded(read_bytes(path, LARGEST_TEXT))
    except FileNotFoundError:
        raise UserError(f"{where}: not found. {missing}") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror or error}). {missing}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def decoded(content: bytes) -> str:
    """Returns the text of a file in UTF-8, with or without a mark, its one line end for all systems'.

    Raises:
        ValueError: what it is instead, and the remedy.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError("expected a text in UTF-8, got one in UTF-16, which Windows calls Unicode. Save it as UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected a text in UTF-8, got: {error}. Save it as UTF-8.") from None
    if "\0" in text:
        raise ValueError(f"expected a text in UTF-8, got {unwritten(text)}.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """Returns what a JSON file holds.

    Raises:
        OSError: it is no plain file, is larger than `most` bytes, or cannot be read.
        ValueError: it is no JSON.
    """
    return parse_json(read_bytes(path, most))


def parse_json(content: bytes | str) -> Any:
    """Returns what a JSON text means; ValueError where it is none, nested without end among them."""
    try:
        return json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
