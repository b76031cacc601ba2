"""How the adapter learns: [optimizer], [train] and [loss] of a job. Torch is not imported."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from .section import Section
from .values import (
    DOTTED,
    LARGEST_SEED,
    MOST_EPOCHS,
    MOST_STEPS,
    OPTIMIZERS,
    SCHEDULERS,
    Choice,
    Fraction,
    Pattern,
    Switch,
    fold_name,
    pairs,
)


class Optimizer(Section):
    """How the coefficients move."""

    optimizer_type: Annotated[str, BeforeValidator(fold_name(OPTIMIZERS))] = Field(
        "AdamW",
        min_length=1,
        description=f"{', '.join(f'`{name}`' for name in OPTIMIZERS)}, or the dotted path of a class",
    )
    learning_rate: float = Field(1e-4, gt=0, le=1e4, description="step size at its highest")
    learning_rate_pattern: dict[Pattern, Annotated[float, Field(gt=0, le=1e4)]] = Field(
        {}, description="of the layers whose path a regular expression finds, e.g. `{ '^down_blocks' = 5e-5 }`"
    )
    text_encoder_lr: float | None = Field(
        None, gt=0, le=1e4, description="of the text encoders; `learning_rate` unless given"
    )
    optimizer_args: Annotated[dict[str, Any], BeforeValidator(pairs)] = Field(
        {},
        description='further arguments of the optimizer, as a table or kohya\'s list of "key=value" texts; '
        "`weight_decay` of `AdamW` and its 8-bit and paged kinds is 1e-4 unless given",
    )
    max_grad_norm: float = Field(1.0, ge=0, le=1e9, description="gradients are scaled down to this norm; 0 = off")
    lr_scheduler: Annotated[str, BeforeValidator(fold_name(SCHEDULERS))] = Field(
        "constant",
        min_length=1,
        description=f"{', '.join(f'`{name}`' for name in SCHEDULERS)}, or the dotted path of a class",
    )
    lr_warmup_steps: int | float = Field(
        0, ge=0, le=MOST_STEPS, description="optimizer steps until the full learning rate; below 1, the part of the run"
    )
    lr_scheduler_num_cycles: float = Field(
        1, gt=0, le=1e4, description="of `cosine_with_restarts`: how often it starts anew"
    )
    lr_scheduler_power: float = Field(1.0, gt=0, le=100, description="of `polynomial`")
    lr_scheduler_args: Annotated[dict[str, Any], BeforeValidator(pairs)] = Field(
        {}, description="further arguments of the scheduler, e.g. `{ min_lr_rate = 0.1 }` for `cosine_with_min_lr`"
    )

    @field_validator("optimizer_type", "lr_scheduler")
    @classmethod
    def known_or_dotted(cls, value: str, info: ValidationInfo) -> str:
        """Refuses names that nobody knows; whether a dotted path leads to a class is seen later."""
        names = OPTIMIZERS if info.field_name == "optimizer_type" else SCHEDULERS
        if value not in names and not re.fullmatch(DOTTED, value):
            raise ValueError(f"expected one of {', '.join(names)}, or the dotted path of a class, got {value!r}")
        return value

    @model_validator(mode="after")
    def settings_are_used(self) -> Optimizer:
        """Refuses what the scheduler would ignore, and rates that its optimizer does not mean."""
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError('lr_warmup_steps: lr_scheduler "constant" has no warm-up. Write "constant_with_warmup"')
        for key, used in (("lr_scheduler_num_cycles", "cosine_with_restarts"), ("lr_scheduler_power", "polynomial")):
            if self.says(key) and self.lr_scheduler != used:
                raise ValueError(f'{key}: only lr_scheduler "{used}" has it, this is "{self.lr_scheduler}". Remove it')
        if isinstance(self.lr_warmup_steps, float) and self.lr_warmup_steps >= 1:
            raise ValueError(f"lr_warmup_steps: expected whole steps or a part below 1, got {self.lr_warmup_steps}")
        if self.optimizer_type == "Prodigy" and self.learning_rate < 0.1:
            raise ValueError(
                f"learning_rate: Prodigy finds the step size itself and expects about 1.0, got {self.learning_rate:g}. "
                "Write 1.0"
            )
        return self


class Train(Section):
    """Length, precision and place of the run."""

    max_train_steps: int = Field(500, ge=1, le=MOST_STEPS, description="optimizer steps")
    max_train_epochs: int = Field(
        0, ge=0, le=MOST_EPOCHS, description="instead of `max_train_steps`: how often every picture is seen"
    )
    gradient_accumulation_steps: int = Field(
        4, ge=1, le=10_000, description="batches, on each device, for one optimizer step"
    )
    seed: int = Field(
        42, ge=0, le=LARGEST_SEED, description="of the order, noise, timesteps, crops, flips and captions"
    )
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], Choice] = Field(
        "auto",
        description="what the base computes in; `auto` = bf16 on a GPU that has it, else `no`. Coefficients stay fp32",
    )
    gradient_checkpointing: Switch = Field("auto", description="less memory for more time; `auto` = on a GPU")
    attention: Annotated[Literal["sdpa", "xformers", "eager"], Choice] = Field(
        "sdpa", description="`sdpa` = torch's own; `xformers` must be installed; `eager` = the plain formula"
    )
    torch_compile: bool = Field(False, description="compile the UNet: a slow first step, then faster ones on a GPU")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="save a running mean of the coefficients instead of the last ones; 0 = off, 0.99 is usual"
    )
    device: str = Field("auto", min_length=1, description="`auto`, `cpu`, `cuda`, `cuda:1`, `mps`")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 = torch's own choice")

    @model_validator(mode="after")
    def one_length(self) -> Train:
        """Refuses a run of two lengths."""
        if self.max_train_epochs and self.says("max_train_steps"):
            raise ValueError("max_train_epochs: expected one length, got max_train_steps too. Remove one of them")
        return self


class Loss(Section):
    """What is minimised: how far the predicted noise (or velocity, where the base predicts that) is off."""

    loss_type: Annotated[Literal["l2", "l1", "huber", "smooth_l1"], Choice] = Field("l2", description="of the error")
    huber_schedule: Annotated[Literal["constant", "exponential", "snr"], Choice] = Field(
        "snr", description="of `huber` and `smooth_l1`: how the threshold follows the timestep"
    )
    huber_c: float = Field(0.1, gt=0, le=1e6, description="of `huber` and `smooth_l1`: the threshold")
    huber_scale: float = Field(1.0, gt=0, le=1e6, description="of `huber` and `smooth_l1`: factor of the threshold")
    min_snr_gamma: float = Field(
        0.0, ge=0, le=1e6, description="upper bound of the signal-to-noise weight; 0 = off, 5 is usual"
    )
    debiased_estimation_loss: bool = Field(False, description="weigh by 1 / sqrt(signal-to-noise ratio)")
    scale_v_pred_loss_like_noise_pred: bool = Field(False, description="for velocity: weigh as if noise were predicted")
    noise_offset: float = Field(
        0.0, ge=0, le=100, description="share of noise that is the same all over a channel; 0 = off"
    )
    noise_offset_random_strength: bool = Field(False, description="draw that share between 0 and `noise_offset`")
    adaptive_noise_scale: float = Field(
        0.0,
        ge=-100,
        le=100,
        description="added to `noise_offset`, times the mean absolute value of the latents; 0 = off",
    )
    multires_noise_iterations: int = Field(
        0, ge=0, le=32, description="coarser layers of noise added to it; 0 = off, 6 is usual"
    )
    multires_noise_discount: Fraction = Field(0.3, description="weight of each coarser layer over the one before")
    ip_noise_gamma: float = Field(
        0.0, ge=0, le=100, description="input perturbation: noise added to the noised latents alone; 0 = off"
    )
    ip_noise_gamma_random_strength: bool = Field(False, description="draw it between 0 and `ip_noise_gamma`")
    min_timestep: int = Field(0, ge=0, lt=1000, description="first timestep that is trained")
    max_timestep: int = Field(1000, ge=1, le=1000, description="timesteps below this one are trained")
    prior_loss_weight: float = Field(1.0, ge=0, le=1e6, description="weight of regularisation (class) pictures")
    masked_loss: bool = Field(
        False, description="weigh the loss by each picture's mask (`alpha_mask` or `conditioning_data_dir`)"
    )

    @model_validator(mode="after")
    def settings_are_used(self) -> Loss:
        """Refuses what another key makes meaningless."""
        if self.loss_type in ("l1", "l2"):
            for key in ("huber_schedule", "huber_c", "huber_scale"):
                if self.says(key):
                    raise ValueError(
                        f'{key}: only huber and smooth_l1 have it, loss_type is "{self.loss_type}". Remove it'
                    )
        if self.noise_offset and self.multires_noise_iterations:
            raise ValueError("noise_offset: expected it or multires_noise_iterations, got both. Remove one of them")
        for key, needs in (
            ("noise_offset_random_strength", "noise_offset"),
            ("adaptive_noise_scale", "noise_offset"),
            ("ip_noise_gamma_random_strength", "ip_noise_gamma"),
        ):
            if getattr(self, key) and not getattr(self, needs):
                raise ValueError(f"{key}: it changes {needs}, which is 0. Set {needs} or remove it")
        if self.says("multires_noise_discount") and not self.multires_noise_iterations:
            raise ValueError("multires_noise_discount: multires_noise_iterations is 0. Set it, or remove this")
        if self.min_timestep >= self.max_timestep:
            raise ValueError(
                f"min_timestep: expected less than max_timestep = {self.max_timestep}, got {self.min_timestep}"
            )
        return self
