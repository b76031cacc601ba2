"""A whole WaveFT adapter on ComfyUI's models: fitted, put onto a clone of them, reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.lora
import torch
from comfy.patcher_extension import CallbacksMP

from ..adapters import describe
from ..adapters.filters import Emptied, Filter, kept
from ..core import Target, WaveFTError, check_strength, fit, listed
from ..sockets import Carried, present
from .layerpatch import WaveFTPatch, forget
from .original import Original

STRENGTH_LIMIT = 100.0  # the stock LoRA loader's
TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")  # kohya's names for one encoder, and for SDXL's two


@dataclass(frozen=True)
class Part:
    """An adapter to be applied, and how strongly; a strength of 0 leaves that side out."""

    carried: Carried
    strength_model: float
    strength_clip: float


def apply(model: Any, clip: Any, parts: Sequence[Part], filter: Filter | None = None) -> tuple[Any, Any, str]:
    """Returns the patched model and text encoders and a report; what nothing is applied to is returned itself.

    Args:
        model: ComfyUI's MODEL.
        clip: ComfyUI's CLIP, or None.
        filter: for every part; of several parts, those of which it leaves nothing are left out, and the report says so.

    Raises:
        WaveFTError: an adapter does not fit whole. Nothing has been patched then.
    """
    present("model", model)
    reports = []
    used = []
    for part in parts:
        present("adapter", part.carried)
        if clip is None and part.strength_model == 0:
            part = replace(part, strength_clip=0.0)  # the model comes back itself, whatever the file holds
        try:
            used.append((part if part.strength_model == part.strength_clip == 0 else _filtered(part, filter), part))
        except Emptied:
            if len(parts) == 1:
                raise
            reports.append(f"0/{len(part.carried.adapter.layers)} layers of {part.carried.title}: filtered out")
    # all are fitted before any is patched: adapters are applied whole or not at all
    found = [fitted(model, clip, part) for part, _ in used]
    for (part, _), (in_model, in_text) in zip(used, found, strict=True):
        if in_model:
            model = patched(model, in_model, part.strength_model)
        if in_text:
            clip = patched(clip, in_text, part.strength_clip)
    told = [_report(part, whole, *map(len, both)) for (part, whole), both in zip(used, found, strict=True)]
    reports = [*told, *reports]
    return model, clip, "\n\n".join(reports) or "nothing to apply"


def _filtered(part: Part, filter: Filter | None) -> Part:
    return replace(part, carried=kept(filter, part.carried))


def model_patches(model: torch.nn.Module, carried: Carried, strength: float = 1.0) -> dict[str, WaveFTPatch]:
    """Returns {weight key: patch} of the adapter's layers that are not a text encoder's, all of them.

    Args:
        model: the module inside a MODEL.
        strength: at which they are to be applied.

    Raises:
        WaveFTError: they do not fit, see `fit`.
    """
    title = f"the connected model ({type(model).__name__})"
    target = _target(title, comfy.lora.model_lora_keys_unet(model, {}), model)
    found = fit(target, carried.adapter, _of_model(carried), carried.title, strength)
    return {key: WaveFTPatch(carried, layer, Original(model, key)) for key, layer in found.items()}


def clip_patches(module: torch.nn.Module, carried: Carried, strength: float = 1.0) -> dict[str, WaveFTPatch]:
    """Returns {weight key: patch} of the adapter's text-encoder layers, all of them; as `model_patches`."""
    target = _target("the connected CLIP", comfy.lora.model_lora_keys_clip(module, {}), module)
    found = fit(target, carried.adapter, text_layers(carried), carried.title, strength)
    return {key: WaveFTPatch(carried, layer, Original(module, key)) for key, layer in found.items()}


def text_layers(carried: Carried) -> list[str]:
    """Returns the adapter's layers that are a text encoder's."""
    return [layer for layer in carried.adapter.layers if layer.startswith(TEXT_ENCODERS)]


def _of_model(carried: Carried) -> list[str]:
    return [layer for layer in carried.adapter.layers if not layer.startswith(TEXT_ENCODERS)]


def fitted(model: Any, clip: Any, part: Part) -> tuple[dict[str, WaveFTPatch], dict[str, WaveFTPatch]]:
    """Returns {weight key: patch} for the model and for the text encoders; a side at strength 0 has none.

    Raises:
        WaveFTError: a layer that does not fit, or text-encoder layers without a CLIP.
    """
    for strength in (part.strength_model, part.strength_clip):
        check_strength(strength, part.carried.title)
    of_text = text_layers(part.carried)
    if of_text and clip is None and part.strength_clip != 0:
        raise WaveFTError(
            f'adapter "{part.carried.title}", layers {listed(of_text)}: expected a CLIP for {len(of_text)} '
            "text-encoder layers, got none. Connect `clip`, or set strength_clip to 0 to leave them out."
        )
    in_model: dict[str, WaveFTPatch] = {}
    in_text: dict[str, WaveFTPatch] = {}
    if _of_model(part.carried) and part.strength_model != 0:
        in_model = model_patches(model.model, part.carried, part.strength_model)
    if of_text and clip is not None and part.strength_clip != 0:
        in_text = clip_patches(clip.cond_stage_model, part.carried, part.strength_clip)
    return in_model, in_text


def _report(part: Part, whole: Part, in_model: int, in_text: int) -> str:
    carried, before = part.carried, whole.carried
    lines = [
        f"{in_model + in_text}/{len(carried.adapter.layers)} layers of {carried.title}",
        _line("model", in_model, len(_of_model(carried)), part.strength_model),
        _line("CLIP", in_text, len(text_layers(carried)), part.strength_clip),
        *describe.facts(carried.adapter),
    ]
    if carried is not before:
        said = ", ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in carried.origin["filtered"].items()
        )
        lines.insert(
            1, f"filter: {said}: {len(carried.adapter.layers)} of {len(before.adapter.layers)} layers are left"
        )
    return "\n".join(lines)


def _line(title: str, applied: int, held: int, strength: float) -> str:
    if held == 0:
        return f"{title}: unchanged, the file holds no layers for it"
    if strength == 0:
        return f"{title}: 0/{held} layers, left out by strength 0"
    return f"{title}: {applied}/{held} layers at strength {strength:g}"


def _target(title: str, keys: Mapping[str, Any], module: torch.nn.Module) -> Target:
    # A key that is a tuple is a slice of a fused weight (Flux's qkv): none of the models that we train has one.
    plain = {layer: key for layer, key in keys.items() if isinstance(key, str)}
    # not `state_dict()`: GGUF packs give an empty one, of the quantised tensors' sizes
    return Target(title, plain, dict(module.named_parameters(remove_duplicate=False)))


def patched(patcher: Any, patches: Mapping[str, WaveFTPatch], strength: float) -> Any:
    """Returns a clone that carries the patches; the weights are shared, and change when ComfyUI loads them."""
    clone = patcher.clone()
    taken = set(clone.add_patches(dict(patches), strength))
    left = [patch.layer for key, patch in patches.items() if key not in taken]
    if left:
        raise WaveFTError(
            f"ComfyUI: expected it to take {len(patches)} layers, got all but {listed(left)}. Update ComfyUI."
        )
    adapters = {patch.carried.adapter for patch in patches.values()}

    def unloaded(_patcher: Any, unpatch_all: bool) -> None:
        if unpatch_all:  # and not only exchanged for a clone with other patches
            for adapter in adapters:
                forget(adapter)

    getattr(clone, "patcher", clone).add_callback(CallbacksMP.ON_DETACH, unloaded)  # a CLIP's patcher is inside it
    return clone
