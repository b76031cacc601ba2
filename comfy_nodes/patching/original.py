"""What a weight was before ComfyUI cast it for a merge: on GPUs it merges in float16, whatever a model is stored in."""

from __future__ import annotations

import weakref
from typing import Any

import comfy.utils
import torch


class Original:
    """A weight of a model, by its key; the model is not kept alive."""

    def __init__(self, module: torch.nn.Module, key: str) -> None:
        self._module, self._key = weakref.ref(module), key

    def restored(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns `weight` in float32 with the bits that a cast of the stored weight to its dtype lost.

        float16 has fewer bits than float32 and less range than bfloat16, so the cast alone changes entries that no
        patch touches. An entry that is not what the stored one was cast to was changed since, by an earlier patch: it
        stays. `weight` itself comes back where nothing can have been lost or the stored weight is gone or quantised.

        Args:
            weight: any shape, a cast copy of the stored weight that patches may have changed.
        """
        stored = self._stored()
        if stored is None or stored.shape != weight.shape or _holds(weight.dtype, stored.dtype):
            return weight
        stored = stored.to(weight.device)
        return torch.where(stored.to(weight.dtype) == weight, stored.float(), weight.float())

    def _stored(self) -> torch.Tensor | None:
        module = self._module()
        if module is None:
            return None
        try:
            found: Any = comfy.utils.get_attr(module, self._key)
        except AttributeError:  # a model that was taken apart since
            return None
        plain = type(found) in (torch.Tensor, torch.nn.Parameter) and found.is_floating_point()
        return found.detach() if plain else None  # a quantised tensor is a class of its own


def _holds(dtype: torch.dtype, stored: torch.dtype) -> bool:
    """Returns whether every number of the dtype `stored` is one of `dtype`."""
    return stored.itemsize == 1 or torch.promote_types(dtype, stored) == dtype
