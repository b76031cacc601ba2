"""What a run shows while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from tqdm import tqdm

from .plaintext import shown, shown_lines

if TYPE_CHECKING:
    import torch

LINES_A_RUN = 20
FIRST_STEPS = 3  # that say nothing yet of the time that is left
LONGEST_SILENCE_S = 60.0
SMOOTHING = 0.05  # share of the newest step in the loss that is shown

_silent = False


def silence(on: bool = True) -> None:
    """Makes `say` say nothing: of several processes only the main one speaks."""
    global _silent
    _silent = on


def say(text: str) -> None:
    """Prints a line at once, also into a pipe.

    A reader that is gone or a disk that is full ends no training; a terminal that lacks a letter shows "?". Line ends
    are the caller's own, all other controls are shown as escapes.
    """
    if not _silent:
        _print(text, sys.stdout)


def notice(text: str) -> None:
    """Prints what may surprise, on one line whatever names it holds."""
    say(f"notice      {shown(text)}")


def complain(text: str) -> None:
    """Prints a line to standard error as `say` does, whoever else is silent: what is wrong is always told."""
    if text:
        _print(text.rstrip("\n"), sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    with suppress(OSError, ValueError), tqdm.external_write_mode(file=stream):  # a bar is taken off and drawn anew
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(shown_lines(text).encode(encoding, "replace").decode(encoding), file=stream, flush=True)


def let_go() -> None:
    """Lets go of streams that nobody reads any more: what they hold would end the process with a status of its own.

    A terminal whose connection dropped, or a pipe whose reader ended.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # a stream without a file, as a test's
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun: "1 picture", "2 pictures"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith(("s", "ch", "x")) else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def counter(what: str) -> Callable[[int, int], None] | None:
    """Returns what shows on a terminal how many of a number are done; None elsewhere, and where nothing is said."""
    if _silent or not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def clock(seconds: float) -> str:
    """Returns "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def memory(size: int) -> str:
    """Returns bytes in words: "512 MiB", "11.6 GiB"."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def peak_memory(device: torch.device) -> int:
    """Returns the bytes this process had at most: on a CUDA device, else in the machine's memory; 0 = not known."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak_memory(device: torch.device) -> None:
    """Makes `peak_memory` count from now on, where the system can: on Linux and on CUDA devices."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def bar(total: int, done: int) -> tqdm:
    """Returns a progress bar; tqdm by itself draws nothing on terminals that report a size of 0 by 0."""
    columns, lines = shutil.get_terminal_size()
    return tqdm(total=total, initial=done, unit="step", ncols=columns, nrows=lines)


class Progress:
    """The run's progress; as a context manager it closes its bar.

    Args:
        total: optimizer steps of the whole run.
        device: whose memory is told of; None = say nothing of memory.
        done: steps that earlier processes did.
        quiet: show nothing, as processes that are not the main one do.
        interactive: whether to draw a bar; None = where standard error is a terminal.
    """

    def __init__(
        self,
        total: int,
        device: torch.device | None = None,
        done: int = 0,
        quiet: bool = False,
        interactive: bool | None = None,
    ) -> None:
        self.total, self.device, self.done, self.quiet = total, device, done, quiet
        self.began_at, self.began = done, time.perf_counter()
        self.first: float | None = None  # when the first step ended: it warms up and compiles, and tells of no other
        self.told = self.began
        self.smooth: float | None = None
        interactive = sys.stderr.isatty() if interactive is None else interactive
        self.bar = bar(total, done) if interactive and not quiet else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            with suppress(OSError):
                self.bar.close()

    @property
    def seconds(self) -> float:
        """Since the beginning, of this process."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Of the training, None before enough steps were done to tell: the first ones warm up and compile."""
        if self.done - self.began_at < FIRST_STEPS and self.done < self.total:
            return None
        return (self.total - self.done) / self._steps_a_second(time.perf_counter())

    def step(self, loss: float, learning_rate: float) -> None:
        """Notes one finished optimizer step and shows it, on a bar always, in lines now and then."""
        self.done += 1
        self.smooth = loss if self.smooth is None else self.smooth + SMOOTHING * (loss - self.smooth)
        now = time.perf_counter()
        if self.first is None:
            self.first = now
        if self.quiet:
            return
        peak = peak_memory(self.device) if self.device is not None else 0
        words = [f"loss {self.smooth:.4f}", f"lr {learning_rate:.3g}", f"peak {memory(peak)}" if peak else ""]
        if self.bar is not None:
            with suppress(OSError):
                self.bar.set_postfix_str(", ".join(word for word in words if word), refresh=False)
                self.bar.update()
        elif self._is_due(now):
            self.told = now
            rate, seconds = self._steps_a_second(now), self.seconds_left
            left = "" if seconds is None else f"{clock(seconds)} left"
            words = [f"step {self.done}/{self.total}", *words[:2], f"{rate:.3g} steps/s", left, words[2]]
            say("  ".join(word for word in words if word))

    def _is_due(self, now: float) -> bool:
        """Returns whether a line is due: for the first and last step, twenty times a run, and once a minute."""
        return (
            self.done in (self.began_at + 1, self.total)
            or self.done % max(1, self.total // LINES_A_RUN) == 0
            or now - self.told >= LONGEST_SILENCE_S
        )

    def _steps_a_second(self, now: float) -> float:
        """Returns how fast this process is: all its steps but the first, where there are more."""
        steps = self.done - self.began_at
        since, count = (self.first, steps - 1) if steps > 1 and self.first is not None else (self.began, steps)
        return count / max(now - since, 1e-9)
