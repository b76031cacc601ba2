"""Everything that a run needs before its first step, built in the order in which it can fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import waveft_core

from . import encode, models, optim, precision, preflight, sampling
from .batch import Cache
from .console import say
from .losses import Noising
from .preflight import Ready


@dataclass
class Parts:
    """A run's parts.

    Attributes:
        ready: the checked job.
        place: device and dtype.
        base: the frozen model, its text encoders gone.
        tuning: the coefficients in the base's weights.
        cache: the encoded captions, prompts and pictures.
        noising: the base's noise schedule.
        optimizer: over the coefficients.
        schedule: of the optimizer's learning rate.
        notices: what may surprise.
    """

    ready: Ready
    place: precision.Precision
    base: models.Base
    tuning: waveft_core.Tuning
    cache: Cache
    noising: Noising
    optimizer: torch.optim.Optimizer
    schedule: Any
    notices: list[str]

    @property
    def prediction(self) -> str:
        """What the base predicts: "epsilon" or "v_prediction"."""
        return "v_prediction" if self.noising.predicts_velocity else "epsilon"


def build(ready: Ready) -> Parts:
    """Returns the parts of a run, the base with zero coefficients in it.

    Raises:
        UserError: machine, base, optimizer or pictures do not fit the job.
        WaveFTError: [network] does not fit the base.
    """
    job = ready.job
    if job.train.threads:
        torch.set_num_threads(job.train.threads)
    place = precision.choose(job.train)
    targets = job.network.targets if isinstance(job.network.targets, str) else tuple(job.network.targets)
    spec = waveft_core.Spec(**{**job.network.model_dump(), "targets": targets})
    say(f"loading the base (device {place.device}, mixed_precision {place.name})")
    base = models.load(job.model, place.dtype)
    trial = waveft_core.attach(base.unet, spec)  # what does not fit is refused now, not after minutes of encoding
    optim.make(job.optimizer, trial.parameters(), job.train.max_train_steps)
    trial.detach()

    say(f"encoding {len(ready.pictures)} pictures and their captions")
    cache = fill_cache(base, ready, place.device)
    base.unet.to(place.device)
    if job.train.gradient_checkpointing is True or (
        job.train.gradient_checkpointing == "auto" and place.device.type == "cuda"
    ):
        base.unet.enable_gradient_checkpointing()
    tuning = waveft_core.attach(base.unet, spec)
    optimizer, schedule = optim.make(job.optimizer, tuning.parameters(), job.train.max_train_steps)
    noising = Noising(base.scheduler, place.device)
    cut = long_captions(ready, cache)
    for notice in cut:
        say(f"notice      {notice}")
    notices = preflight.notices(ready) + cut
    return Parts(ready, place, base, tuning, cache, noising, optimizer, schedule, notices)


def fill_cache(base: models.Base, ready: Ready, device: torch.device) -> Cache:
    """Returns every encoding that the run needs, and lets the text encoders go."""
    prompts = [text for each in sampling.filled_prompts(ready.job) for text in (each.prompt, each.negative_prompt)]
    texts = encode.encode_texts(base, [*(picture.caption for picture in ready.pictures), "", *prompts], device)
    base.text.clear()
    return Cache(ready.epoch, encode.encode_latents(base, ready.pictures, device), texts)


def long_captions(ready: Ready, cache: Cache) -> list[str]:
    """Returns a notice for every picture whose caption's end the encoders do not see."""
    return [
        f"{picture.path.name}: its caption has {count} tokens, the encoders see the first {encode.TOKENS}"
        for picture in ready.pictures
        if (count := cache.texts[picture.caption].tokens) > encode.TOKENS
    ]
