"""What a run writes and under which names, who may write there, and which of it is kept. Torch is not imported."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..job.notjob import JOB
from ..system.console import say
from ..system.errors import UserError, reason
from ..system.files import InUse, locked

ADAPTER, STATE, CARD = ".safetensors", ".state", "-README.md"
# What stands in a hidden name between the run's own and the file's ending. A run "dog" must not touch what "dog-2" or
# "dog-cat" has in work at the same moment, so that only endings which this trainer makes are taken for its own.
OWN = r"((-tensors(-\d+)?|-diff|-step\d{8,})?\.safetensors|-step\d{8,}\.state|-[A-Za-z]+\.(?!safetensors|state)\w+)"
SAMPLE = r"-(before|after|step\d{8,})-\d+-seed\d+\.png"
TEMPORARY = r"(\.tensors\.tmp|(\.tensors\.tmp)?\.[0-9a-f]{8}\.tmp)"


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        folder: of all that the run writes; other runs may write there too, under other names.
        name: the start of every file's name.
    """

    folder: Path
    name: str

    @property
    def adapter(self) -> Path:
        """The file that the run is for."""
        return self.output(ADAPTER)

    @property
    def metrics(self) -> Path:
        """The log with a line for every step."""
        return self.output("-metrics.jsonl")

    @property
    def report(self) -> Path:
        """The page that tells of the run."""
        return self.output("-report.html")

    @property
    def job(self) -> Path:
        """The job itself, every default written out and every path in full: it is for this machine alone."""
        return self.output(JOB)

    @property
    def samples(self) -> Path:
        """The folder of the pictures that are drawn on the way."""
        return self.folder / "samples"

    def output(self, ending: str) -> Path:
        """Returns the path of a file of this run."""
        return self.folder / f"{self.name}{ending}"

    def checkpoint(self, step: int) -> Path:
        """Returns the path of the adapter as it is after so many optimizer steps."""
        return self.output(f"-step{step:08d}{ADAPTER}")

    def state(self, step: int) -> Path:
        """Returns the path of what a run needs to go on after so many optimizer steps."""
        return self.output(f"-step{step:08d}{STATE}")

    def longest_name(self, steps: int, samples: int, seed: int) -> str:
        """Returns the longest name of a file that the run may ever write here, while it is being written.

        Args:
            steps: of the run.
            samples: that it draws at a time, with seeds of at most `seed`.
        """
        step = f"-step{steps:08d}"
        names = [f".{self.name}{step}{ADAPTER}.tensors.tmp", f"{self.name}{step}{STATE}", self.metrics.name]
        if samples:
            names.append(f"{self.name}{step}-{samples:02d}-seed{seed}.png")
        return max((f".{name}.{'0' * 8}.tmp" for name in names), key=lambda name: len(os.fsencode(name)))

    def too_long(self, steps: int, samples: int, seed: int) -> str:
        """Returns why the run's name does not fit into its files' names, "" where it does."""
        longest, most, widest = (
            self.longest_name(steps, samples, seed),
            name_bytes(self.folder),
            path_bytes(self.folder),
        )
        over = size(longest) - most
        if over > 0:
            return (
                f"expected at most {size(self.name) - over} bytes, so that the longest of the run's files fits its "
                f"disk's {most}, got {size(self.name)}. Shorten it."
            )
        over = size(str(self.samples / longest)) + 1 - widest  # samples lie deepest
        if over > 0:
            return f"expected files' paths of at most {widest} bytes, got {over} more. Shorten it, or output_dir."
        return ""

    def checkpoints(self) -> list[Path]:
        """Returns the run's checkpoints, oldest first."""
        return [self.checkpoint(step) for step in self._steps(ADAPTER)]

    def states(self) -> list[Path]:
        """Returns the run's states, oldest first: those of this name alone, and none that is half written."""
        return [self.state(step) for step in self._steps(STATE)]

    def newest_state(
        self, check: Callable[[Path], bool] | None = None, notice: Callable[[str], None] = say
    ) -> Path | None:
        """Returns the state of the latest step, None where there is none.

        Args:
            check: whether a state can be read; one that cannot is passed over for the one before.
            notice: told of each that was passed over.
        """
        for path in reversed(self.states()):
            if check is None or check(path):
                return path
            notice(f'state "{path.name}": damaged, the one before it is taken.')
        return None

    def keep_last(self, count: int, step: int | None = None, losses: Mapping[int, float] | None = None) -> list[Path]:
        """Deletes all but the last `count` checkpoints, each an adapter and its state; returns what was deleted.

        To be called when the newest one is complete. The newest state stays whatever happens.

        Args:
            count: how many stay; 0 = all.
            step: of the newest one. Those of later steps, which a run leaves that was taken up again from an earlier
                state, are then neither counted nor deleted.
            losses: optimizer steps done -> loss on the validation pictures: the adapter of the least loss stays too.
        """
        states = [number for number in self._steps(STATE) if step is None or number <= step]
        steps = sorted({*states, *(number for number in self._steps(ADAPTER) if step is None or number <= step)})
        known = {number: losses[number] for number in steps if losses and number in losses}
        best = min(known, key=lambda number: known[number], default=None)
        gone = []
        for old in steps[:-count] if count else ():
            for path in (self.checkpoint(old), self.state(old)):
                if path == self.state(states[-1] if states else -1) or (old == best and path.suffix == ADAPTER):
                    continue
                with suppress(OSError):  # someone has it open, or it was not there: the next time will do
                    path.unlink()
                    gone.append(path)
        return gone

    def clear(self) -> list[Path]:
        """Deletes checkpoints, states and samples of an earlier run of this name, which would pass for a new one's.

        Raises:
            UserError: one of them cannot be deleted.
        """
        sample = re.compile(rf"{re.escape(self.name)}{SAMPLE}")
        drawn = self.samples.glob("*.png") if self.samples.is_dir() else ()
        found = [*self.checkpoints(), *self.states(), *(path for path in drawn if sample.fullmatch(path.name))]
        for path in found:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(
                    f'file "{path}": of an earlier run, cannot be deleted ({reason(error)}). Delete or move it, or '
                    "choose another [save] output_name."
                ) from None
        return found

    def sweep(self) -> list[Path]:
        """Deletes what killed runs of this name left half written; returns it. To be called under the lock."""
        name = re.escape(self.name)
        half = re.compile(rf"\.{{1,2}}{name}({OWN}|{SAMPLE}){TEMPORARY}")
        gone = []
        for folder in (self.folder, self.samples):
            for path in folder.glob(".*.tmp") if folder.is_dir() else ():
                if half.fullmatch(path.name):
                    with suppress(OSError):
                        path.unlink()
                        gone.append(path)
        return gone

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from running under this name in this folder, which is made where there is none.

        The system itself holds the lock, and lets go of it however the process ends.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        where = f'output folder "{self.folder}"'
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK):  # the lock of a run that was killed may still be there to open
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            lock, held = locked(self.folder / f".{self.name}.lock")
        except InUse as error:
            raise UserError(
                f'{where}: expected no other run named "{self.name}" at work in it, got one: {error}. '
                "Wait for it or stop it, or choose another [save] output_name."
            ) from None
        except OSError as error:
            raise UserError(
                f"{where}: expected one that can be written, got: {error.strerror or error}. "
                "Get the right to write there, or choose another [save] output_dir."
            ) from None
        if not held:
            say(f"{where}: its disk knows no locks. See that no other run writes there under this name.")
        with lock:
            yield

    def steps(self) -> list[int]:
        """Returns the optimizer steps of the run's checkpoints, in ascending order."""
        return self._steps(ADAPTER)

    def _steps(self, ending: str) -> list[int]:
        """Returns the steps of the run's files with that ending, in ascending order."""
        pattern = re.compile(rf"{re.escape(self.name)}-step(\d{{8,}}){re.escape(ending)}")
        found = (pattern.fullmatch(path.name) for path in self.folder.glob("*") if path.is_file())
        return sorted(int(match[1]) for match in found if match)


def size(name: str) -> int:
    """Returns how long a file system counts a name: bytes, on Windows the letters of UTF-16."""
    return len(name.encode("utf-16-le")) // 2 if sys.platform == "win32" else len(os.fsencode(name))


def name_bytes(folder: Path) -> int:
    """Returns how long a file's name may be where the folder is or will be made."""
    return limit(folder, "PC_NAME_MAX", 255)


def path_bytes(folder: Path) -> int:
    """Returns how long a path may be there, with the mark that ends it."""
    return limit(folder, "PC_PATH_MAX", 260 if sys.platform == "win32" else 4096)


def limit(folder: Path, what: str, usual: int) -> int:
    """Returns a limit of the disk that the folder is on, the usual one where the system does not tell."""
    if sys.platform == "win32":
        return usual
    try:
        return os.pathconf(next(path for path in (folder, *folder.parents) if path.exists()), what)
    except (OSError, ValueError):
        return usual
