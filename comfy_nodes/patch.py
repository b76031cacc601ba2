"""A WaveFT adapter as a patch on ComfyUI's models: the only file that touches comfy's internals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.lora
import torch
from comfy.weight_adapter import WeightAdapterBase

from .core import Adapter, WaveFTError, listed
from .fit import Target, fit, trained_for

TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")  # kohya's names for one encoder, and for SDXL's two


class WaveFTPatch(WeightAdapterBase):
    """One layer of an adapter, in the form in which ComfyUI merges it into that layer's weight."""

    name = "waveft"

    def __init__(self, adapter: Adapter, layer: str) -> None:
        self.adapter = adapter
        self.layer = layer
        self.loaded_keys = {f"{layer}.waveft_{part}" for part in ("values", "indices", "shape")}
        self.weights = [adapter.layers[layer].values, adapter.layers[layer].indices]

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

        `weight` is a copy that ComfyUI made for us, on the device of its choice: float32 when a model is loaded whole,
        the storage dtype when it is merged at each forward to save memory. `strength_model` has been multiplied into
        it and `offset` cut from it by the caller. `intermediate_dtype` is not used: in half precision dW would be
        rounded twice.

        Raises:
            WaveFTError: the weight's shape is not the layer's.
        """
        if function(weight) is weight:  # the identity, in all but fused layers: touch the few entries that change
            return self.adapter.add_(weight, self.layer, strength)
        wide = torch.promote_types(weight.dtype, torch.float32)
        delta = function(self.adapter.delta(self.layer, wide, weight.device))
        if delta.shape != weight.shape:
            raise WaveFTError(
                f'adapter layer "{self.layer}", weight "{key}": expected shape {list(weight.shape)}, '
                f"got {list(delta.shape)}. The file was trained for another model."
            )
        return weight.add_(delta, alpha=strength)  # torch adds in the wider dtype and rounds once


def apply(
    model: Any, clip: Any, adapter: Adapter, source: str, strength_model: float, strength_clip: float
) -> tuple[Any, Any, str]:
    """Returns the patched model and text encoders and a report; what has strength 0 or no layers is returned itself.

    Args:
        model: ComfyUI's MODEL.
        clip: ComfyUI's CLIP, or None.
        source: the file's name, for messages.

    Raises:
        WaveFTError: the adapter does not fit whole. Nothing has been patched then.
    """
    of_text = [layer for layer in adapter.layers if layer.startswith(TEXT_ENCODERS)]
    of_model = [layer for layer in adapter.layers if not layer.startswith(TEXT_ENCODERS)]
    if of_text and clip is None and strength_clip != 0:
        raise WaveFTError(
            f'adapter "{source}", layers {listed(of_text)}: expected a CLIP for {len(of_text)} text-encoder layers, '
            "got none. Connect `clip`, or set strength_clip to 0 to leave them out."
        )
    # both are fitted before either is patched: an adapter is applied whole or not at all
    in_model: dict[str, str] = {}
    in_text: dict[str, str] = {}
    if of_model and strength_model != 0:
        keys = comfy.lora.model_lora_keys_unet(model.model, {})
        in_model = fit(_target("the connected model", keys, model.model), adapter, of_model, source)
    if of_text and clip is not None and strength_clip != 0:
        keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
        in_text = fit(_target("the connected CLIP", keys, clip.cond_stage_model), adapter, of_text, source)
    if in_model:
        model = _patched(model, adapter, in_model, strength_model)
    if in_text:
        clip = _patched(clip, adapter, in_text, strength_clip)
    coefficients = sum(len(layer.indices) for layer in adapter.layers.values())
    report = (
        f"{len(in_model) + len(in_text)}/{len(adapter.layers)} layers of {source}",
        _line("model", len(in_model), len(of_model), strength_model),
        _line("CLIP", len(in_text), len(of_text), strength_clip),
        f"{coefficients:,} coefficients, {adapter.wavelet}, {adapter.mode}, scaling {adapter.scaling:g}",
        f"trained for {trained_for(adapter)}",
    )
    return model, clip, "\n".join(report)


def _line(title: str, applied: int, held: int, strength: float) -> str:
    if held == 0:
        return f"{title}: unchanged, the file holds no layers for it"
    if strength == 0:
        return f"{title}: 0/{held} layers, left out by strength 0"
    return f"{title}: {applied}/{held} layers at strength {strength:g}"


def _target(title: str, keys: dict[str, Any], module: torch.nn.Module) -> Target:
    # A key that is a tuple is a slice of a fused weight (Flux's qkv): none of the models that we train has one.
    plain = {layer: key for layer, key in keys.items() if isinstance(key, str)}
    return Target(title, plain, {key: tuple(weight.shape) for key, weight in module.state_dict().items()})


def _patched(patcher: Any, adapter: Adapter, found: dict[str, str], strength: float) -> Any:
    """Returns a clone that carries the patches; the weights are shared, and change when ComfyUI loads them."""
    clone = patcher.clone()
    taken = clone.add_patches({key: WaveFTPatch(adapter, layer) for key, layer in found.items()}, strength)
    left = [layer for key, layer in found.items() if key not in set(taken)]
    if left:
        raise WaveFTError(
            f"ComfyUI: expected it to take {len(found)} layers, got all but {listed(left)}. Update ComfyUI."
        )
    return clone
