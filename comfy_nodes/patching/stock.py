"""Stock LoRA nodes, and all that load LoRAs as they do, read WaveFT files: one more class on ComfyUI's list of kinds.

They hand on a file's tensors alone, which is why the file's header is one of them, and they ask the class for each of
the model's 7000 layer names, of every LoRA that is loaded.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass

import comfy.weight_adapter
from torch import Tensor

from ..core import HEADER, from_tensors
from ..sockets import Carried
from .layerpatch import WaveFTPatch, untrainable

SWITCH = "WAVEFT_STOCK_LOADERS"
OFF = ("0", "false", "off", "no")
TITLE = "a LoRA node's file"  # its name is not handed on


@dataclass(frozen=True)
class _Read:
    """What was read of a file, and of which tensors; they are not kept alive.

    Attributes:
        values: each layer's, as they were then.
    """

    carried: Carried
    values: Mapping[str, weakref.ref[Tensor]]

    def holds(self, lora: Mapping[str, Tensor], layer: str) -> bool:
        """Says whether this is still what `lora` says of the layer: some nodes exchange or add tensors."""
        values = lora.get(f"{layer}.waveft_values")
        return values is None or (layer in self.values and self.values[layer]() is values)


_READ: dict[int, tuple[weakref.ref[Tensor], _Read]] = {}  # by id of a header tensor, as long as it lives


class WaveFTAdapter(WaveFTPatch):
    """A layer that a LoRA node loaded."""

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, Tensor],
        alpha: float | None = None,
        dora_scale: Tensor | None = None,
        loaded_keys: set[str] | None = None,
    ) -> WaveFTAdapter | None:
        """Returns the layer that is called `x`, or None if the tensors hold none of that name.

        Args:
            lora: the file's tensors by name.
            alpha: of the names that a file with one has; ComfyUI's trainer, and it alone, gives one for every file.
            loaded_keys: the names that have found their use; ComfyUI logs the others. Its trainer gives none.

        Raises:
            WaveFTError: the tensors are a WaveFT file's, but not as docs/format.md says; or the trainer asks.
        """
        name = f"{x}.waveft_values"
        if HEADER not in lora and name not in lora:
            return None
        carried = _carried(lora, x)
        if loaded_keys is None and alpha is not None:  # said at once: what is not found it trains from nothing
            raise untrainable(carried.title)
        if loaded_keys is not None:
            loaded_keys.add(HEADER)
        return cls(carried, x) if name in lora else None


def register() -> None:
    """Puts our class on ComfyUI's list, once, unless the environment says not to."""
    if os.environ.get(SWITCH, "").strip().lower() in OFF:
        return
    kinds = comfy.weight_adapter.adapters
    # by name: a pack that is installed twice has two classes, and each of them would read every file
    if all(kind.__name__ != WaveFTAdapter.__name__ for kind in kinds):
        kinds.append(WaveFTAdapter)


def _carried(lora: Mapping[str, Tensor], layer: str) -> Carried:
    """Returns the adapter that the tensors hold, which is read, whole, at the first layer that is asked for."""
    known, read = _READ.get(id(lora.get(HEADER)), (None, None))
    if known is not None and read is not None and known() is lora[HEADER] and read.holds(lora, layer):
        return read.carried
    # copies: a file's tensors are views of it, and it may be written anew while the adapter lives
    adapter = from_tensors({name: tensor.detach().cpu().clone() for name, tensor in lora.items()}, TITLE)
    carried = Carried(adapter, TITLE, {"loaded": "by a LoRA node"})
    values = {name: weakref.ref(lora[f"{name}.waveft_values"]) for name in adapter.layers}
    header, number = lora[HEADER], id(lora[HEADER])
    _READ[number] = (weakref.ref(header, lambda _: _READ.pop(number, None)), _Read(carried, values))
    return carried
