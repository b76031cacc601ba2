"""A run's parts, as `setup` builds them and the loop uses them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch

import waveft_core

from ..learning.forward import Forward
from ..preflight.preflight import Ready
from ..samples.prompts import Shot
from ..system.distributed import World


@dataclass
class Parts:
    """A run's parts.

    Attributes:
        ready: the checked job.
        world: this process among the run's.
        forward: the base, its latents, captions and noise.
        tuning: the coefficients in the base's weights.
        optimizer: over the coefficients.
        schedule: of the optimizer's learning rates.
        scaler: of the loss, for fp16.
        ema: the coefficients' running mean, or None.
        shots: the samples to draw.
        notices: what may surprise.
    """

    ready: Ready
    world: World
    forward: Forward
    tuning: waveft_core.Tuning
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: torch.amp.GradScaler
    ema: Any
    shots: list[Shot]
    notices: list[str] = field(default_factory=list)

    def shipped(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which the base holds what the file will: the running mean, where there is one."""
        return self.tuning.swapped(self.ema.shadow_params) if self.ema is not None else contextlib.nullcontext()
