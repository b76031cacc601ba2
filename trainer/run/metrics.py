"""The run's log: one JSON object a line, for every optimizer step and every validation."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ..system.console import say
from ..system.errors import reason
from ..system.files import write_atomically
from ..system.reading import parse_json, read_bytes

LARGEST_LOG = 2**30  # bytes: of ten million steps


class Metrics:
    """The log of a run that begins, or that goes on after some steps; as a context manager it closes its file.

    Whatever the disk does, training goes on: the first failure is told, and lines that did not fit are missing.

    Args:
        path: the file; its folder is made where there is none.
        after_step: optimizer steps that a resumed run has behind it; rows of later ones, which it does again, are
            dropped, and so is a last line that was cut short. 0 = begin the log anew.
        notice: told of the first failure.

    Attributes:
        rows: those of earlier processes that stay.
    """

    def __init__(self, path: Path, after_step: int = 0, notice: Callable[[str], None] = say) -> None:
        self.path, self.rows = path, list[dict[str, Any]]()
        self._notice, self._failed = notice, False
        self._file = None
        try:
            old = read_bytes(path, LARGEST_LOG) if path.exists() else b""
            self.rows = [row for row in map(parsed, old.splitlines()) if row and row["step"] <= after_step > 0]
            kept = b"".join(map(line, self.rows))
            if kept != old or not path.exists():
                write_atomically(path, kept)
            # lines go to the system one by one, unbuffered: whatever kills the process, those written stay
            self._file = path.open("ab", buffering=0)
            self._end = len(kept)
        except OSError as error:
            self._failure(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Appends a row: the step, and the values by their names; what is not finite becomes null."""
        if self._file is None:
            return
        finite = {key: value if value is None or math.isfinite(value) else None for key, value in values.items()}
        made = line({"step": step, **finite})
        try:
            if self._file.write(made) != len(made):
                raise OSError(errno.ENOSPC, "no space left for the whole line")
            self._end += len(made)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)  # half a line would spoil the next one
            self._failure(error)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _failure(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._notice(f'log "{self.path}": cannot be written ({error.strerror or reason(error)}). Training goes on.')


def line(row: Mapping[str, Any]) -> bytes:
    """Returns a row as it stands in the file."""
    return json.dumps(row).encode() + b"\n"


def parsed(text: bytes) -> dict[str, Any] | None:
    """Returns the row of a line, None where it is damaged."""
    try:
        row = parse_json(text)
    except ValueError:  # also text that is no UTF-8
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
