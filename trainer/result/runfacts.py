"""What came of a run, in numbers and words, for the pages that tell of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..methods import registry
from ..preflight.preflight import Ready
from ..samples.sampling import Drawn
from ..system.console import clock, counted
from . import kohyakeys

if TYPE_CHECKING:
    from .runparts import Parts

MOST_CAPTIONS = 5


@dataclass
class Run:
    """What came of a run.

    Attributes:
        losses: of each optimizer step done.
        rates: learning rate of each of them.
        validation: (steps done, loss on the validation pictures).
        samples: moment ("before", "step00000100", "after") -> its samples, in the order of the run.
        resumed_at: steps that were done whenever it was resumed.
        files: what the run wrote.
        warning: why the run is not whole, or "".
        seconds: that it took.
        peak_memory: bytes on the device, or of the process; 0 where nobody knows.
        first_step: of `losses[0]`, counted from 1.
    """

    losses: Sequence[float]
    rates: Sequence[float] = ()
    validation: Sequence[tuple[int, float]] = ()
    samples: Mapping[str, Sequence[Drawn]] = field(default_factory=dict)
    resumed_at: Sequence[int] = ()
    files: Sequence[Path] = ()
    warning: str = ""
    seconds: float = 0.0
    peak_memory: int = 0
    first_step: int = 1

    @property
    def steps(self) -> int:
        """Optimizer steps done, by this and earlier processes."""
        return self.first_step - 1 + len(self.losses)


def facts(parts: Parts, run: Run) -> dict[str, str]:
    """Returns the rows of the table of what was trained."""
    ready, place, method = parts.ready, parts.forward.place, registry.of(parts.ready.job.network)
    width, height = ready.resolution
    begun = ready.job.network.begins_with  # which has settings of its own
    basis = f"begun with those of {Path(begun).name}" if begun else method.basis_words()
    regular = sum(picture.is_reg for picture in ready.pictures)
    seen = run.steps * ready.pictures_per_step
    last = run.losses[-max(1, len(run.losses) // 10) :]
    rows = {
        "base": f"{kohyakeys.base_name(ready.job)}, trained at {width} x {height} px",
        "pictures": f"{len(ready.pictures) - regular}, an epoch sees {ready.epoch_length}",
        "class pictures": str(regular) if regular else "",
        "validation": f"{counted(len(ready.validation), 'picture')} never trained" if ready.validation else "",
        "steps": f"{run.steps} of {ready.steps}, each of {counted(ready.pictures_per_step, 'picture')}: {seen} in all, "
        f"{seen / ready.epoch_length:.1f} epochs",
        "resumed": ", ".join(f"after step {step}" for step in run.resumed_at),
        "adapter": f"{parts.tuning.numel} {method.UNIT} in {counted(len(parts.tuning), 'layer')}, {basis}",
        "loss": f"{sum(last) / len(last):.4f} (mean of the last {counted(len(last), 'step')})" if last else "none",
        "validation loss": validation_words(run.validation),
        "device": f"{place.device}, mixed_precision {place.name}, torch {torch.__version__}",
        "time": clock(run.seconds),
        "peak memory": f"{run.peak_memory / 2**30:.2f} GiB" if run.peak_memory else "",
    }
    return {key: value for key, value in rows.items() if value}


def captions(ready: Ready) -> dict[str, str]:
    """Returns a row with the first captions of the pictures that are taught, as they are without any draw."""
    found = list(dict.fromkeys(picture.caption.plain() for picture in ready.pictures if not picture.is_reg))
    more = f" and {len(found) - MOST_CAPTIONS} more" if len(found) > MOST_CAPTIONS else ""
    return {"captions": "; ".join(f"“{text}”" for text in found[:MOST_CAPTIONS]) + more}


def validation_words(validation: Sequence[tuple[int, float]]) -> str:
    """Returns the first and the last validation loss in words, or ""."""
    if not validation:
        return ""
    (first, before), (last, after) = validation[0], validation[-1]
    least = min(validation, key=lambda one: one[1])
    text = f"{after:.4f} after step {last}" + (f", {before:.4f} after step {first}" if first != last else "")
    return text + (f", least {least[1]:.4f} after step {least[0]}" if least[0] not in (first, last) else "")


def bucket_rows(ready: Ready) -> list[tuple[str, ...]]:
    """Returns a row for each size that is trained: itself, how many pictures, and how often an epoch sees one."""
    pictures: Counter[tuple[int, int]] = Counter(picture.geometry.bucket for picture in ready.pictures)
    views: Counter[tuple[int, int]] = Counter()
    for picture in ready.pictures:
        views[picture.geometry.bucket] += picture.repeats
    return [(f"{w} x {h} px", str(count), str(views[w, h])) for (w, h), count in sorted(pictures.items())]
