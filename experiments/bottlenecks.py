"""Adapters of Houlsby's kind: a small network behind a layer, added to what it gives. No weight can take them in.

Source: Houlsby et al., Parameter-Efficient Transfer Learning for NLP (2019), in the form of Table 5's rows, one behind
each feed-forward part (Pfeiffer et al. 2021): 16 wide in RoBERTa-base they have the 0.3M numbers of that row.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainer.system import rng
from trainer.system.errors import UserError

SPREAD = 0.02  # of the first matrix's values; the second is zero: the model begins as it is


@contextlib.contextmanager
def placed(model: nn.Module, targets: str, width: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """Inside, what each target gives goes through an adapter too; yields the adapters' numbers, float32.

    Args:
        model: whose layers are nn.Linear [m, n].
        targets: a regular expression for the whole path.
        width: numbers of the adapter's middle.
        seed: of the first values.

    Raises:
        UserError: no layer has such a path.
    """
    found = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(targets, path)
    }
    if not found:
        raise UserError(f"targets: expected linear layers whose path {targets!r} matches, got none.")
    made = {path: fresh(module.out_features, width, seed, path) for path, module in found.items()}
    handles = [module.register_forward_hook(behind(made[path])) for path, module in found.items()]
    try:
        yield [one for adapter in made.values() for one in adapter.parameters()]
    finally:
        for handle in handles:
            handle.remove()


def fresh(size: int, width: int, seed: int, path: str) -> nn.Sequential:
    """Returns an adapter [size] -> [width] -> [size] that gives zero."""
    down, up = nn.Linear(size, width), nn.Linear(width, size)
    with torch.no_grad():
        drawn = torch.randn(down.weight.shape, generator=rng.generator(seed, f"adapter {path}"))
        down.weight.copy_(drawn * SPREAD)
        for zero in (down.bias, up.weight, up.bias):
            zero.zero_()
    return nn.Sequential(down, nn.GELU(), up)


def behind(adapter: nn.Module) -> Any:
    """Returns the hook that adds what an adapter makes of a layer's output."""
    return lambda _, __, output: output + adapter(output)
