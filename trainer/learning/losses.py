"""How far off a prediction is, and how much each timestep's error counts: pure tensors, and nothing waits for them."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import interpolate

from ..job.schema import Loss
from ..system.errors import UserError
from .noising import Noising

LARGEST_SNR = 1000.0  # kohya's bound, where the ratio itself is a weight's denominator
SMALLEST_SNR = 1e-3  # below all of SDXL's own schedule; only pure noise, which would weigh infinitely, is lifted to it


def per_picture(
    predicted: torch.Tensor,
    target: torch.Tensor,
    timesteps: torch.Tensor,
    noising: Noising,
    loss: Loss,
    masks: torch.Tensor | None,
) -> torch.Tensor:
    """Returns each picture's loss [B] float32, whatever the prediction's dtype.

    Args:
        predicted: [B, 4, h, w], the base's.
        target: [B, 4, h, w], what it should have been.
        timesteps: [B] int64.
        noising: the base's schedule.
        loss: the job's.
        masks: [B, H, W] in [0, 1], of any size, or None. As in kohya's trainer the mean is over the whole picture: what
            the mask hides counts as no error.

    Raises:
        UserError: the job weighs velocity, the base predicts noise.
    """
    found = errors(predicted.float() - target.float(), timesteps, noising, loss)  # [B, 4, h, w]
    if masks is not None:
        found = found * interpolate(masks[:, None].float(), size=found.shape[2:], mode="area")
    return found.mean(dim=(1, 2, 3)) * weights(timesteps, noising, loss)


def errors(difference: torch.Tensor, timesteps: torch.Tensor, noising: Noising, loss: Loss) -> torch.Tensor:
    """Returns the error of every entry, [B, 4, h, w] float32.

    With a threshold c, `huber` is 2c (sqrt(d^2 + c^2) - c) and `smooth_l1` 2 (sqrt(d^2 + c^2) - c), both smooth
    everywhere; they are computed without that difference, in which small errors would be lost.
    """
    if loss.loss_type == "l2":
        return difference.square()
    if loss.loss_type == "l1":
        return difference.abs()
    bound = threshold(timesteps, noising, loss).view(-1, 1, 1, 1)
    square = difference.square()
    smooth = 2 * square / ((square + bound.square()).sqrt() + bound)
    return bound * smooth if loss.loss_type == "huber" else smooth


def threshold(timesteps: torch.Tensor, noising: Noising, loss: Loss) -> torch.Tensor:
    """Returns the thresholds [B] float32 between squared and absolute error.

    `constant` is huber_c; `exponential` falls from 1 to huber_c over the timesteps; `snr` is
    (1 - huber_c) / (1 + sigma)^2 + huber_c with sigma = 1 / sqrt(snr). Each is multiplied by huber_scale.
    """
    if loss.huber_schedule == "exponential":
        return loss.huber_scale * torch.exp(math.log(loss.huber_c) / noising.steps * timesteps.float())
    if loss.huber_schedule == "snr":
        sigma = noising.snr(timesteps).rsqrt()
        return loss.huber_scale * ((1 - loss.huber_c) / (1 + sigma).square() + loss.huber_c)
    return torch.full_like(timesteps, loss.huber_scale * loss.huber_c, dtype=torch.float32)


def weights(timesteps: torch.Tensor, noising: Noising, loss: Loss) -> torch.Tensor:
    """Returns the timesteps' weights [B] float32, all finite: the product of those that the job asks for.

    ================================== ======================= ==========================
    key                                noise is predicted      velocity is predicted
    ================================== ======================= ==========================
    min_snr_gamma                      min(snr, gamma) / snr   min(snr, gamma) / (snr + 1)
    debiased_estimation_loss           1 / sqrt(snr)           1 / (snr + 1)
    scale_v_pred_loss_like_noise_pred  -                       snr / (snr + 1)
    ================================== ======================= ==========================
    """
    velocity, snr = noising.predicts_velocity, noising.snr(timesteps)
    found = torch.ones_like(snr)
    if loss.min_snr_gamma and velocity:
        found = found * snr.clamp(max=loss.min_snr_gamma) / (snr + 1)
    elif loss.min_snr_gamma:
        found = found * (loss.min_snr_gamma / snr).clamp(max=1)  # also where snr is 0 or infinite
    bounded = snr.clamp(SMALLEST_SNR, LARGEST_SNR)
    if loss.debiased_estimation_loss:
        found = found * (1 / (bounded + 1) if velocity else bounded.rsqrt())
    if loss.scale_v_pred_loss_like_noise_pred:
        if not velocity:
            raise UserError(
                "[loss] scale_v_pred_loss_like_noise_pred: expected a base that predicts velocity, this one predicts "
                "noise. Remove it."
            )
        found = found * bounded / (bounded + 1)
    return found
