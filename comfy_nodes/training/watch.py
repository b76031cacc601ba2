"""What a training's files tell of it while the trainer writes them."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from .paths import Run

MEAN_OF = 20  # steps
TOLD_BESIDE = ("drawing", "notice", "stopping")  # how lines of the trainer's begin that are shown while it steps


class Watch:
    """What a run's files tell of it while they are written.

    Attributes:
        step: the last one that is done; 0 before the first.
        losses: of the last steps.
    """

    def __init__(self, place: Run, steps: int) -> None:
        self.place, self.steps, self.step = place, steps, 0
        self.losses: deque[float] = deque(maxlen=MEAN_OF)
        self._clock: deque[float] = deque(maxlen=MEAN_OF)  # seconds since the child began, a step
        self._line, self._at = "", 0
        self._old = stamp(place.metrics)  # an earlier run's: the child replaces it once it begins
        self._seen = set(place.samples())
        self._new: list[tuple[int, Path]] = []

    def look(self) -> bool:
        """Reads what is new; returns whether anything is."""
        line, step = self._line, self.step
        self._line = last_line(self.place.log)
        self._read_metrics()
        self._new += [one for one in self.place.samples() if one not in self._seen]
        self._seen.update(self._new)
        return bool(self._new) or (line, step) != (self._line, self.step)

    def picture(self) -> Image.Image | None:
        """Returns the newest sample that was not taken yet."""
        if not self._new:
            return None
        path, self._new = self._new[-1][1], []
        with suppress(OSError), Image.open(path, formats=("PNG",)) as file:  # it may be gone again
            return file.convert("RGB")
        return None

    def text(self) -> str:
        """Returns how far the run is, in a line or two."""
        if not self.step:
            return f"preparing: {self._line}" if self._line else "preparing"
        words = [f"step {self.step}/{self.steps}"]
        if self.losses:
            words.append(f"loss {sum(self.losses) / len(self.losses):.4f}")
        if len(self._clock) > 1 and (each := (self._clock[-1] - self._clock[0]) / (len(self._clock) - 1)) > 0:
            words += [f"{each:.3g} s a step", f"{clock(each * (self.steps - self.step))} left"]
        return ", ".join(words) + (f"\n{self._line}" if self._line.startswith(TOLD_BESIDE) else "")

    def _read_metrics(self) -> None:
        if stamp(self.place.metrics) in (self._old, None):
            return
        with suppress(OSError), self.place.metrics.open("rb") as file:
            if os.fstat(file.fileno()).st_size < self._at:  # it was begun anew
                self._at = 0
            file.seek(self._at)
            new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._at += len(whole)
            for row in map(_parsed, whole.splitlines()):
                self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        if row.get("loss") is not None:
            self.step = int(row["step"])
            self.losses.append(float(row["loss"]))
            if self._clock and row["seconds"] < self._clock[-1]:  # the process before this one's
                self._clock.clear()
            self._clock.append(float(row["seconds"]))


def losses(place: Run) -> list[float]:
    """Returns the loss of each step that the log has."""
    with suppress(OSError):
        rows = map(_parsed, place.metrics.read_bytes().splitlines())
        return [float(row["loss"]) for row in rows if row.get("loss") is not None]
    return []


def last_line(path: Path) -> str:
    """Returns the last line of a log that says anything, "" where there is none."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")[:-1]
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


def clock(seconds: float) -> str:
    """Returns "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def stamps(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Returns size and time of each file that is there."""
    return {path: found for path in paths if (found := stamp(path)) is not None}


def stamp(path: Path) -> tuple[int, int] | None:
    """Returns a file's size and time, None where there is none."""
    with suppress(OSError):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return None


def _parsed(line: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        row = json.loads(line)
        return row if isinstance(row, dict) else {}
    return {}
