"""Draws the class pictures that prior preservation lacks, with the base as it is before any training."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base.encode import Texts
from ..base.models import Base
from ..base.precision import Precision
from ..job.schema import Subset
from ..pictures import captions, images
from ..pictures.dataset import class_places
from ..preflight.preflight import Ready
from ..samples import sampling
from ..samples.prompts import Shot
from ..system import rng
from ..system.console import counted, say
from ..system.files import write_atomically

SEEDS = 2**32  # samplers of other tools take no larger ones, so that a picture can be drawn again there


def lacking(ready: Ready) -> dict[int, list[Path]]:
    """Returns subset number -> the class pictures that are to be drawn for it."""
    found = {number: class_places(subset) for number, subset in enumerate(ready.job.subsets())}
    return {number: places for number, places in found.items() if places}


@torch.no_grad()
def draw(ready: Ready, base: Base, texts: Texts, place: Precision) -> int:
    """Draws what is lacking into the subsets' folders, each picture as soon as it is there; returns how many.

    A run that is stopped in the middle goes on where it was: the n-th picture of a folder has the n-th seed.
    """
    count = 0
    for number, paths in lacking(ready).items():
        subset = ready.job.subsets()[number]
        what = f'of "{prompt(subset, ready)}" into {Path(subset.image_dir).name}'
        say(f"drawing {counted(len(paths), 'class picture')} {what}")
        for index, path in enumerate(paths, subset.num_class_images - len(paths)):
            [drawn] = sampling.draw(base, [shot(subset, ready, number, index)], texts, place)
            write_atomically(path, images.png_bytes(drawn.image))
            count += 1
    return count


def prompt(subset: Subset, ready: Ready) -> str:
    """Returns what the class pictures show."""
    return captions.fill_trigger(subset.class_tokens or "", ready.job.metadata.trigger_phrase)


def shot(subset: Subset, ready: Ready, number: int, index: int) -> Shot:
    """Returns how the `index`-th class picture of a subset is drawn."""
    sample, (width, height) = ready.job.sample, ready.resolution
    seed = rng.integer(ready.job.train.seed, "class picture", number, index) % SEEDS
    return Shot(
        prompt(subset, ready),
        "",
        seed,
        width,
        height,
        sample.sample_steps,
        sample.guidance_scale,
        sample.sample_sampler,
    )
