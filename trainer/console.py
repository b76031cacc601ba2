"""What a run shows while it works: a progress bar on a terminal, plain lines elsewhere, and a line of JSON a step."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import IO, Self

from tqdm import tqdm

LINES_A_RUN = 20
SMOOTHING = 0.05  # share of the newest step in the loss that is shown


def say(text: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)


def clock(seconds: float) -> str:
    """Returns "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def bar(total: int) -> tqdm:
    """Returns a progress bar; tqdm by itself draws nothing on terminals that report a size of 0 by 0."""
    columns, lines = shutil.get_terminal_size()
    return tqdm(total=total, desc="training", unit="step", ncols=columns, nrows=lines)


class Progress:
    """The run's progress; as a context manager it closes its bar and its file.

    Args:
        total: optimizer steps.
        metrics: file that gets one JSON object a step.
        interactive: whether to draw a bar; None = where standard error is a terminal.
    """

    def __init__(self, total: int, metrics: Path, interactive: bool | None = None) -> None:
        self.total, self.began = total, time.perf_counter()
        self.losses: list[float] = []
        metrics.parent.mkdir(parents=True, exist_ok=True)
        # one line a step, flushed: a log grows, so that it is the one file that is not written whole
        self.file: IO[str] = metrics.open("w", encoding="utf-8", buffering=1)
        interactive = sys.stderr.isatty() if interactive is None else interactive
        self.bar = bar(total) if interactive else None
        self.smooth: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
        with contextlib.suppress(OSError):  # a full disk was told when the line was written
            self.file.close()

    def step(self, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Notes one finished optimizer step."""
        self.losses.append(loss)
        done, seconds = len(self.losses), time.perf_counter() - self.began
        self.smooth = loss if self.smooth is None else self.smooth + SMOOTHING * (loss - self.smooth)
        norm = grad_norm if math.isfinite(grad_norm) else None  # fp16 may overflow, and JSON has no infinity
        row = {"step": done, "loss": loss, "grad_norm": norm, "lr": learning_rate, "seconds": round(seconds, 3)}
        self.file.write(json.dumps(row) + "\n")
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {self.smooth:.4f}", refresh=False)
            self.bar.update()
        elif done in (1, self.total) or done % max(1, self.total // LINES_A_RUN) == 0:
            left = seconds / done * (self.total - done)
            say(f"step {done}/{self.total}  loss {self.smooth:.4f}  {seconds / done:.2f} s/step  {clock(left)} left")
