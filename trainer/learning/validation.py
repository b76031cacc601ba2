"""The loss on pictures that are never trained, at fixed timesteps and noise: always the same question."""

from __future__ import annotations

import torch

from ..pictures.buckets import View
from ..pictures.dataset import Picture
from ..preflight.preflight import Ready
from ..system import rng
from . import losses
from .batch import mask, move
from .forward import Forward

AS_IT_IS = View()  # no flip, no jitter, cropped about the centre


def pictures(ready: Ready) -> tuple[Picture, ...]:
    """Returns the pictures that are asked about."""
    return ready.validation[: ready.job.validation.max_validation_steps or None]


@torch.no_grad()
def measure(forward: Forward) -> float:
    """Returns the mean loss over the validation's pictures and timesteps; there must be some.

    Each picture's noise at each timestep depends on `validation_seed` and the picture's content alone, so that two
    runs, or two moments of one, are asked the same.
    """
    timesteps = forward.ready.job.validation.timesteps
    found = [one(forward, picture, timestep) for picture in pictures(forward.ready) for timestep in timesteps]
    return float(torch.stack(found).mean())  # GPU sync: once a validation


def one(forward: Forward, picture: Picture, timestep: int) -> torch.Tensor:
    """Returns the loss [] float32 of one picture at one timestep."""
    job, device, noising = forward.ready.job, forward.place.device, forward.noising
    seed, content = job.validation.validation_seed, int(picture.digest[:12], 16)
    source = rng.generator(seed, "validation posterior", content)
    latents = forward.sources.latents.get(picture, AS_IT_IS, source)
    noise = torch.randn(latents.shape, generator=rng.generator(seed, "validation", content, timestep))
    masks = move(mask(picture, AS_IT_IS, latents.shape[1:])[None], device) if job.loss.masked_loss else None
    clean, noise = move(latents[None], device), move(noise[None], device)
    timesteps = torch.full((1,), min(timestep, noising.steps - 1), device=device)
    time_ids = move(torch.tensor([picture.geometry.time_ids(AS_IT_IS)], dtype=torch.float32), device)
    predicted = forward.predict(noising.mix(clean, noise, timesteps), timesteps, [picture.caption.plain()], time_ids)
    target = noising.target(clean, noise, timesteps)
    return losses.per_picture(predicted, target, timesteps, noising, job.loss, masks)[0]
