"""Draws the class pictures that prior preservation lacks, with the base as it is before any training."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base.encode import Texts
from ..base.models import Base
from ..base.precision import Precision
from ..job.schema import Subset
from ..pictures import captions, images
from ..pictures.dataset import image_files
from ..preflight.preflight import Ready
from ..samples import sampling
from ..samples.prompts import Shot
from ..system import rng
from ..system.console import say
from ..system.files import write_atomically

SEEDS = 2**32  # samplers of other tools take no larger ones, so that a picture can be drawn again there


def lacking(ready: Ready) -> dict[int, int]:
    """Returns subset number -> how many class pictures are to be drawn for it."""
    found = {}
    for number, subset in enumerate(ready.job.subsets()):
        folder = Path(subset.image_dir)
        have = len(image_files(folder)) if folder.is_dir() else 0
        if subset.num_class_images > have:
            found[number] = subset.num_class_images - have
    return found


@torch.no_grad()
def draw(ready: Ready, base: Base, texts: Texts, place: Precision) -> int:
    """Draws what is lacking into the subsets' folders, each picture as soon as it is there; returns how many.

    A run that is stopped in the middle goes on where it was: the n-th picture of a folder has the n-th seed.
    """
    count = 0
    for number, missing in lacking(ready).items():
        subset = ready.job.subsets()[number]
        say(f'drawing {missing} class pictures of "{prompt(subset, ready)}" into {Path(subset.image_dir).name}')
        for index in range(subset.num_class_images - missing, subset.num_class_images):
            [drawn] = sampling.draw(base, [shot(subset, ready, number, index)], texts, place)
            write_atomically(Path(subset.image_dir) / f"class-{index + 1:05d}.png", images.png_bytes(drawn.image))
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
