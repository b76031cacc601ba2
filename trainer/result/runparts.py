"""A run's parts, as `setup` builds them and the loop uses them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

import torch

from ..learning.forward import Forward
from ..learning.wholestep import Remembered
from ..methods import registry
from ..methods.method import Method
from ..methods.tuning import Tuning
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
        tuning: what trains in the base.
        optimizer: over its numbers.
        schedule: of the optimizer's learning rates.
        scaler: of the loss, for fp16.
        ema: their running mean, or None.
        shots: the samples to draw.
        notices: what may surprise.
    """

    ready: Ready
    world: World
    forward: Forward
    tuning: Tuning
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: torch.amp.GradScaler
    ema: Any
    shots: list[Shot]
    notices: list[str] = field(default_factory=list)

    @property
    def method(self) -> Method:
        """What is trained, with the job's settings."""
        return registry.of(self.ready.job.network)

    @property
    def movers(self) -> list[Any]:
        """What moves the coefficients, each with a state of its own."""
        mean = [] if self.ema is None else [self.ema]
        return [self.optimizer, self.schedule, self.scaler, *mean, Remembered(self.tuning)]

    def shipped(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which the base holds what the file will: the running mean, where there is one."""
        return self.tuning.swapped(self.ema.shadow_params) if self.ema is not None else contextlib.nullcontext()
