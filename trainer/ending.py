"""What a run leaves beside its adapter: the grid of its samples, the report, and the card for a hub."""

from __future__ import annotations

from pathlib import Path

from . import grid, images, modelcard, report, sampling
from .diary import Diary, Outcome
from .files import write_atomically
from .parts import Parts
from .runfacts import Run


def write(parts: Parts, outcome: Outcome, diary: Diary, seconds: float) -> list[Path]:
    """Writes them and returns their paths; OSError where the disk does not take them."""
    folder, made = parts.ready.folder, []
    found = sampling.found(parts.shots, folder.samples, folder.name)
    kept = grid.few(list(found))
    samples = {when: sampling.read(parts.shots, found[when]) for when in kept}
    sheet = folder.output("-grid.png") if len(samples) > 1 else None
    if sheet:
        made.append(write_atomically(sheet, images.png_bytes(grid.draw(samples))))
    run = Run(
        losses=diary.losses,
        rates=diary.rates,
        validation=diary.validations,
        samples=samples,
        resumed_at=[diary.done] if diary.done else [],
        files=[*outcome.files, *made],
        warning=outcome.warning,
        seconds=seconds,
        peak_memory=diary.peak_memory,
        first_step=diary.first_step,
    )
    made.append(write_atomically(folder.report, report.page(parts, run)))
    if folder.adapter in outcome.files:
        last = list(zip(parts.shots, found[sampling.AFTER], strict=True)) if sampling.AFTER in found else []
        made.append(write_atomically(folder.output(modelcard.ENDING), modelcard.page(parts, run, last, sheet)))
    return made
