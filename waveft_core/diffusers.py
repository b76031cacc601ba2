"""Adapters on a diffusers pipeline: load, dial and take off, by name.

    waveft_core.diffusers.load(pipe, "dog.safetensors", strength=0.8)
    ...
    waveft_core.diffusers.unload(pipe)

Nothing of diffusers is imported: a pipeline is what has `unet`, and maybe `text_encoder` and `text_encoder_2`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from torch import nn

from .errors import WaveFTError, listed
from .format.adapter import Adapter
from .format.file import load as load_file
from .update.attach import attach
from .update.lock import LOCK, locked
from .update.merge import merge
from .update.storage import can_hold
from .update.targets import resolve
from .update.tuning import Tuning

COMPONENTS = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}


class Loaded(Protocol):
    """An adapter that is in a pipeline.

    Attributes:
        strength: the dial; setting it rewrites the weights, and 0 gives the base's own bits.
    """

    strength: float


def load(
    pipe: Any,
    adapter: str | os.PathLike[str] | Adapter,
    strength: float = 1.0,
    name: str = "default",
    leave_out: Collection[str] = (),
) -> Loaded:
    """Puts an adapter into a pipeline's weights, beside those that are in it, and returns its dial.

    Where a weight is quantised the update runs beside the layer (`attach`), else it is merged and costs nothing.

    Args:
        pipe: any object with `unet`, such as `StableDiffusionXLPipeline`.
        adapter: a file's path, or an adapter.
        name: of this adapter in this pipeline.
        leave_out: components of the adapter that are not applied: "unet", "te1", "te2".

    Raises:
        WaveFTError: as `waveft_core.load` and `merge`, a pipeline without UNet, or a name that is in use.
    """
    found = adapter if isinstance(adapter, Adapter) else load_file(adapter)
    with LOCK:
        return _put(pipe, found, strength, name, leave_out)


def _put(pipe: Any, found: Adapter, strength: float, name: str, leave_out: Collection[str]) -> Loaded:
    held = loaded(pipe)
    if name in held:
        raise WaveFTError(f"name: expected one that is not in use, got {name!r}. Unload it, or choose another.")
    components = _components(pipe)
    places = resolve(components, found, leave_out)
    if all(can_hold(place.weight) for place in places):
        merged = merge(components, found, strength, leave_out)
        _LOADED.setdefault(pipe, {})[name] = merged
        return merged
    if leave_out:
        kept = {place.name: found.layers[place.name] for place in places}
        found = Adapter(kept, found.wavelet, found.mode, found.scaling, found.locations, found.metadata, found.source)
    tuning = attach(components, found, strength=strength)
    for values in tuning.parameters():
        values.requires_grad_(False)
    _LOADED.setdefault(pipe, {})[name] = tuning
    return tuning


def loaded(pipe: Any) -> dict[str, Loaded]:
    """Returns the adapters that are in a pipeline, by name."""
    return dict(_LOADED.get(pipe, {}))


@locked
def unload(pipe: Any, name: str | None = None) -> None:
    """Takes one adapter out of a pipeline, or all; the last one out leaves the base bit for bit.

    Raises:
        WaveFTError: no adapter of that name, or something else wrote to one of the weights meanwhile.
    """
    held = _LOADED.get(pipe, {})
    if name is not None and name not in held:
        raise WaveFTError(f"name: expected one of the loaded adapters ({listed(held)}), got {name!r}.")
    for each in [name] if name is not None else list(held):
        adapter = held[each]
        if isinstance(adapter, Tuning):
            adapter.detach()
        else:
            adapter.undo()
        del held[each]


_LOADED: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def _components(pipe: Any) -> dict[str, nn.Module]:
    found = {component: getattr(pipe, attribute, None) for component, attribute in COMPONENTS.items()}
    models = {component: model for component, model in found.items() if isinstance(model, nn.Module)}
    if "unet" not in models:
        raise WaveFTError(
            f"pipe: expected a pipeline with a UNet, got {type(pipe).__name__}. Give a StableDiffusionXLPipeline or "
            "its kin."
        )
    return models
