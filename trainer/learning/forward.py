"""The base as a function: from captions and noised latents to its prediction, from a batch to its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..base import encode
from ..base.models import Base
from ..base.precision import Precision
from ..preflight.preflight import Ready
from . import batch, losses
from .batch import Batch
from .noising import Noising
from .sources import Sources


@dataclass
class Forward:
    """What a forward pass needs.

    Attributes:
        ready: the checked job.
        place: device and dtype.
        base: the model, with whatever is in its weights at the moment.
        sources: latents and encoded captions.
        noising: the base's noise schedule.
    """

    ready: Ready
    place: Precision
    base: Base
    sources: Sources
    noising: Noising

    def batch(self, step: int, micro: batch.Micro) -> Batch:
        """Returns a micro batch of optimizer step `step`, counted from 0."""
        return batch.make(self.sources.latents, self.ready, self.noising, self.place, step, micro)

    def condition(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the captions' context [B, L, D] and pooled [B, P], with gradients where the text encoders train."""
        device, dtype = self.place.device, self.place.dtype
        if self.ready.job.network.train_text_encoder:
            with self.place.autocast():
                return encode.encode_batch(self.base, list(captions), device)
        texts = [self.sources.texts[caption] for caption in captions]
        context, pooled = torch.stack([text.context for text in texts]), torch.stack([text.pooled for text in texts])
        return batch.move(context.to(dtype), device), batch.move(pooled.to(dtype), device)

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, captions: Sequence[str], time_ids: torch.Tensor
    ) -> torch.Tensor:
        """Returns the base's prediction [B, 4, h, w] for noised latents [B, 4, h, w] at timesteps [B]."""
        context, pooled = self.condition(captions)
        with self.place.autocast():
            conditions = {"text_embeds": pooled, "time_ids": time_ids}
            return self.base.unet(noisy.to(self.place.dtype), timesteps, context, added_cond_kwargs=conditions).sample

    def loss(self, one: Batch) -> torch.Tensor:
        """Returns each row's loss, [B] float32, its share of the step not yet in it."""
        noisy = self.noising.mix(one.latents, one.mixed_in, one.timesteps)
        predicted = self.predict(noisy, one.timesteps, one.captions, one.time_ids)
        target = self.noising.target(one.latents, one.noise, one.timesteps)
        return losses.per_picture(predicted, target, one.timesteps, self.noising, self.ready.job.loss, one.masks)
