"""What Forge and its kin have in common, and Forge itself: patches by weight key, merged when the model is next used.

They all merge on copies that are ours to change; where Forge meets an error while it merges, the layers that were done
stay changed for the next picture. Nothing of ours may fail there: names and shapes are compared before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from ..applying import HANDED, NAME, Patch, check
from ..core import HEADER, Target, WaveFTError, is_waveft
from ..files import Loaded, read
from ..gate import Gate, wrapped


class ForgeFamily:
    """How Forge, reForge and Forge Classic are told. See `gate.Family`.

    Args:
        title: for the console.
        networks: its Lora extension's module.
        models: the module that knows the loaded model, `modules.sd_models`.
        keys: the module that names the model's weights, with `model_lora_keys_unet` and `model_lora_keys_clip`.
    """

    def __init__(self, title: str, networks: Any, models: Any, keys: Any) -> None:
        self.title = title
        self._networks, self._models, self._keys = networks, models, keys
        self.gate: Gate | None = None

    def install(self) -> None:
        """Wraps what reads a file, which is otherwise read once and remembered by its name."""
        original = self._networks.load_lora_state_dict
        reading = wrapped(original, self._load_state_dict)
        for name in ("cache_clear", "cache_info"):  # others may know that it is an lru_cache
            if hasattr(getattr(original, "waveft_original", original), name):
                setattr(reading, name, getattr(getattr(original, "waveft_original", original), name))
        self._networks.load_lora_state_dict = reading
        self._networks.load_lora_for_models = wrapped(self._networks.load_lora_for_models, self._load_for_models)

    @property
    def _model(self) -> Any:
        return self._models.model_data.get_sd_model()

    def is_ready(self) -> bool:
        """Says whether a model is loaded."""
        return self._model is not None and hasattr(self._model, "forge_objects_original")

    def changed(self) -> None:
        """Has the UI look at all files again: it compares their names and strengths alone."""
        self._model.current_lora_hash = None

    def prepare(self, entry: Any, loaded: Loaded, unet: float, te: float) -> None:
        """Checks the file against the models as they are without any adapter."""
        held = self._model.forge_objects_original
        model = self._target("this checkpoint", self._keys.model_lora_keys_unet, held.unet.model)
        text = self._target("this checkpoint's text encoders", self._keys.model_lora_keys_clip, _encoders(held.clip))
        check(loaded, model, text, unet, te)
        if hasattr(self._keys, "LoraLoader") and not self._merges_at_every_forward():
            _check_packing(loaded, [target for target, strength in ((model, unet), (text, te)) if strength != 0])

    def applied(self, by_name: Mapping[str, Loaded]) -> None:
        """Nothing: the UI merges later, what it has by then."""

    def _merges_at_every_forward(self) -> bool:
        """Says whether Forge does so, by its choice "(fp16 LoRA)" and a UNet that is stored in few bits."""
        stored = getattr(self._model.forge_objects.unet.model, "storage_dtype", None)
        chosen = getattr(self._networks, "dynamic_args", {}).get("online_lora", False)
        return bool(chosen) and stored not in (torch.float32, torch.float16, torch.bfloat16)

    def _target(self, title: str, named: Callable[..., Mapping[str, Any]], module: Any) -> Target:
        weights = {} if module is None else dict(module.named_parameters())
        # a dict of our own: the default argument is one that remembers other models' names
        keys = {} if module is None else named(module, {})
        known = {name: key for name, key in keys.items() if isinstance(key, str) and key in weights}
        return Target(title, known, {key: _as_merged(weights[key]) for key in set(known.values())})

    def _load_state_dict(self, original: Callable[..., Any], filename: str, *args: Any, **kwargs: Any) -> Any:
        if not is_waveft(filename):
            return original(filename, *args, **kwargs)
        use = self.gate.loaded(filename) if self.gate is not None else None
        if use is None:  # somebody else asks
            return HANDED.tensors(read(filename, filename), (True, False))
        sides = [text for text, strength in ((True, use.te), (False, use.unet)) if strength != 0]
        return HANDED.tensors(use.loaded, sides)

    def _load_for_models(
        self, original: Callable[..., Any], model: Any, clip: Any, tensors: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Gives the file a name that changes with it: Forge merges anew only where a name or a strength differs."""
        filename = kwargs.get("filename")
        use = self.gate.loaded(filename) if self.gate is not None and filename else None
        if use is not None and not tensors:  # all at strength 0: Forge Neo asks for the share of those left over
            return model, clip
        if use is not None and HEADER in tensors:
            kwargs["filename"] = f"{filename} ({use.loaded.token})"
        return original(model, clip, tensors, *args, **kwargs)


def collection(lora: Any) -> type:
    """Returns what stands first in Forge's list of readers: WaveFT's tensors are ours, all others the next one's.

    Args:
        lora: Forge's `backend.patcher.lora`.
    """

    class Collection:
        """One of Forge's readers of LoRA files."""

        waveft = True

        @staticmethod
        def load_lora(tensors: Mapping[str, torch.Tensor], to_load: Mapping[str, Any]) -> Any:
            if HEADER in tensors:
                return HANDED.split(tensors, to_load)
            others = (other for other in lora.lora_collection_priority if not getattr(other, "waveft", False))
            return next(other for other in others if hasattr(other, "load_lora")).load_lora(tensors, to_load)

    return Collection


def install_forge(lora: Any) -> None:
    """Puts our reader and our arithmetic on Forge's two lists, in place of those that were there before."""
    others = [one for one in lora.lora_collection_priority if not getattr(one, "waveft", False)]
    lora.lora_collection_priority[:] = [collection(lora), *others]
    lora.extra_weight_calculators[NAME] = calculated


def install_classic(lora: Any, model_patcher: Any) -> None:
    """Wraps Forge Classic's one reader, and puts our arithmetic on its list."""

    def load_lora(original: Callable[..., Any], tensors: Any, to_load: Any, *args: Any, **kwargs: Any) -> Any:
        return HANDED.split(tensors, to_load) if HEADER in tensors else original(tensors, to_load, *args, **kwargs)

    lora.load_lora = wrapped(lora.load_lora, load_lora)
    model_patcher.extra_weight_calculators[NAME] = calculated


def calculated(weight: torch.Tensor, strength: float, patch: Patch) -> torch.Tensor:
    """Returns a weight with a patch of ours in it; the weight is a copy that the UI made for this."""
    return patch.add_(weight, strength)


def tell_block_weights(scripts_data: Iterable[Any]) -> bool:
    """Has sd-webui-lora-block-weight keep patches of our kind, where it is there: it drops those that it does not know.

    Args:
        scripts_data: the UI's list of scripts, each with its path and module.
    """
    for data in scripts_data:
        kinds = getattr(data.module, "LORAS", None)
        if data.path.endswith("lora_block_weight.py") and isinstance(kinds, list):
            if NAME not in kinds:
                kinds.append(NAME)
            return True
    return False


def _encoders(clip: Any) -> Any:
    return None if clip is None else clip.cond_stage_model


def _check_packing(loaded: Loaded, targets: Iterable[Target]) -> None:
    """Refuses kinds of GGUF that Forge cannot pack again: it says so in the middle of its merge."""
    for target in targets:
        for layer in loaded.whole.layers:
            kind = getattr(target.weights.get(target.keys.get(layer, "")), "final", None)
            if kind is not None:
                raise WaveFTError(
                    f'adapter "{loaded.name}", layer "{layer}": expected weights of {target.title} that can be merged '
                    f'into, got GGUF {kind}, which Forge cannot pack again. Choose "Automatic (fp16 LoRA)" in '
                    '"Diffusion in Low Bits" above.'
                )


def _as_merged(weight: Any) -> Any:
    """Returns a weight as a patch will see it: packed ones (bitsandbytes, GGUF) are unpacked before the merge."""
    state, kind = getattr(weight, "quant_state", None), getattr(weight, "gguf_cls", None)
    shape = getattr(state, "shape", None) or (weight.shape if kind is not None else None)
    if shape is None:
        return weight
    # Forge's own kinds lack that method where they cannot be packed
    is_final = getattr(getattr(kind, "quantize_blocks_pytorch", None), "__isabstractmethod__", False)
    final = kind.__name__ if kind is not None and is_final else None
    return SimpleNamespace(shape=shape, dtype=weight.dtype, is_floating_point=functools.partial(bool, 1), final=final)
