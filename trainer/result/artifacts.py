"""What a run leaves beside its adapter: the grid of its samples, the report, and the card for a hub."""

from __future__ import annotations

from pathlib import Path

from ..pictures import images
from ..run.runfolder import CARD
from ..samples import grid, sampling
from ..system.files import write_atomically
from . import modelcard, report
from .runfacts import Run
from .runlog import Outcome, RunLog
from .runparts import Parts


def write(parts: Parts, outcome: Outcome, log: RunLog, seconds: float) -> list[Path]:
    """Writes them and returns their paths; OSError where the disk does not take them."""
    folder, made = parts.ready.folder, []
    found = sampling.found(parts.shots, folder.samples, folder.name)
    kept = grid.few(list(found), report.MOST_MOMENTS)
    samples = {when: sampling.read(parts.shots, found[when]) for when in kept}
    sheet = folder.output("-grid.png") if len(samples) > 1 else None
    if sheet:
        made.append(write_atomically(sheet, images.png_bytes(grid.draw(samples))))
    run = Run(
        losses=log.losses,
        rates=log.rates,
        validation=log.validations,
        samples=samples,
        resumed_at=[log.done] if log.done else [],
        files=[*outcome.files, *made],
        warning=outcome.warning,
        seconds=seconds,
        peak_memory=log.peak_memory,
        first_step=log.first_step,
    )
    made.append(write_atomically(folder.report, report.page(parts, run)))
    if folder.adapter in outcome.files:
        last = list(zip(parts.shots, found[sampling.AFTER], strict=True)) if sampling.AFTER in found else []
        made.append(write_atomically(folder.output(CARD), modelcard.page(parts, run, last, sheet)))
    return made
