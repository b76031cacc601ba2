"""What of a run is evaluated: the base, each checkpoint, and the last adapter, at one strength or several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..run import metrics
from ..run.metrics import LARGEST_LOG
from ..run.runfolder import RunFolder
from ..system.errors import UserError
from ..system.reading import open_regular, read_bytes

BASE = "base"


@dataclass(frozen=True)
class Candidate:
    """An adapter in the base.

    Attributes:
        step: optimizer steps that it was trained for; 0 = the base itself.
        strength: that it is applied at.
        path: its file; None = the base itself.
        digest: hexadecimal, of the file's content.
    """

    step: int
    strength: float = 1.0
    path: Path | None = None
    digest: str = ""

    @property
    def name(self) -> str:
        """A folder's name for it."""
        if self.path is None:
            return BASE
        return f"step{self.step:08d}" + (f"-x{self.strength:g}" if self.strength != 1 else "")

    @property
    def label(self) -> str:
        """The same as people read it."""
        if self.path is None:
            return BASE
        return f"step {self.step}" + (f", strength {self.strength:g}" if self.strength != 1 else "")


def of_run(folder: RunFolder, strengths: Sequence[float], last_step: int) -> list[Candidate]:
    """Returns the base, and every adapter of the run at every strength, in the order of their steps.

    Args:
        folder: of the run.
        strengths: to try.
        last_step: optimizer steps of the run's own file, where its log does not tell.

    Raises:
        UserError: the run has no adapter.
    """
    files = {number: folder.checkpoint(number) for number in folder.steps()}
    if folder.adapter.exists():
        files[steps_done(folder) or last_step] = folder.adapter
    if not files:
        raise UserError(
            f'run "{folder.name}" in "{folder.folder}": expected an adapter or checkpoints, got none. Train it first, '
            "with [save] save_every_n_steps so that there is something to choose from."
        )
    found = [Candidate(0)]
    for step, path in sorted(files.items()):
        digest = digest_of(path)
        found += [Candidate(step, strength, path, digest) for strength in strengths]
    return found


def steps_done(folder: RunFolder) -> int:
    """Returns the last optimizer step that the run's log tells of, 0 where there is none."""
    rows = log(folder)
    return max((row["step"] for row in rows if "loss" in row), default=0)


def validation_losses(folder: RunFolder) -> list[tuple[int, float]]:
    """Returns (optimizer steps done, loss on the validation pictures) as the run's log tells them."""
    return [(row["step"], row["val_loss"]) for row in log(folder) if row.get("val_loss") is not None]


def log(folder: RunFolder) -> list[dict]:
    """Returns the rows of the run's log that are whole."""
    try:
        lines = read_bytes(folder.metrics, LARGEST_LOG).splitlines()
    except OSError:
        return []
    return [row for row in map(metrics.parsed, lines) if row]


def digest_of(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = [(str(one.relative_to(path)), digest_of(one)) for one in sorted(path.rglob("*")) if one.is_file()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
