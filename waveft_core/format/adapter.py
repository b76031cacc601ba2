"""The adapter in memory: its layers, its basis, the rules that both must keep, and the dW that it stands for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from ..basis.atoms import coeffs_shape
from ..basis.delta import dense_delta
from ..basis.plan import Plan, arithmetic_dtype, rounded
from ..basis.planning import make_plan
from ..errors import Refusal, WaveFTError, listed, within_memory
from .header import Header, check_header

DAMAGED = "The file is damaged, or was not written by a WaveFT tool."
FILE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's coefficients.

    Attributes:
        values: [p] float32, float16 or bfloat16; float64 in memory alone, from the training of a float64 base.
        indices: [p] int32, flat in C, strictly increasing.
        shape: of the weight itself, two to four sizes.
    """

    values: Tensor
    indices: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A set of layers' coefficients in one basis; validated when made.

    Attributes:
        layers: by the file's layer names.
        scaling: the lambda that multiplies IDWT(C).
        locations: how the positions were drawn; information only.
        metadata: the file's own strings, without the header's copy.

    Raises:
        WaveFTError: anything that docs/format.md says a reader must refuse.
    """

    layers: Mapping[str, Layer]
    wavelet: str = "db1"
    mode: str = "periodization"
    scaling: float = 25.0
    locations: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        layers = {name: self.layers[name] for name in sorted(self.layers)}
        layers = {name: Layer(held.values.detach(), held.indices, tuple(held.shape)) for name, held in layers.items()}
        object.__setattr__(self, "layers", MappingProxyType(layers))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        fail = Refusal(self.source)
        if isinstance(self.scaling, float) and not math.isfinite(self.scaling):
            raise fail(None, "scaling", "a finite number", self.scaling, "Use the scaling it was trained with.")
        check_header(self.header, fail)
        if not self.layers:
            raise fail(None, "layers", "at least one layer", "none", "The file holds no adapter.")
        for name, layer in self.layers.items():
            check_layer(name, layer, self.wavelet, self.mode, self.scaling, fail)

    def __reduce__(self) -> tuple[object, ...]:
        fields = (self.wavelet, self.mode, self.scaling, self.locations, dict(self.metadata), self.source)
        return Adapter, (dict(self.layers), *fields)  # the read-only views of layers and metadata cannot be pickled

    def __repr__(self) -> str:
        count = sum(layer.values.numel() for layer in self.layers.values())
        named = f' "{self.source}"' if self.source else ""
        return f"<Adapter{named}, {self.wavelet} {self.mode}, {len(self.layers)} layers, {count:,} coefficients>"

    @property
    def header(self) -> Header:
        """What the file's header tensor says."""
        return Header(self.wavelet, self.mode, self.scaling, self.locations)

    def delta(
        self,
        layer: str,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        max_entries: int = 2**28,
    ) -> Tensor:
        """Returns dW of one layer, scaling included, in the weight's shape.

        Args:
            dtype: of the result, the values' own by default; the arithmetic is float32, or float64 for float64.
            device: the values' own by default.
            max_entries: the largest dW to make, since a shape in a file is only a claim.

        Raises:
            WaveFTError: no such layer, a dW of more than `max_entries` entries, or too little memory.
        """
        found = self._layer(layer)
        entries = math.prod(found.shape)
        if entries > max_entries:
            fail = Refusal(self.source)
            raise fail(
                layer, "shape", f"at most {max_entries} entries", list(found.shape), "Give a larger max_entries."
            )
        dtype = dtype or found.values.dtype
        device = torch.device(device) if device is not None else found.values.device
        values = found.values.to(device, arithmetic_dtype(dtype))
        with within_memory(f'layer "{layer}", a dW of {list(found.shape)}'):
            return dense_delta(self.wavelet, self.mode, found.shape, found.indices, values, self.scaling).to(dtype)

    def plan(self, layer: str, dtype: torch.dtype, device: torch.device) -> Plan:
        """Returns which entries of a weight of `dtype` the layer touches, and how: what `add_` can be given again.

        It takes 6 bytes a coefficient with db1, 130 with db4 (`nbytes`), 4 with filters so long that they are swept on
        the CPU (`planning.py`). Making it is most of what `add_` costs.

        Raises:
            WaveFTError: no such layer.
        """
        found, wide = self._layer(layer), arithmetic_dtype(dtype)
        return make_plan(self.wavelet, self.mode, found.shape, found.indices, wide).to(device, wide)

    def add_(
        self,
        weight: Tensor,
        layer: str,
        strength: float = 1.0,
        plan: Plan | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        """Adds strength * dW to `weight` in place and returns it; only the touched entries are read and written.

        The arithmetic is that of `merge`, float32 (float64 on float64) and rounded once, without a ledger: for callers
        that own a copy of the weight and never undo.

        Args:
            plan: this layer's own, from `plan`, on the weight's device and for its dtype; made anew by default.
            values: this layer's own, where a copy lies on the weight's device already.

        Raises:
            WaveFTError: no such layer, or a weight of another shape.
        """
        found = self._layer(layer)
        if tuple(weight.shape) != found.shape:
            fail = Refusal(self.source)
            raise fail(
                layer, "weight", list(found.shape), list(weight.shape), "The file was trained for another model."
            )
        wide = arithmetic_dtype(weight.dtype)
        plan = self.plan(layer, weight.dtype, weight.device) if plan is None else plan
        values = found.values if values is None else values
        total = plan.sums(values.to(weight.device)).mul_(self.scaling * strength)
        plan.places.write(weight, rounded(total.add_(plan.places.read(weight).to(wide)), weight.dtype))
        return weight

    def _layer(self, name: str) -> Layer:
        if name not in self.layers:
            raise Refusal(self.source)(
                name, "layer", "one of the adapter's", "no such layer", f"It has {listed(self.layers)}."
            )
        return self.layers[name]


def check_adapter(given: object) -> None:
    """Refuses what is no adapter: a file's path, most likely.

    Raises:
        WaveFTError: saying what it is.
    """
    if not isinstance(given, Adapter):
        remedy = f'Use load("{given}").' if isinstance(given, str | os.PathLike) else "Use load(path)."
        raise WaveFTError(f"adapter: expected an Adapter, got {type(given).__name__}. {remedy}")


def check_pairs(given: object) -> None:
    """Refuses what is no list of adapters and numbers.

    Raises:
        WaveFTError: saying what it is.
    """
    pairs = list(given) if isinstance(given, Iterable) else [given]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            got = type(pair).__name__
            raise WaveFTError(f"adapters: expected pairs (Adapter, number), got {got}. Give [(load(path), 1.0), ...].")
        check_adapter(pair[0])


def check_layer(name: str, layer: Layer, wavelet: str, mode: str, scaling: float, fail: Refusal) -> None:
    """Refuses a layer that breaks a rule of the format's table of tensors."""
    values, indices, shape = layer.values, layer.indices, layer.shape
    damaged = DAMAGED
    if "." in name or not name:
        raise fail(name, "name", "a layer name without dots", repr(name), damaged)
    if values.dtype not in (*FILE_DTYPES, torch.float64) or values.dim() != 1:
        raise fail(name, "waveft_values", "F32, F16 or BF16 [p]", f"{values.dtype} {list(values.shape)}", damaged)
    if indices.dtype != torch.int32 or indices.dim() != 1:
        raise fail(name, "waveft_indices", "I32 [p]", f"{indices.dtype} {list(indices.shape)}", damaged)
    if values.numel() == 0 or values.numel() != indices.numel():
        got = f"{values.numel()} values and {indices.numel()} indices"
        raise fail(name, "coefficients", "as many values as indices, at least one", got, damaged)
    room = check_plane(name, shape, wavelet, mode, fail)
    if int(indices[0]) < 0 or int(indices[-1]) >= room or not bool((indices[1:] > indices[:-1]).all()):
        wrong = _wrong_index(indices, room)
        raise fail(name, "waveft_indices", f"strictly increasing within [0, {room})", wrong, damaged)
    largest = float(values.abs().max())  # NaN where one is
    if not math.isfinite(largest):
        raise fail(
            name, "waveft_values", "finite numbers", "NaN or infinity", "The training diverged: use an earlier file."
        )
    if largest * abs(scaling) > torch.finfo(torch.float32).max:
        raise fail(name, "waveft_values", "scaling * values within float32", "a larger product", damaged)


def check_plane(name: str, shape: tuple[int, ...], wavelet: str, mode: str, fail: Refusal) -> int:
    """Returns how many coefficients a layer's plane has; refuses a shape that no weight has."""
    if not 2 <= len(shape) <= 4 or any(size < 1 for size in shape):
        raise fail(name, "waveft_shape", "two to four sizes, each at least 1", list(shape), DAMAGED)
    try:
        across, along = coeffs_shape(wavelet, mode, shape)
    except WaveFTError as error:
        raise WaveFTError(f'{fail.prefix}layer "{name}", {error}') from None
    if across * along >= 2**31:
        raise fail(name, "waveft_shape", "a plane of fewer than 2**31 coefficients", list(shape), DAMAGED)
    return across * along


def _wrong_index(indices: Tensor, count: int) -> str:
    outside = indices[(indices < 0) | (indices >= count)]
    if outside.numel():
        return f"{int(outside[0])}, out of range"
    at = int(torch.nonzero(indices[1:] <= indices[:-1])[0])
    return f"{int(indices[at + 1])} after {int(indices[at])} at position {at + 1}"
