"""What is noised, what is predicted, and how far off the prediction is: pure tensors."""

from __future__ import annotations

import torch

from .schema import Loss


class Noising:
    """The base's own noise schedule, as it was trained: DDPM's over the scheduler's betas.

    Args:
        scheduler: the base's, of any diffusers class with betas.
        device: where the tables are kept.
    """

    def __init__(self, scheduler: object, device: torch.device) -> None:
        from diffusers import DDPMScheduler

        schedule = DDPMScheduler.from_config(scheduler.config)  # type: ignore[attr-defined]
        self.steps: int = schedule.config.num_train_timesteps
        self.predicts_velocity: bool = schedule.config.prediction_type == "v_prediction"
        self.alphas = schedule.alphas_cumprod.to(device, torch.float32)  # [steps]

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

    def weights(self, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
        """Returns min-SNR's weights [B] float32; ones for gamma 0.

        They are min(snr, gamma) / snr, or min(snr, gamma) / (snr + 1) where velocity is predicted.
        """
        if not gamma:
            return torch.ones_like(timesteps, dtype=torch.float32)
        alpha = self.alphas[timesteps]
        snr = alpha / (1 - alpha)
        return snr.clamp(max=gamma) / (snr + 1 if self.predicts_velocity else snr)


def draw_noise(shape: torch.Size, generator: torch.Generator, loss: Loss) -> torch.Tensor:
    """Returns noise [4, h, w] float32 on the CPU, with the job's share of it constant over each channel."""
    noise = torch.randn(shape, generator=generator)
    if loss.noise_offset:
        noise += loss.noise_offset * torch.randn(shape[0], 1, 1, generator=generator)
    return noise


def mean_squared_error(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Returns the loss [] float32, whatever the prediction's dtype: the mean of each picture's, times its weight."""
    errors = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))  # [B]
    return (errors * weights).mean()
