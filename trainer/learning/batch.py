"""What one micro batch is: which pictures, seen how, with which caption, noise and timestep."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ..base.encode import Latents
from ..base.precision import Precision
from ..pictures import images
from ..pictures.buckets import View
from ..pictures.dataset import Picture
from ..pictures.plan import Micro, Seen
from ..preflight.preflight import Ready
from ..system import rng
from . import noising
from .noising import Noising

MASKS = 4096  # kept; one is 64 kB at 1024 px


@dataclass(frozen=True)
class Batch:
    """One micro batch; tensors are on the training device.

    Attributes:
        pictures: of each row.
        captions: final texts, "" where dropped.
        latents: [B, 4, h, w] float32.
        noise: [B, 4, h, w] float32, which the target is made of.
        mixed_in: [B, 4, h, w] float32, `noise`, perturbed where the job says so.
        timesteps: [B] int64.
        time_ids: [B, 6] float32.
        masks: [B, h, w] float32 in [0, 1], or None.
        weights: [B] float32, each row's share of the optimizer step's loss.
    """

    pictures: list[Picture]
    captions: list[str]
    latents: torch.Tensor
    noise: torch.Tensor
    mixed_in: torch.Tensor
    timesteps: torch.Tensor
    time_ids: torch.Tensor
    masks: torch.Tensor | None
    weights: torch.Tensor


def make(latents: Latents, ready: Ready, noise: Noising, place: Precision, step: int, micro: Micro) -> Batch:
    """Returns a micro batch of optimizer step `step`, counted from 0: a function of its arguments alone."""
    rows = [sample(latents, ready, noise, step, micro.first + row, seen) for row, seen in enumerate(micro.views)]
    device, job = place.device, ready.job
    priors = [job.loss.prior_loss_weight if row.picture.is_reg else 1.0 for row in rows]
    masks = [mask(row.picture, row.view, row.latents.shape[1:]) for row in rows] if job.loss.masked_loss else []
    return Batch(
        [row.picture for row in rows],
        [row.caption for row in rows],
        move(torch.stack([row.latents for row in rows]), device),
        move(torch.stack([row.noise for row in rows]), device),
        move(torch.stack([row.mixed_in for row in rows]), device),
        move(torch.tensor([row.timestep for row in rows]), device),
        move(torch.tensor([row.picture.geometry.time_ids(row.view) for row in rows], dtype=torch.float32), device),
        move(torch.stack(masks), device) if masks else None,
        move(torch.tensor(priors, dtype=torch.float32) / micro.total, device),
    )


def move(made: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a tensor of the CPU's on the device; on CUDA nobody waits for the copy, which needs pinned memory."""
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)


@dataclass(frozen=True)
class Row:
    """One view of one picture, on the CPU, as `Batch` stacks it."""

    picture: Picture
    view: View
    caption: str
    latents: torch.Tensor
    noise: torch.Tensor
    mixed_in: torch.Tensor
    timestep: int


def sample(latents: Latents, ready: Ready, noise: Noising, step: int, index: int, seen: Seen) -> Row:
    """Returns what a picture is trained on as the `index`-th of an optimizer step's global batch."""
    job, picture, seed = ready.job, ready.pictures[seen.picture], ready.job.train.seed
    view = images.draw_view(picture, seed, step, index)
    caption = picture.caption.draw(seed, step, index, seen.epoch, ready.steps)
    clean = latents.get(picture, view, rng.generator(seed, "posterior", step, index))
    source = rng.generator(seed, "noise", step, index)
    drawn = noising.draw_noise(clean, source, job.loss)
    timestep = noise.timestep(rng.uniform(seed, "timestep", step, index), job.loss)
    return Row(picture, view, caption, clean, drawn, noising.perturbed(drawn, source, job.loss), timestep)


@lru_cache(maxsize=MASKS)
def mask(picture: Picture, view: View, size: tuple[int, int]) -> torch.Tensor:
    """Returns the picture's mask in that view, [h, w] float32 as its latents: the mean over each of their cells."""
    return torch.nn.functional.adaptive_avg_pool2d(images.mask(picture, view)[None], size)[0]
