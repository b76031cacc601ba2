"""Which device trains and in which dtype the frozen base is held: the one place of the trainer that decides either."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from ..job.schema import Model, Train
from ..system.errors import UserError

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Precision:
    """Where and how finely the base computes. The coefficients are fp32 whatever it says.

    Attributes:
        device: of UNet, text encoders and VAE while each is at work.
        dtype: of what the UNet and the text encoders compute; of their weights too, unless the job says otherwise.
    """

    device: torch.device
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """The dtype as a job writes it."""
        return NAMES[self.dtype]

    def autocast(self) -> AbstractContextManager[None]:
        """Returns a forward pass's context: below fp32, the base's dtype with sensitive parts in fp32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Returns the loss scaler; it does something for fp16 alone, whose small gradients would vanish."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def unet_dtype(self, model: Model) -> torch.dtype:
        """Returns what the UNet's weights are loaded in; the coarser ones are made of those."""
        return torch.float32 if model.base_dtype == "fp32" else self.dtype

    def vae_dtype(self, model: Model, must_upcast: bool) -> torch.dtype:
        """Returns what the VAE computes in: fp32, in which no SDXL VAE overflows, unless it need not or the job says.

        Args:
            model: the job's section.
            must_upcast: whether the VAE's config wants fp32 (`force_upcast`).
        """
        if model.vae_dtype == "auto":
            return torch.float32 if must_upcast else self.dtype
        return DTYPES.get(model.vae_dtype, torch.float32)


def choose(train: Train, local_rank: int = 0) -> Precision:
    """Returns the device and dtype that the job asks for or, for "auto", the best that the machine has.

    Args:
        train: the job's section.
        local_rank: which of this machine's processes this one is: each takes a GPU of its own, unless the job names one
            by number.

    Raises:
        UserError: the machine has no such device, or the device no such dtype.
    """
    device = best_device() if train.device == "auto" else named_device(train.device)
    if local_rank and str(device) == "cuda":
        device = own_gpu(local_rank)
    if train.mixed_precision == "bf16" and not has_bf16(device, emulated=True):
        raise UserError(f"[train] mixed_precision: {device} has no bf16. Write 'fp16' or 'no'.")
    # emulated bf16 saves memory and costs time: it is there for who asks for it
    auto = torch.bfloat16 if device.type == "cuda" and has_bf16(device, emulated=False) else torch.float32
    return Precision(device, DTYPES.get(train.mixed_precision, auto))


def has_bf16(device: torch.device, emulated: bool) -> bool:
    """Returns whether the device computes in bf16 by itself or, where `emulated` is enough, at all."""
    if device.type != "cuda":
        return device.type == "cpu"
    with torch.cuda.device(device):  # torch answers for the current one
        return torch.cuda.is_bf16_supported(including_emulation=emulated)


def best_device() -> torch.device:
    """Returns the machine's accelerator, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def own_gpu(local_rank: int) -> torch.device:
    """Returns the GPU of this machine's process of that number; UserError where there are fewer GPUs than processes."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"[train] device: expected a GPU for each process, got process {local_rank + 1} on a machine with {count}. "
            f"Launch {count} (--num_processes), or name the device."
        )
    return torch.device("cuda", local_rank)


def named_device(name: str) -> torch.device:
    """Returns the device of that name; UserError where torch cannot use it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"[train] device: expected one that torch can use here, got {name!r} ({reason}). Write 'auto'."
        ) from None
    return device
