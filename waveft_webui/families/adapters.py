"""reForge and Forge Neo: they carry ComfyUI's list of adapter classes, each of which reads and merges its own kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..applying import HANDED, NAME, PARTS, Patch
from ..core import HEADER


def install(weight_adapter: Any) -> None:
    """Puts our class on the list, in place of one that was there before.

    Args:
        weight_adapter: the UI's module, with `adapters` and `WeightAdapterBase`.
    """
    kinds = weight_adapter.adapters
    kinds[:] = [kind for kind in kinds if not getattr(kind, "waveft", False)]
    kinds.append(adapter_class(weight_adapter.WeightAdapterBase))


def adapter_class(base: type) -> type:
    """Returns our class, below the UI's own base."""

    class WaveFTAdapter(base):
        """One layer."""

        waveft, name = True, NAME

        def __init__(self, patch: Patch, layer: str) -> None:
            self.patch = patch
            self.loaded_keys = {HEADER, *(f"{layer}.{part}" for part in PARTS)}
            held = patch.adapter.layers[layer]
            self.weights = [held.values, held.indices]

        @classmethod
        def load(
            cls,
            x: str,
            lora: Mapping[str, torch.Tensor],
            alpha: float | None = None,
            dora_scale: torch.Tensor | None = None,
            loaded_keys: set[str] | None = None,
        ) -> Any:
            """Returns the layer that is called `x`, or None if the tensors hold none of that name."""
            patch = HANDED.patch(x, lora)
            return None if patch is None else cls(patch, x)

        def calculate_weight(
            self,
            weight: torch.Tensor,
            key: str,
            strength: float,
            strength_model: float,
            offset: Any,
            function: Callable[[torch.Tensor], torch.Tensor],
            intermediate_dtype: torch.dtype = torch.float32,
            original_weight: Any = None,
        ) -> torch.Tensor:
            """Returns `weight + strength * dW`, in place: a copy that the UI made, in float32 or its storage dtype."""
            return self.patch.add_(weight, strength)

    return WaveFTAdapter
