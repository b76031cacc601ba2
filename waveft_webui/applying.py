"""One layer of an adapter, and how it gets into a weight: what all families of UIs have in common."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .core import HEADER, Adapter, Target, WaveFTError, check_strength, fit, from_tensors
from .files import PLANS, TEXT_ENCODERS, Loaded

NAME = "waveft"  # what the UIs' lists call this kind of patch
PARTS = ("waveft_values", "waveft_indices", "waveft_shape")


@dataclass(frozen=True, eq=False)
class Patch:
    """One layer, as the UIs carry it from a file to a weight."""

    adapter: Adapter
    layer: str

    def add_(self, weight: torch.Tensor, strength: float) -> torch.Tensor:
        """Adds strength * dW to `weight`, a copy that the UI made for us, in place and returns it: rounded once."""
        return self.adapter.add_(weight, self.layer, strength, PLANS.plan(self.adapter, self.layer, weight))

    def dense(self, weight: torch.Tensor, strength: float, values: torch.Tensor | None = None) -> torch.Tensor:
        """Returns strength * dW for `weight`, in the weight's shape, float32 (float64 for float64), on its device.

        Args:
            values: [p], in place of the layer's own: what another extension made of them.
        """
        plan = PLANS.plan(self.adapter, self.layer, weight)
        if plan is None:
            plan = self.adapter.plan(self.layer, weight.dtype, weight.device)
        held = self.adapter.layers[self.layer].values if values is None else values.detach()
        return plan.dense(held.to(weight.device), self.adapter.scaling * strength)


def is_text(layer: str) -> bool:
    """Says whether a layer is a text encoder's."""
    return layer.startswith(TEXT_ENCODERS)


def check(loaded: Loaded, model: Target, text: Target, unet: float, te: float) -> None:
    """Compares all names and shapes of a file with the models, before anything is changed.

    Args:
        model, text: the model and its text encoders.
        unet, te: the strengths; a side at 0 is left out.

    Raises:
        WaveFTError: the file does not fit whole.
    """
    for target, strength, wanted in ((model, unet, False), (text, te, True)):
        check_strength(strength, loaded.name)
        layers = [layer for layer in loaded.whole.layers if is_text(layer) == wanted]
        if layers and strength != 0:
            fit(target, loaded.whole, layers, loaded.name, strength)


class Handed:
    """Which adapter a file's tensors belong to, for loaders that hand on tensors and nothing else.

    A tensor is known by itself, as long as it lives: the dicts that hold it are copied and split on the way.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], Patch]] = {}

    def tensors(self, loaded: Loaded, sides: Iterable[bool]) -> dict[str, torch.Tensor]:
        """Returns the tensors of a file as its reader would, of the sides that are wanted (True: text encoders')."""
        adapter, wanted = loaded.adapter, set(sides)
        if adapter is None:
            return {}
        found = {HEADER: torch.tensor(list(adapter.header.to_json().encode()), dtype=torch.uint8)}
        for layer, held in adapter.layers.items():
            if is_text(layer) in wanted:
                values = held.values.detach()  # a tensor of our own: several adapters may share the layer's
                self._know(values, Patch(adapter, layer))
                shape = torch.tensor(held.shape, dtype=torch.int32)
                found |= zip((f"{layer}.{part}" for part in PARTS), (values, held.indices, shape), strict=True)
        return found if len(found) > 1 else {}

    def patch(self, layer: str, tensors: Mapping[str, torch.Tensor]) -> Patch | None:
        """Returns a layer of `tensors`, None where they hold none of that name, or are no WaveFT file's.

        Raises:
            WaveFTError: a WaveFT file that another loader read, and that is not as docs/format.md says.
        """
        values = tensors.get(f"{layer}.{PARTS[0]}")
        if values is None:
            return None
        known, patch = self._known.get(id(values), (None, None))
        if known is not None and known() is values:
            return patch
        if HEADER not in tensors:
            raise WaveFTError(
                f'layer "{layer}": expected a tensor {HEADER} beside it, got none. Load it by a tag in the prompt.'
            )
        # copies: a file's tensors are views of it, and it may be written anew while the adapter lives
        adapter = from_tensors({name: held.detach().cpu().clone() for name, held in tensors.items()}, "a LoRA")
        for name in adapter.layers:
            self._know(tensors[f"{name}.{PARTS[0]}"], Patch(adapter, name))
        return Patch(adapter, layer)

    def split(
        self, tensors: Mapping[str, torch.Tensor], keys: Mapping[str, Any]
    ) -> tuple[dict[Any, tuple[str, Patch]], dict[str, torch.Tensor]]:
        """Returns ({weight key: patch of our kind}, the tensors that are left) of a file.

        Args:
            keys: layer name -> weight key, of the model that the loader asks for.
        """
        found, used = {}, {HEADER}
        layers = [name.removesuffix(f".{PARTS[0]}") for name in tensors if name.endswith(PARTS[0])]
        for layer in layers:
            if layer in keys:
                patch = self.patch(layer, tensors)
                assert patch is not None
                found[keys[layer]] = (NAME, patch)
                used |= {f"{layer}.{part}" for part in PARTS}
        left = {name: held for name, held in tensors.items() if name not in used}
        return found, {HEADER: tensors[HEADER], **left} if left and HEADER in tensors else left

    def _know(self, values: torch.Tensor, patch: Patch) -> None:
        number = id(values)
        self._known[number] = (weakref.ref(values, lambda _: self._known.pop(number, None)), patch)


HANDED = Handed()
