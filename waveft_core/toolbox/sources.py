"""What has weights by layer name (models, state dicts, files), and how two of them differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from ..errors import WaveFTError, listed
from ..format.keys import layer_names, unwrapped
from ..pattern import compile_pattern
from ..update.spec import SDXL_ATTENTION
from ..update.targets import parts
from .precision import Told, difference

Weighted: TypeAlias = nn.Module | Mapping[str, nn.Module] | Mapping[str, Tensor]


class Slot(Protocol):
    """A weight's place: the layer's name in adapter files, its module path within its component, its shape."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def component(self) -> str | None: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102


@runtime_checkable
class Source(Protocol):
    """Weights that can be listed without being read, and read one by one."""

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Returns the weights' places by layer name."""

    def read(self, name: str) -> Tensor:
        """Returns one weight."""


@dataclass(frozen=True)
class _Slot:
    name: str
    path: str
    component: str | None
    shape: tuple[int, ...]


class _Held:
    """Weights in memory."""

    def __init__(self, weights: Mapping[tuple[str | None, str], Tensor]) -> None:
        """Takes each weight by its component and module path."""
        self.slots: dict[str, Slot] = {}
        self._weights: dict[str, Tensor] = {}
        for component in dict.fromkeys(component for component, _ in weights):
            paths = {path: weight for (part, path), weight in weights.items() if part == component}
            for path, name in layer_names(paths, component).items():
                if not 2 <= paths[path].dim() <= 4:  # a norm's, which no adapter is for
                    continue
                if name in self.slots:
                    raise WaveFTError(
                        f'layer "{name}": expected one module of that name, got "{self.slots[name].path}" and '
                        f'"{path}". Rename one of them in the model.'
                    )
                self.slots[name] = _Slot(name, unwrapped(path), component, tuple(paths[path].shape))
                self._weights[name] = paths[path]

    def read(self, name: str) -> Tensor:
        return self._weights[name]


def opened(weights: Source | Weighted) -> Source:
    """Returns the weights of a model, a mapping of them, or a state dict of `<module path>.weight`, by layer name.

    Raises:
        WaveFTError: none of these, no weights, or two of one name.
    """
    if isinstance(weights, Source):
        return weights
    if isinstance(weights, Mapping) and any(isinstance(held, Tensor) for held in weights.values()):
        tensors = {key: held for key, held in weights.items() if isinstance(held, Tensor)}
        return _Held(
            {(None, key.removesuffix(".weight")): held for key, held in tensors.items() if key[-7:] == ".weight"}
        )
    given: object = weights
    if not isinstance(given, nn.Module | Mapping):
        got = type(given).__name__
        raise WaveFTError(f"weights: expected a model, a mapping of models, a state dict or files, got {got}.")
    return _Held(
        {
            (component, path): weight
            for component, model in parts(weights).items()  # type: ignore[arg-type]
            for path, module in model.named_modules()
            if isinstance(weight := getattr(module, "weight", None), Tensor)
        }
    )


def differences(
    base: Source | Weighted,
    tuned: Source | Weighted,
    targets: tuple[str, ...] | str = SDXL_ATTENTION,
    rounding: Told | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yields each target layer's name and W1 - W0, float32 (float64 where one is), in the order of names.

    What the storage dtype of the two explains is no difference (`precision.py`).

    Args:
        rounding: told of each layer in which something was taken for rounding: its name, entries, the dtype.

    Raises:
        WaveFTError: no target in both, a layer in one of the two alone, or shapes that differ; before the first layer.
    """
    first, second = opened(base), opened(tuned)
    names = _common(first, second, targets)
    return ((name, _difference(name, first.read(name), second.read(name), rounding)) for name in names)


def _difference(name: str, before: Tensor, after: Tensor, rounding: Told | None) -> Tensor:
    for weight in (before, after):
        if weight.is_meta or not weight.is_floating_point():
            got = "a meta tensor" if weight.is_meta else str(weight.dtype)
            raise WaveFTError(f'layer "{name}": expected float weights, got {got}. Load it in a float dtype.')
    return difference(name, before, after, rounding)


def _common(first: Source, second: Source, targets: tuple[str, ...] | str) -> list[str]:
    """Returns the names of the layers that `targets` match in both, sorted."""
    matched = {name for held in (first, second) for name, slot in held.slots.items() if matches(slot.path, targets)}
    shared = sorted(matched & first.slots.keys() & second.slots.keys())
    if not shared:
        raise WaveFTError(
            f"targets {targets!r}: expected to match layers that both models have, got none. "
            f"The base has {listed(first.slots, 3)}; the tuned one has {listed(second.slots, 3)}."
        )
    components = {_component(name) for name in shared}  # a whole checkpoint may be set against a bare UNet
    for which, held in (("the base", first), ("the tuned one", second)):
        alone = sorted(name for name in matched - held.slots.keys() if _component(name) in components)
        if alone:
            raise WaveFTError(
                f"{len(alone)} layers: expected them in both models, got none in {which} of {listed(alone)}. "
                "Give two models of one architecture, or leave the layers out of the targets."
            )
    for name in shared:
        before, after = tuple(first.slots[name].shape), tuple(second.slots[name].shape)
        if before != after:
            raise WaveFTError(
                f'layer "{name}": expected one shape in both models, got {list(before)} and {list(after)}. '
                "Give two models of one architecture."
            )
    return shared


def matches(path: str, targets: tuple[str, ...] | str) -> bool:
    """Returns whether `targets`, as in `Spec`, match a module path."""
    if isinstance(targets, str):
        return compile_pattern(targets, "targets").fullmatch(path)
    return any(path == suffix or path.endswith(f".{suffix}") for suffix in targets)


def _component(name: str) -> str:
    found = re.match(r"lora_(unet|te\d)_", name)
    return found[1] if found else ""
