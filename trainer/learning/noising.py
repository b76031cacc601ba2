"""What is noised, with which noise, and what the base is to predict of it: pure tensors.

The noise itself is drawn on the CPU, from a generator that is given, so that every device trains on the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import interpolate

from ..job.schema import Loss


class Noising:
    """The base's own noise schedule, as it was trained: DDPM's over the scheduler's betas.

    Attributes:
        steps: how many timesteps it has.
        predicts_velocity: whether the base predicts velocity, or else noise.
        alphas: [steps] float32, the share of the picture in a noised one's variance; called alpha-bar in papers.

    Args:
        scheduler: the base's, of any diffusers class with betas.
        device: where the table is kept.
        velocity: whether the base predicts velocity.
        zero_terminal_snr: whether the schedule is rescaled so that its last timestep is pure noise (Lin et al. 2023,
            algorithm 1), as the base was trained.
    """

    def __init__(self, scheduler: Any, device: torch.device, velocity: bool, zero_terminal_snr: bool) -> None:
        from diffusers import DDPMScheduler

        schedule = DDPMScheduler.from_config(scheduler.config, rescale_betas_zero_snr=zero_terminal_snr)
        self.steps: int = schedule.config.num_train_timesteps
        self.predicts_velocity = velocity
        self.alphas = schedule.alphas_cumprod.to(device, torch.float32)

    def timestep(self, draw: float, loss: Loss) -> int:
        """Returns one of the job's timesteps, each as likely, for a number drawn from [0, 1).

        They are those from `min_timestep` to before `max_timestep`, as far as the base has them.
        """
        end = min(loss.max_timestep, self.steps)
        first = min(loss.min_timestep, end - 1)
        return first + int(draw * (end - first))

    def mix(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Returns sqrt(a) * clean + sqrt(1 - a) * noise, [B, 4, h, w], at timesteps [B] int64."""
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Returns what the base is to predict: the noise, or the velocity sqrt(a) * noise - sqrt(1 - a) * clean."""
        if not self.predicts_velocity:
            return noise
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean

    def snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Returns the signal-to-noise ratios a / (1 - a), [B] float32: 0 for pure noise, infinite for none."""
        alpha = self.alphas[timesteps]
        return alpha / (1 - alpha)


def draw_noise(latents: torch.Tensor, generator: torch.Generator, loss: Loss) -> torch.Tensor:
    """Returns the noise for one picture, [4, h, w] float32 on the CPU: white, and what the job adds to it.

    Args:
        latents: [4, h, w], the picture's; their shape and, for `adaptive_noise_scale`, their means are read.
        generator: the CPU's. White noise is its first draw, whatever the job adds.
        loss: the job's.
    """
    noise = torch.randn(latents.shape, generator=generator)
    if loss.noise_offset:
        strength = draw_strength(loss.noise_offset, loss.noise_offset_random_strength, generator)
        if loss.adaptive_noise_scale:
            level = latents.detach().to("cpu", torch.float32).mean(dim=(1, 2), keepdim=True).abs()  # [4, 1, 1]
            strength = (strength + loss.adaptive_noise_scale * level).clamp(min=0)
        noise = noise + strength * torch.randn(len(noise), 1, 1, generator=generator)
    if loss.multires_noise_iterations:
        noise = pyramid(noise, generator, loss)
    return noise


def perturbed(noise: torch.Tensor, generator: torch.Generator, loss: Loss) -> torch.Tensor:
    """Returns the noise that is mixed into the latents, [4, h, w] float32; the target is made of the plain one."""
    if not loss.ip_noise_gamma:
        return noise
    strength = draw_strength(loss.ip_noise_gamma, loss.ip_noise_gamma_random_strength, generator)
    return noise + strength * torch.randn(noise.shape, generator=generator)


def draw_strength(most: float, random: bool, generator: torch.Generator) -> torch.Tensor:
    """Returns [1] float32: the strength that the job gives or, where it is random, one between 0 and that."""
    return most * torch.rand(1, generator=generator) if random else torch.tensor([most])


def pyramid(noise: torch.Tensor, generator: torch.Generator, loss: Loss) -> torch.Tensor:
    """Returns the noise [4, h, w] with coarser and coarser noise added, scaled back to a deviation of 1.

    Each layer is two to four times to the power of its number coarser than the picture, as drawn, and weighs
    `multires_noise_discount` to the power of its number; after one that is a single cell wide or high there is none.
    """
    channels, height, width = noise.shape
    for number in range(loss.multires_noise_iterations):
        coarser = (2 + 2 * float(torch.rand(1, dtype=torch.float64, generator=generator))) ** number
        size = max(1, int(height / coarser)), max(1, int(width / coarser))
        layer = torch.randn(1, channels, *size, generator=generator)
        layer = interpolate(layer, size=(height, width), mode="bilinear", align_corners=False)[0]
        noise = noise + loss.multires_noise_discount**number * layer
        if 1 in size:
            break
    return noise / noise.std()
