"""The grid of `waveft sample`: the same shots with an adapter in the base at one strength after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base import cache, encode, models, precision
from ..base.modelfacts import ModelFacts
from ..job.schema import Job
from ..pictures import images
from ..samples import grid, sampling
from ..samples.prompts import Shot
from ..samples.sampling import Drawn
from ..system.console import say
from ..system.files import write_atomically
from .applying import applied


@dataclass(frozen=True)
class Request:
    """What is to be drawn.

    Attributes:
        job: of the run, with the prompts to draw.
        facts: of its base.
        adapter: the file.
        shots: the pictures of each strength.
        strengths: the columns, as they come; 0 is the base.
        out: where the grid goes.
    """

    job: Job
    facts: ModelFacts
    adapter: Path
    shots: Sequence[Shot]
    strengths: Sequence[float]
    out: Path


def draw(request: Request) -> Path:
    """Draws every picture and writes the grid; returns its path.

    Raises:
        UserError: the adapter does not fit the base.
        TrainingStopped: a picture came out not finite.
    """
    job = request.job
    place = precision.choose(job.train)
    base = models.load(job.model, place, request.facts, job.train.attention)
    columns: dict[str, list[Drawn]] = {}
    for strength in request.strengths:
        say(f"strength {strength:g}")
        with applied(base, request.adapter if strength else None, strength) as reaches_text:
            texts = encode.Texts(base, place.device, cache.Store(None), trained=reaches_text)
            columns[f"strength {strength:g}"] = sampling.draw(base, request.shots, texts, place)
    return write_atomically(request.out, images.png_bytes(grid.across(columns)))
