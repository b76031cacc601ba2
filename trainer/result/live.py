"""The report while the run works: the same page, written anew now and then, which reloads itself in a browser."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from ..samples import grid, sampling
from ..system.console import Progress, say
from ..system.errors import reason
from ..system.files import write_atomically
from . import report
from .runfacts import Run
from .runparts import Parts

AT_LEAST_S, AT_MOST_S = 10.0, 60.0  # between two pages
SHARE = 0.02  # of the run's time that writing pages may take, within these bounds


class Log(Protocol):
    """What the page shows of a run's log: `runlog.RunLog`, which owns the page."""

    done: int
    progress: Progress

    @property
    def losses(self) -> Sequence[float]: ...
    @property
    def rates(self) -> Sequence[float]: ...
    @property
    def validations(self) -> Sequence[tuple[int, float]]: ...
    @property
    def first_step(self) -> int: ...
    @property
    def peak_memory(self) -> int: ...
    def notice(self, text: str) -> None: ...


class LiveReport:
    """Writes the page of a run that goes on; what cannot be written is said once and ends no training.

    Args:
        parts: of the run.
        log: whose curves it shows.
    """

    def __init__(self, parts: Parts, log: Log) -> None:
        self.parts, self.log = parts, log
        self.began = time.perf_counter()
        self.due = self.began + AT_LEAST_S
        self.said = False
        self._drawn: dict[str, list[sampling.Drawn]] = {}
        self._figures: report.Figures | None = None
        self._stale = False  # whether they are not the newest

    def step(self) -> None:
        """Writes the page where one is due; called after every optimizer step."""
        if time.perf_counter() >= self.due:
            self.write()

    def changed(self) -> None:
        """Writes the page now: there are new samples."""
        self._stale = True
        self.write()

    def write(self) -> None:
        """Writes the page as the run is now, and says when the next one is due."""
        began = time.perf_counter()
        path = self.parts.ready.folder.report
        try:
            if self._figures is None or self._stale:
                self._figures, self._stale = self._made_figures(), False
            page = report.page(self.parts, self._run(), self._figures, self._now())
            write_atomically(path, page)
        except OSError as error:
            if not self.said:
                self.log.notice(f"the report cannot be written on the way: {reason(error)}")
        else:
            if not self.said:
                say(f"watch       {path}, which reloads itself in a browser")
        self.said = True
        took = time.perf_counter() - began
        self.due = time.perf_counter() + min(AT_MOST_S, max(AT_LEAST_S, took / SHARE))

    def _made_figures(self) -> report.Figures:
        folder = self.parts.ready.folder
        found = sampling.found(self.parts.shots, folder.samples, folder.name)
        for when in [when for when in found if when not in self._drawn]:
            self._drawn[when] = sampling.read(self.parts.shots, found[when])
        kept = grid.few([when for when in found if when in self._drawn], report.MOST_MOMENTS)
        thumbnails = self._figures.thumbnails if self._figures else None
        return report.figures({when: self._drawn[when] for when in kept}, self.parts.ready, thumbnails)

    def _run(self) -> Run:
        log = self.log
        return Run(
            losses=log.losses,
            rates=log.rates,
            validation=log.validations,
            resumed_at=[log.done] if log.done else [],
            seconds=time.perf_counter() - self.began,
            peak_memory=log.peak_memory,
            first_step=log.first_step,
        )

    def _now(self) -> report.Now:
        progress = self.log.progress
        return report.Now(progress.done, progress.total, progress.seconds_left, time.strftime("%H:%M:%S"))
