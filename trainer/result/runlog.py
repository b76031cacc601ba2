"""What a run tells while it works: its progress, its log, its trackers and its notices; and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..run import trackers
from ..run.metrics import Metrics
from ..samples.sampling import Drawn
from ..system.console import Progress, notice, peak_memory, say
from ..system.errors import traceback_of
from . import metadata
from .live import LiveReport
from .runparts import Parts


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        steps: optimizer steps done, by this and earlier processes.
        warning: why the run is not whole, or "".
        exit_status: 0 done, 1 stopped by a fault, 128 + signal number when interrupted.
        files: what was written.
        validated: optimizer steps done -> loss on the validation pictures.
        parameters: how many numbers were trained.
        peak_memory: bytes on the device, or of the process; 0 where nobody knows.
        traceback: of what nobody expects, to be shown when everything is saved; "" where there is none.
    """

    steps: int = 0
    warning: str = ""
    exit_status: int = 0
    files: list[Path] = field(default_factory=list)
    validated: dict[int, float] = field(default_factory=dict)
    parameters: int = 0
    peak_memory: int = 0
    traceback: str = ""

    def stop(self, why: str, exit_status: int) -> None:
        """Notes that the run ends before its time, or not as it should."""
        self.warning = f"{self.warning}; {why}" if self.warning else why
        self.exit_status = self.exit_status or exit_status

    @property
    def best(self) -> tuple[int, float] | None:
        """The step of the least validation loss, and that loss; None where nothing was validated."""
        return min(self.validated.items(), key=lambda one: one[1], default=None)

    def fail(self, why: str, error: BaseException) -> None:
        """Notes that the run ends by a fault."""
        self.blame(error)
        self.stop(why, 1)

    def blame(self, error: BaseException) -> None:
        """Keeps the traceback of what is no machine's, disk's or job's fault."""
        self.traceback += traceback_of(error)

    def wrote(self, path: Path) -> None:
        """Notes a file."""
        if path not in self.files:
            self.files.append(path)


class RunLog:
    """The run's voice, a context manager; processes that are not the main one have none.

    Args:
        parts: of the run.
        done: optimizer steps that earlier processes did; 0 begins the log anew.

    Attributes:
        rows: of the log, those of earlier processes first: {"step", "loss", "grad_norm", "lr", "seconds"} for each
            optimizer step and {"step", "val_loss"} for each validation.
    """

    def __init__(self, parts: Parts, done: int) -> None:
        self.parts, self.done, is_main = parts, done, parts.world.is_main
        ready, device = parts.ready, parts.forward.place.device
        self.rows: list[dict[str, Any]] = []
        self.metrics: Metrics | None = None
        self.trackers = trackers.Trackers({})
        if is_main:
            table = metadata.public_table(ready)
            self.trackers = trackers.make(
                ready.job.logging, ready.folder.folder, ready.folder.name, table, done, self.notice
            )
            self.metrics = Metrics(ready.folder.metrics, done, self.notice)
            self.rows = list(self.metrics.rows)
        self.progress = Progress(ready.steps, device, done, quiet=not is_main)
        self.live = LiveReport(parts, self) if is_main else None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self.progress)
        self._open.enter_context(self.trackers)
        if self.metrics is not None:
            self._open.enter_context(self.metrics)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def notice(self, text: str) -> None:
        """Says what may surprise, and keeps it for the report."""
        self.parts.notices.append(text)
        notice(text)

    def step(self, step: int, loss: float, norm: float, rate: float) -> None:
        """Notes a finished optimizer step."""
        self.progress.step(loss, rate)
        seconds = round(self.progress.seconds, 3)
        self._note(step, {"loss": loss, "grad_norm": norm, "lr": rate, "seconds": seconds})
        if self.live is not None:
            self.live.step()

    def validation(self, step: int, loss: float) -> None:
        """Notes the loss on the pictures that are never trained."""
        say(f"validation loss {loss:.4f} after step {step}")
        self._note(step, {"val_loss": loss})

    def samples(self, step: int, drawn: Sequence[Drawn]) -> None:
        """Shows samples, which are on the disk already, to the trackers and in the report."""
        self.trackers.pictures(step, drawn)
        if self.live is not None:
            self.live.changed()

    def _note(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, **values})
        self.trackers.log(step, values)
        if self.metrics is not None:
            self.metrics.write(step, values)

    @property
    def losses(self) -> list[float]:
        """Of each optimizer step that the log has."""
        return [row["loss"] for row in self.rows if row.get("loss") is not None]

    @property
    def rates(self) -> list[float]:
        """The learning rate of each of them."""
        return [row["lr"] for row in self.rows if row.get("loss") is not None]

    @property
    def validations(self) -> list[tuple[int, float]]:
        """(optimizer steps done, loss on the validation pictures)."""
        return [(row["step"], row["val_loss"]) for row in self.rows if row.get("val_loss") is not None]

    @property
    def first_step(self) -> int:
        """Of the first loss, counted from 1: later than 1 where an earlier process's log was lost."""
        return next((row["step"] for row in self.rows if "loss" in row), 1)

    @property
    def peak_memory(self) -> int:
        """Bytes on the device, or of the process."""
        return peak_memory(self.parts.forward.place.device)
