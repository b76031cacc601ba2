"""One optimizer for all of the nano base's networks."""

from __future__ import annotations

import torch


class Optimizer:
    """Muon for matrices and kernels, Adam for biases, gains and embeddings, and the weights' running average.

    Adam's step has the same size in every weight, so on flat pictures, whose inputs agree everywhere, it sways all
    colours at once; Muon's has the same size in every direction, and details are learned as fast as colours.
    """

    def __init__(self, model: torch.nn.Module, rate: float, rate_of_others: float, weight_decay: float = 0.0) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        words = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
        self.kernels = [p for p in self.parameters if p.ndim > 1 and id(p) not in words]
        self.rows = [torch.nn.Parameter(p.data.flatten(1)) for p in self.kernels]  # [out, in * kernel], the same memory
        others = [p for p in self.parameters if p.ndim == 1 or id(p) in words]
        self.rates = (rate, rate_of_others)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(self.rows, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate_of_others, weight_decay=weight_decay, betas=(0.9, 0.99)),
        ]
        self.averages = [p.detach().clone() for p in self.parameters]

    def step(self, factor: float, decay: float) -> None:
        """Takes one step of `factor` times the rate, then moves the averages by 1 - `decay` of the way."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for row, kernel in zip(self.rows, self.kernels, strict=True):
            row.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [p.detach() for p in self.parameters], 1 - decay)

    def state_dict(self) -> dict:
        """Returns all but the model's own weights."""
        return {"optimizers": [each.state_dict() for each in self.optimizers], "averages": self.averages}

    def load_state_dict(self, state: dict) -> None:
        """Takes back what `state_dict` gave."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.averages = state["averages"]

    @torch.no_grad()
    def put_averages(self) -> None:
        """Puts the averages in the place of the weights."""
        for parameter, average in zip(self.parameters, self.averages, strict=True):
            parameter.copy_(average)
