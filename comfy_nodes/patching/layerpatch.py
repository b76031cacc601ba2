"""One layer of an adapter as ComfyUI's own kind of weight adapter: merged into a weight, or run beside its layer.

What ComfyUI does with a patch, and what comes of it here; `tests/comfyui` holds this to the class that it really has:

    calculate_weight                     merged, by the core
    type(patch)(loaded_keys, weights)    a copy whose tensors lie elsewhere: at each forward, with dynamic VRAM
    h, bypass_forward                    beside the layer (Load LoRA (Bypass)), by the core; g stays the identity
    calculate_shape                      inherited: a weight keeps its shape
    load                                 a LoRA node's file: stock.py
    to_train, create_train               refused: these files are trained by WaveFT Train
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from comfy.weight_adapter import WeightAdapterBase

from ..core import Adapter, Kept, Sampler, WaveFTError, added
from ..sockets import Carried
from .original import Original

_KEPT = Kept(256 << 20)  # SDXL's 560 layers at the paper's budget take 9 MB with db1, 47 MB with db2


@dataclass(frozen=True)
class Source:
    """Which layer a patch is. No tensor to ComfyUI: it is handed on as it is, and nothing in it is moved or cast.

    Attributes:
        original: of the weight that it is for, where that is known.
    """

    carried: Carried
    layer: str
    original: Original | None = None


class WaveFTPatch(WeightAdapterBase):
    """One layer of an adapter.

    Attributes:
        loaded_keys: the names of the layer's tensors in a file.
        weights: `[Source, (values,)]`. ComfyUI copies the tensors in it to a device before a merge, however deep they
            lie, and casts those that lie at the top to the layer's dtype before a forward beside it: positions would
            be others in half precision, so the core keeps them and no values lie at the top.
        multiplier, is_conv, kw_dict: set by ComfyUI before a forward beside the layer: the strength, whether the layer
            is a convolution, and its stride, padding, dilation and groups.
    """

    name = "waveft"
    multiplier: float = 1.0
    is_conv: bool = False
    kw_dict: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, given: Carried | set[str], held: str | list[Any], original: Original | None = None) -> None:
        """Takes an adapter and a layer's name; or, as ComfyUI copies a patch, `loaded_keys` and `weights` of another.

        A copy's tensors may be memory that is not filled yet: they are not looked at here.

        Args:
            original: of the weight that it will be merged into.
        """
        self.loaded_keys: set[str]
        self.weights: list[Any]
        if isinstance(given, Carried):
            layer = str(held)
            self.loaded_keys = {f"{layer}.waveft_{part}" for part in ("values", "indices", "shape")}
            self.weights = [Source(given, layer, original), (given.adapter.layers[layer].values,)]
        else:
            self.loaded_keys, self.weights = given, list(held)
        self._beside: tuple[Sampler, torch.Tensor] | None = None

    @property
    def carried(self) -> Carried:
        """The adapter."""
        return self._source.carried

    @property
    def layer(self) -> str:
        """The layer's name in it."""
        return self._source.layer

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: tuple[int, int, int] | None,
        function: Callable[[torch.Tensor], torch.Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        """Returns `weight + strength * function(dW)`, in place; dW is the core's, and the sum is made in float32.

        `weight` is a copy that ComfyUI made for us, on the device of its choice: in the dtype that it merges in when a
        model is loaded whole, in the layer's when it is merged at each forward to save memory. `strength_model` has
        been multiplied into it and `offset` cut from it by the caller. `intermediate_dtype` is what the caller says
        that it merges in: where that is wider than the copy, the copy's lost bits are put back, and the result is a
        wider tensor, not in place. dW itself is never rounded to it.

        Raises:
            WaveFTError: the weight's shape is not the layer's.
        """
        if self._source.original is not None and intermediate_dtype.itemsize > weight.dtype.itemsize and offset is None:
            weight = self._source.original.restored(weight)
        adapter = self.carried.adapter
        probe = torch.empty(weight.shape, device="meta")
        if function(probe) is probe:  # the identity, in all but fused layers: touch the few entries that change
            plan = _KEPT.plan(adapter, self.layer, weight)
            return adapter.add_(weight, self.layer, strength, plan, self._values)
        wide = torch.promote_types(weight.dtype, torch.float32)
        delta = function(adapter.delta(self.layer, wide, weight.device))
        if delta.shape != weight.shape:
            raise self._refusal(f'weight "{key}"', list(weight.shape), list(delta.shape))
        return weight.add_(delta, alpha=strength)  # torch adds in the wider dtype and rounds once

    def h(self, x: torch.Tensor, base_out: torch.Tensor) -> torch.Tensor:
        """Returns `multiplier * dW(x)`, what the layer's output lacks, in the shape and dtype of `base_out`.

        Args:
            x: [..., n], what the layer was called with; a convolution's is [B, in, h, w].
            base_out: [..., m], what it gave.

        Raises:
            WaveFTError: the layer is of another shape.
        """
        return self._added(x, torch.zeros_like(base_out))

    def bypass_forward(
        self, org_forward: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Returns `org_forward(x) + h(x)`, rounded once; as `h`."""
        return self._added(x, org_forward(x, *args, **kwargs))

    def to_train(self) -> NoReturn:
        """Refuses: ComfyUI's trainer knows LoRAs and their like.

        Raises:
            WaveFTError: always.
        """
        raise untrainable(self.carried.title)

    @classmethod
    def create_train(cls, weight: torch.Tensor, *args: Any) -> NoReturn:
        """Refuses, as `to_train`."""
        raise untrainable("a new one")

    @property
    def _source(self) -> Source:
        source: Source = self.weights[0]
        return source

    @property
    def _values(self) -> torch.Tensor:
        (values,) = self.weights[1]
        found: torch.Tensor = values
        return found

    def _added(self, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        adapter = self.carried.adapter
        shape = adapter.layers[self.layer].shape
        beside = "the layer that it runs beside"
        if self.is_conv != (len(shape) > 2):
            kind = "a convolution" if self.is_conv else "a linear layer"
            raise self._refusal(beside, kind, f"a weight of shape {list(shape)}")
        channels = 1 - len(shape) if self.is_conv else -1  # where they are in x and in the output
        sides = (output.shape[channels], x.shape[channels] // self.kw_dict.get("groups", 1))
        if sides != shape[:2]:
            raise self._refusal(beside, list(sides), list(shape[:2]))
        if self.is_conv:
            delta = adapter.delta(self.layer, output.dtype, output.device)
            convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d)[len(shape) - 3]
            return output.add(convolve(x.to(output.dtype), delta, **self.kw_dict), alpha=self.multiplier)
        sampler, values = self._on(x.device)
        sampler.factor = adapter.scaling * self.multiplier
        return added(output, x, values, sampler)

    def _on(self, device: torch.device) -> tuple[Sampler, torch.Tensor]:
        """Returns the positions and the values on a device, where they stay as long as this patch lives."""
        if self._beside is None or self._beside[1].device != device:
            adapter = self.carried.adapter
            held = adapter.layers[self.layer]
            with torch.inference_mode(False):  # nodes run in it, and a forward in training may meet what they left
                values = held.values.to(device, torch.float32, copy=True)
            self._beside = Sampler(adapter.wavelet, adapter.mode, held.shape, held.indices, 1.0), values
        return self._beside

    def _refusal(self, what: str, expected: object, got: object) -> WaveFTError:
        return WaveFTError(
            f'adapter "{self.carried.title}", layer "{self.layer}", {what}: expected {expected}, got {got}. '
            "The file was trained for another model."
        )


def untrainable(title: str) -> WaveFTError:
    """Returns the refusal of an adapter that ComfyUI's own trainer was given."""
    return WaveFTError(
        f'Train LoRA, adapter "{title}": expected a LoRA, got a WaveFT adapter, which it cannot train. '
        "Train it with the node WaveFT Train, or choose [None] for existing_lora."
    )


def forget(adapter: Adapter) -> None:
    """Forgets the plans that were kept for an adapter: its model was taken off the device."""
    _KEPT.drop(adapter)
