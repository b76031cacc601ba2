"""AdaLoRA: LoRA with singular values, whose ranks move to the layers that need them. Its file is a LoRA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..job.networks import Adalora
from ..job.schema import Job
from ..system.errors import UserError
from .lora import ALPHA, DOWN, UP, LoraMethod
from .peftmethod import PeftMethod, nothing
from .usage import KOHYA

if TYPE_CHECKING:
    import torch

    from .injected import Injected, Site
    from .tuning import Host

SPREAD = 0.02  # of the first factors, PEFT's
NO_RANK = 1e-5  # what PEFT adds to a rank before it divides by it


class AdaloraMethod(PeftMethod):
    """HF PEFT's AdaLoRA, with its allocation of ranks and its penalty, which a UNet's trainer has to call itself."""

    NAME = "adalora"
    TITLE = "AdaLoRA"
    PAPER = "https://arxiv.org/abs/2303.10512"
    USAGE = KOHYA
    TRAINED = LoraMethod.TRAINED
    CONFIG, MODEL = "AdaLoraConfig", "AdaLoraModel"
    PARTS: ClassVar[Mapping[str, str]] = {"lora_A": DOWN, "lora_B": UP, "lora_E": "lora_E"}
    network: Adalora

    def words(self) -> str:
        """Returns ranks and alpha."""
        network = self.network
        ranks = f"rank {network.init_r}" + (f" to {network.target_r}" if network.target_r < network.init_r else "")
        return f"AdaLoRA, {ranks}, alpha {network.network_alpha:g}"

    def count(self, rows: int, columns: int) -> int:
        """Returns the size of both factors and the singular values between them."""
        return self.network.init_r * (rows + columns + 1)

    def faults(self, job: Job) -> list[str]:
        """Returns also that the run is too short for the schedule."""
        found = super().faults(job)
        if not job.train.max_train_epochs and (text := self._schedule_fault(job.train.max_train_steps)):
            found.append(text)
        return found

    def _schedule_fault(self, steps: int) -> str | None:
        first, last = (self.steps(key, steps) for key in ("tinit", "tfinal"))
        if not self.moves or max(first, 1) < steps - last:  # PEFT measures importance before it first takes a rank away
            return None
        return (
            f"[network] tinit, tfinal: expected steps between them in which ranks are taken away, got {first} + {last} "
            f"of the run's {steps}. Lower one of them, or train longer."
        )

    def steps(self, key: str, steps: int) -> int:
        """Returns the steps that a key of the schedule means in a run of so many."""
        value: int | float = getattr(self.network, key)
        return round(value * steps) if isinstance(value, float) else value

    def kohya(self) -> dict[str, str]:
        """Returns what the file is: a LoRA."""
        sizes = {"network_dim": str(self.network.init_r), "network_alpha": f"{self.network.network_alpha:g}"}
        return {"network_module": "networks.lora", **sizes}

    def settings(self, host: Host) -> dict[str, Any]:
        """Returns ranks, alpha and schedule; UserError where the run is too short for it."""
        network = self.network
        if text := self._schedule_fault(host.steps):
            raise UserError(text)
        return {
            "init_r": network.init_r,
            "target_r": network.target_r,
            "lora_alpha": network.network_alpha,
            "total_step": host.steps,
            "tinit": self.steps("tinit", host.steps) if self.moves else 0,
            "tfinal": self.steps("tfinal", host.steps) if self.moves else 0,
            "deltaT": network.deltaT,
            "beta1": network.beta1,
            "beta2": network.beta2,
            "orth_reg_weight": network.orth_reg_weight,
            "lora_dropout": 0.0,
        }

    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns both factors drawn, the singular values zero: the update is zero."""
        import torch

        return nothing(shape) if part == "lora_E" else torch.randn(tuple(shape), generator=draw) * SPREAD

    def tuning(self, models: Sequence[Any], sites: Sequence[Site]) -> Injected:
        """Returns what trains, with its allocation of ranks."""
        from .allocation import Allocating

        return Allocating(self, models, sites, self.network.orth_reg_weight, self.moves)

    @property
    def moves(self) -> bool:
        """Whether ranks are taken away."""
        return self.network.target_r < self.network.init_r

    def shipped(self, site: Site) -> dict[str, torch.Tensor]:
        """Returns the LoRA that the ranks that are left make: the singular values go into the first matrix.

        A layer that has none left is not in the file.
        """
        import torch

        values, down, up = (site.parts[part].detach() for part in ("lora_E", "lora_A", "lora_B"))
        kept = values.flatten() != 0
        if not bool(kept.any()):
            return {}
        rank = int(kept.sum())
        factor = self.network.network_alpha / (self.network.init_r + NO_RANK)
        return {
            DOWN: (values * down.flatten(1))[kept].reshape(rank, *down.shape[1:]),
            UP: up[:, kept].clone(),
            ALPHA: torch.tensor(factor * rank),
        }

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns what the LoRA adds."""
        return LoraMethod.delta(held, shape)
