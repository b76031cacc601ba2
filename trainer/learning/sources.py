"""What a run draws its batches from, encoded as far as can be before training; then the encoders may go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..base import cache, encode
from ..base.models import Base
from ..pictures.plan import Plan, micro_batches
from ..preflight import trial
from ..preflight.preflight import Ready
from ..samples.prompts import Shot
from ..system.console import counted, counter, say
from ..system.distributed import World

MOST_VIEWS = 1_000_000  # that are gone through to see which texts there are
MOST_TEXTS = 4096  # encoded before training, 0.3 MB each; a run that sees more keeps the text encoders


@dataclass(frozen=True)
class Sources:
    """Where a run's batches come from: the plan of its pictures, their latents, and the encoded captions."""

    plan: Plan
    latents: encode.Latents
    texts: encode.Texts


def store(ready: Ready, kind: str) -> cache.Store:
    """Returns where encodings of that kind are kept: "texts" or "latents"."""
    settings = ready.job.cache
    kept = settings.cache_latents_to_disk if kind == "latents" else settings.cache_text_encoder_outputs_to_disk
    return cache.Store(ready.cache_folder / kind if kept else None)


def prepare(
    ready: Ready, base: Base, texts: encode.Texts, shots: list[Shot], device: torch.device, world: World
) -> tuple[Sources, list[str]]:
    """Returns the run's sources, with everything encoded that can be before training, and what may surprise."""
    say(f"encoding {counted(len(ready.pictures) + len(ready.validation), 'picture')} with captions")
    kept = store(ready, "latents")
    latents = encode.Latents(base, device, ready.job.cache, kept, ready.facts.vae_identity)
    latents.prepare([*ready.pictures, *ready.validation], world, counter("encoding pictures"))
    latents.release()
    # those of a base that was on this machine were told before
    long = trial.too_long(ready.pictures, [tokenizer for tokenizer, _ in base.text], texts.longest)
    notices = kept.notices() + [text for text in long if text not in ready.notices]
    wanted, all_of_them = captions(ready, shots)
    if not ready.job.network.train_text_encoder:  # then nothing stays as it was encoded
        texts.prepare(wanted, world, counter("encoding captions"))
        notices += texts.notices()
        if all_of_them:
            texts.release()
    return Sources(ready.plan, latents, texts), notices


def captions(ready: Ready, shots: list[Shot]) -> tuple[list[str], bool]:
    """Returns the texts to encode before training, and whether those are all that the run will see."""
    wanted = dict.fromkeys(text for shot in shots for text in (shot.prompt, shot.negative_prompt))
    wanted |= dict.fromkeys(picture.caption.plain() for picture in ready.validation)
    if not ready.job.cache.cache_text_encoder_outputs:
        return list(wanted), False
    for number, caption in enumerate(seen(ready)):
        wanted[caption] = None
        if len(wanted) > MOST_TEXTS or number > MOST_VIEWS:
            return list(wanted), False
    return list(wanted), True


def seen(ready: Ready) -> Iterator[str]:
    """Yields the final caption of every view of the run, in the order in which they are seen."""
    if not any(picture.caption.varies for picture in ready.pictures):
        yield from (picture.caption.plain() for picture in ready.pictures)
        return
    job = ready.job
    for step in range(ready.steps):
        for micro in micro_batches(ready.plan, step, ready.batches_per_step, 0, 1):
            for row, view in enumerate(micro.views):
                caption = ready.pictures[view.picture].caption
                yield caption.draw(job.train.seed, step, micro.first + row, view.epoch, ready.steps)
