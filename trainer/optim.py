"""The optimizer and its learning rates."""

from __future__ import annotations

from typing import Any

import torch

from . import schema
from .errors import UserError

PAPER_WEIGHT_DECAY = 1e-4


def make(
    settings: schema.Optimizer, parameters: list[torch.nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """Returns the optimizer and the scheduler of its learning rate, which is stepped once for each optimizer step.

    Raises:
        UserError: the optimizer does not take one of `optimizer_args`.
    """
    from diffusers.optimization import get_scheduler

    optimizer = make_optimizer(settings, parameters)
    schedule = get_scheduler(
        settings.lr_scheduler, optimizer, num_warmup_steps=settings.lr_warmup_steps, num_training_steps=steps
    )
    return optimizer, schedule


def make_optimizer(settings: schema.Optimizer, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the optimizer by its name in the job, over fp32 coefficients."""
    arguments = {"lr": settings.learning_rate, **settings.optimizer_args}
    kind: Any = torch.optim.SGD
    if settings.optimizer_type == "adamw":
        kind = torch.optim.AdamW
        # hundreds of small tensors: fused takes them in one go, and each entry is computed by itself on every device
        arguments = {"weight_decay": PAPER_WEIGHT_DECAY, "fused": "foreach" not in arguments, **arguments}
    elif settings.optimizer_type == "adafactor":
        import transformers

        kind = transformers.Adafactor
        arguments = {"scale_parameter": False, "relative_step": False, "warmup_init": False, **arguments}
    try:
        return kind(parameters, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"[optimizer] optimizer_args: {kind.__name__} refuses them: {error}.") from None
