"""AdaLoRA's ranks while it trains: the penalty on its factors, and the allocation after each optimizer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .injected import ADAPTER, Injected, Recipe, Site

PARTS, RANKS = "lora_", "lora_E"  # in PEFT's names of the numbers, and of those of which a rank has one
AVERAGES = ("exp_avg_ipt", "exp_avg_unc")  # what PEFT's allocator remembers of each number's importance


class Allocating(Injected):
    """PEFT's AdaLoRA layers, trained with all that belongs to them.

    PEFT adds the penalty to an output that has a loss, which a UNet's has not, and leaves the allocation to who trains.

    Args:
        method, models, sites: as `Injected` takes them.
        weight: of the penalty.
        moves: whether ranks are taken away: with nothing to take away PEFT's allocator fails.
    """

    def __init__(
        self, method: Recipe, models: Sequence[Any], sites: Sequence[Site], weight: float, moves: bool
    ) -> None:
        super().__init__(method, models, sites)
        self._weight, self._moves = weight, moves

    def penalty(self) -> torch.Tensor | None:
        """Returns how far the factors are from orthogonal ones: the mean over them of |A A^T - 1|, |B^T B - 1|."""
        if not self._weight:
            return None
        factors: dict[torch.Size, list[torch.Tensor]] = {}  # of one shape together: hundreds of small products
        for site in self.sites:
            for rows in (site.parts["lora_A"].flatten(1), site.parts["lora_B"].flatten(1).T):
                factors.setdefault(rows.shape, []).append(rows)
        norms = [self._distances(torch.stack(held)) for held in factors.values()]
        return self._weight * torch.cat(norms).mean()

    @staticmethod
    def _distances(factors: torch.Tensor) -> torch.Tensor:
        """Returns the norm of F F^T - 1 for each of `factors` [k, r, n]."""
        one = torch.eye(factors.shape[1], device=factors.device)
        return torch.linalg.matrix_norm(factors @ factors.mT - one)

    def stepped(self, step: int) -> None:
        """Takes ranks away as the schedule says."""
        if not self._moves:
            return
        for parameter in self.parameters():
            if parameter.grad is None:  # of a layer that did not run
                parameter.grad = torch.zeros_like(parameter)
        for model in self.models:
            model.update_and_allocate(step)

    def memory(self) -> dict[str, Any]:
        """Returns the importance of every number, and which ranks are left: of one form from first to last step."""
        return {"allocators": [self._remembered(model) for model in self.models]}

    @staticmethod
    def _remembered(model: Any) -> dict[str, dict[str, torch.Tensor]]:
        numbers, allocator = trained(model), model.rankallocator
        averages = {
            name: {key: getattr(allocator, name).get(key, torch.zeros_like(held)) for key, held in numbers.items()}
            for name in AVERAGES
        }
        pattern = model.peft_config[ADAPTER].rank_pattern or {}
        ranks = {key: held for key, held in numbers.items() if RANKS in key}
        left = {key: torch.tensor(pattern.get(key, [True] * len(held))) for key, held in ranks.items()}
        return {**averages, "left": left}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Takes them back."""
        for model, held in zip(self.models, memory["allocators"], strict=True):
            numbers = trained(model)
            for name in AVERAGES:
                moved = {key: values.to(numbers[key].device, copy=True) for key, values in held[name].items()}
                setattr(model.rankallocator, name, moved)
            model.rankallocator.ipt = {key: torch.zeros_like(values) for key, values in numbers.items()}
            model.peft_config[ADAPTER].rank_pattern = {key: left.tolist() for key, left in held["left"].items()}


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Returns the numbers whose importance PEFT's allocator follows, by its names for them."""
    return {name: held.detach() for name, held in model.model.named_parameters() if PARTS in name and ADAPTER in name}
