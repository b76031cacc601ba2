"""Fits an adapter's layers to the weights of what is connected: all of them or none, and says why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .core import Adapter, WaveFTError, listed


@dataclass(frozen=True)
class Target:
    """A model or its text encoders, as far as fitting goes.

    Attributes:
        title: what messages call it.
        keys: layer name -> key of the weight, in every spelling that ComfyUI knows.
        shapes: key -> shape of the weight.
    """

    title: str
    keys: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def fit(target: Target, adapter: Adapter, layers: Iterable[str], source: str) -> dict[str, str]:
    """Returns {weight key: layer}, every one of `layers`.

    Args:
        source: the file's name, for messages.

    Raises:
        WaveFTError: a layer that the target lacks, a name that fits two weights, a weight that two layers name, or
            another shape.
    """
    layers = list(layers)
    _check_known(target, adapter, layers, source)
    spelled = Counter(key.replace(".", "_") for key in target.shapes)
    found: dict[str, str] = {}
    for layer in layers:
        key = target.keys[layer]
        if spelled[key.replace(".", "_")] > 1:
            raise WaveFTError(
                f'adapter "{source}", layer "{layer}": expected one layer of {target.title}, got a name that fits '
                "several. Rename the layers of that model."
            )
        if key in found:
            raise WaveFTError(
                f'adapter "{source}", layers "{found[key]}" and "{layer}": expected one layer for each weight, got two '
                f'for "{key}". Remove one from the file.'
            )
        found[key] = layer
    _check_shapes(target, adapter, found, source)
    return found


def trained_for(adapter: Adapter) -> str:
    """Returns what the file says that it was trained for."""
    for key in ("modelspec.architecture", "ss_base_model_version"):
        if adapter.metadata.get(key):
            return adapter.metadata[key]
    return "a model that it does not name"


def _check_known(target: Target, adapter: Adapter, layers: Sequence[str], source: str) -> None:
    missing = [layer for layer in layers if layer not in target.keys]
    if missing:
        raise WaveFTError(
            f'adapter "{source}": expected layers of {target.title}, got {len(missing)} of {len(layers)} that it does '
            f"not have. {_remedy(adapter)} They are {listed(missing)}."
        )


def _check_shapes(target: Target, adapter: Adapter, found: dict[str, str], source: str) -> None:
    wrong = {
        layer: f"{list(target.shapes[key])}, got {list(adapter.layers[layer].shape)}"
        for key, layer in found.items()
        if target.shapes[key] != tuple(adapter.layers[layer].shape)
    }
    if wrong:
        first, sizes = next(iter(wrong.items()))
        raise WaveFTError(
            f'adapter "{source}", layers {listed(wrong)}: expected the shapes of {target.title}, "{first}" {sizes}. '
            f"{_remedy(adapter)}"
        )


def _remedy(adapter: Adapter) -> str:
    return f"The file was trained for {trained_for(adapter)}: connect such a model, or choose another file."
