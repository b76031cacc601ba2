"""What one micro batch is: which pictures, mirrored or not, with which caption, noise and timestep."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import plan, rng
from .dataset import Picture
from .encode import Text
from .losses import Noising, draw_noise
from .precision import Precision
from .schema import Job


@dataclass(frozen=True)
class Cache:
    """What the frozen encoders have made, on the CPU.

    Attributes:
        epoch: the pictures of one epoch, with repeats.
        latents: (picture, mirrored) -> [4, h, w] float32.
        texts: final caption or prompt -> its encoding.
    """

    epoch: tuple[Picture, ...]
    latents: dict[tuple[Picture, bool], torch.Tensor]
    texts: dict[str, Text]


@dataclass(frozen=True)
class Batch:
    """One micro batch on the training device: latents and noise [B, 4, h, w] float32, timesteps [B] int64, context
    [B, 77, D] and pooled [B, P] in the base's dtype, time_ids [B, 6] float32.
    """

    pictures: list[Picture]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    context: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor


def make(cache: Cache, job: Job, noising: Noising, precision: Precision, step: int, micro: int) -> Batch:
    """Returns micro batch `micro` of optimizer step `step`, both counted from 0: a function of its arguments alone."""
    size, seed = job.general.batch_size, job.train.seed
    chosen = plan.micro_batch(seed, step, micro, size, job.train.gradient_accumulation_steps, len(cache.epoch))
    rows = [sample(cache, job, noising, step, place, cache.epoch[number]) for place, number in chosen]
    pictures, latents, noise, timesteps, context, pooled, time_ids = zip(*rows, strict=True)
    device, dtype = precision.device, precision.dtype
    return Batch(
        list(pictures),
        move(torch.stack(latents), device),
        move(torch.stack(noise), device),
        move(torch.tensor(timesteps), device),
        move(torch.stack(context).to(dtype), device),
        move(torch.stack(pooled).to(dtype), device),
        move(torch.tensor(time_ids, dtype=torch.float32), device),
    )


def move(made: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a tensor of the CPU's on the device; on CUDA nobody waits for the copy, which needs pinned memory."""
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)


def sample(cache: Cache, job: Job, noising: Noising, step: int, index: int, picture: Picture) -> tuple:
    """Returns what the picture is trained on as the `index`-th of an optimizer step's global batch."""
    seed = job.train.seed
    flipped = picture.flip and rng.uniform(seed, "flip", step, index) < 0.5
    dropped = rng.uniform(seed, "dropout", step, index) < picture.dropout
    text = cache.texts["" if dropped else picture.caption]
    latents = cache.latents[picture, flipped]
    noise = draw_noise(latents.shape, rng.generator(seed, "noise", step, index), job.loss)
    timestep = int(rng.uniform(seed, "timestep", step, index) * noising.steps)
    return picture, latents, noise, timestep, text.context, text.pooled, picture.geometry.time_ids(flipped)
