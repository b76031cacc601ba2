"""A MODEL's and a CLIP's weights for the core, by layer name, with all patches applied, one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.model_patcher
import torch
from comfy.cli_args import args

from ..core import WaveFTError

_PREFIX = "diffusion_model."
# Names of a text encoder's layer that adapter files may have, best first: SDXL's two, then a model's only one.
_ENCODERS = ("lora_te1_", "lora_te2_", "lora_te_")
# What files say that they were made for, by ComfyUI's class of the model: the words that the trainer writes.
_TRAINED_FOR = {
    "SDXL": {
        "modelspec.architecture": "stable-diffusion-xl-v1-base/waveft",
        "ss_base_model_version": "sdxl_base_v1-0",
    }
}


@dataclass(frozen=True)
class Place:
    """A weight: the layer's name in adapter files, its path in the original checkpoint, its shape."""

    name: str
    path: str
    component: str | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Held:
    """A weight as its model stores it, what makes floats of it, and the patches that are to be applied."""

    key: str
    weight: torch.Tensor
    convert: Callable[..., torch.Tensor]
    patches: Sequence[Any]
    device: torch.device


class Merged:
    """What ComfyUI's patches make of the weights: the core's `Source`. Nothing is loaded, moved or changed.

    Attributes:
        slots: by layer name.
        spellings: every other name that ComfyUI knows for these layers, {spelling: layer name}.
    """

    def __init__(self, model: Any, clip: Any = None) -> None:
        """Takes a MODEL, and a CLIP where its layers are wanted too."""
        self.slots: dict[str, Place] = {}
        self.spellings: dict[str, str] = {}
        self._keys: dict[str, _Held] = {}
        self.metadata: Mapping[str, str] = _TRAINED_FOR.get(type(model.model).__name__, {})
        self._add(model, comfy.lora.model_lora_keys_unet(model.model, {}), "unet")
        if clip is not None:
            self._add(clip.patcher, comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}), None)

    @property
    def text_encoders(self) -> list[str]:
        """Returns the names of the text encoders that there are layers of: "te1" and its like."""
        return sorted({place.component for place in self.slots.values() if place.component not in (None, "unet")})

    def read(self, name: str) -> torch.Tensor:
        """Returns one weight in float32, on the device that its model computes on, as ComfyUI would merge it.

        Raises:
            WaveFTError: a quantised weight that ComfyUI cannot make floats of.
        """
        held = self._keys[name]
        if not held.weight.is_floating_point():
            raise WaveFTError(
                f'layer "{name}": expected float weights, got {held.weight.dtype}: the model is quantised. '
                "Load it from a checkpoint in fp16, bf16, fp32 or fp8."
            )
        # ComfyUI merges into a float32 copy; `convert` makes floats of a quantised weight, or undoes a scale
        wide = held.convert(held.weight.detach().to(held.device, torch.float32, copy=True), inplace=True)
        return comfy.lora.calculate_weight(held.patches, wide, held.key)

    def _add(self, patcher: Any, spelled: Mapping[str, Any], component: str | None) -> None:
        # not what the whole state dict holds (`get_key_patches`): of quantised layers it names tensors that are none
        held = dict(patcher.model.named_parameters(remove_duplicate=False))
        named: dict[str, list[str]] = {}
        for spelling, key in spelled.items():
            if isinstance(key, str) and key in held and 2 <= held[key].dim() <= 4:
                named.setdefault(key, []).append(spelling)
        for key, spellings in named.items():
            place = _place(key, spellings, tuple(held[key].shape), component)
            if place is not None:
                self.slots[place.name] = place
                self._keys[place.name] = _held(patcher, key)
                self.spellings |= dict.fromkeys(spellings, place.name)


def _held(patcher: Any, key: str) -> _Held:
    """Returns a weight as ComfyUI's `get_key_patches` would: the original, where the model is patched just now."""
    weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
    if key in patcher.backup:
        weight = patcher.backup[key].weight
    if key in patcher.hook_backup:
        weight = patcher.hook_backup[key][0]
    return _Held(key, weight, convert or _as_it_is, patcher.patches.get(key, []), patcher.load_device)


def _as_it_is(weight: torch.Tensor, **_: Any) -> torch.Tensor:
    return weight


def graph_metadata(hidden: Any) -> dict[str, str]:
    """Returns what ComfyUI's savers write of the graph: whether they do is the user's setting (--disable-metadata).

    Args:
        hidden: a node's, with `prompt` and `extra_pnginfo`: JSON trees, or None.
    """
    if args.disable_metadata or hidden is None:
        return {}
    found = {"prompt": hidden.prompt} if hidden.prompt is not None else {}
    found |= hidden.extra_pnginfo or {}
    return {key: json.dumps(value) for key, value in found.items()}


def _place(key: str, spellings: list[str], shape: tuple[int, ...], component: str | None) -> Place | None:
    """Returns a weight's place, None where adapter files have no name for it."""
    path = key.removesuffix(".weight")
    if component is not None:
        if not key.startswith(_PREFIX):
            return None
        path = path.removeprefix(_PREFIX)
        return Place(f"lora_unet_{path.replace('.', '_')}", path, component, shape)
    for prefix in _ENCODERS:
        name = next((spelling for spelling in spellings if spelling.startswith(prefix)), None)
        if name is not None:
            inner = path[max(path.find("text_model."), 0) :]
            return Place(name, inner, prefix.strip("_").removeprefix("lora_"), shape)
    return None
