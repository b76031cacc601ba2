"""Other tools' names of a layer, into ours: kohya's flat ones in either spelling, and module paths.

Files name a layer of SDXL's UNet by the original checkpoint's path or by diffusers'.  A base's own paths settle which
of ours is meant; where they are spelled the other way, or there is no base, the blocks are counted as SDXL's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import WaveFTError, listed, nearest
from ..format.keys import original_paths, unwrapped
from ..pattern import compile_pattern
from ..toolbox.sources import Slot

_PREFIXES = {"unet": "lora_unet_", "te1": "lora_te1_", "te2": "lora_te2_"}
_ROOTS = {  # what a dotted name begins with, in any tool that ComfyUI reads for SDXL
    "unet": "unet",
    "diffusion_model": "unet",
    "model.diffusion_model": "unet",
    "text_encoder": "te1",
    "text_encoders.clip_l.transformer": "te1",
    "clip_l.transformer": "te1",
    "text_encoder_2": "te2",
    "text_encoders.clip_g.transformer": "te2",
    "clip_g.transformer": "te2",
    "lora_unet": "unet",
    "lora_te1": "te1",
    "lora_te2": "te2",
}
_FLAT = {  # what a flat name begins with, and what it stands for; the longest first
    "lora_prior_te_": "lora_te2_",
    "lycoris_": "lora_unet_",
    "lora_te_": "lora_te1_",
    "lora_unet_": "lora_unet_",
    "lora_te1_": "lora_te1_",
    "lora_te2_": "lora_te2_",
}
SPELLINGS = (
    "kohya's (lora_unet_..., lora_te1_...), LyCORIS's (lycoris_...), diffusers' (unet.down_blocks..., text_encoder...),"
    " PEFT's (base_model.model...), ComfyUI's (diffusion_model..., text_encoders.clip_l...), or the base's module paths"
)
_DIFFUSERS_ROOTS = ("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_embedding", "add_embedding")
_ORIGINAL_ROOTS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")
_ATTENDED = {"down_blocks.1": 2, "down_blocks.2": 2, "up_blocks.0": 3, "up_blocks.1": 3}  # SDXL's, and how many each


class Names:
    """Finds our layer name for another tool's.

    Args:
        slots: the base's weights by layer name; None to go by SDXL's own layout.
        source: what is being read, for messages.
        known: other spellings of the base's layers, {spelling: layer name}, where a program knows some.
    """

    def __init__(self, slots: Mapping[str, Slot] | None, source: str, known: Mapping[str, str] | None = None) -> None:
        self._slots = slots
        self._source = source
        self._flat = {_prefix(slot) + flat(slot.path): name for name, slot in (slots or {}).items()} | dict(known or {})
        self._counted = slots is None or is_sdxl(slots)

    def of(self, key: str) -> str:
        """Returns our name for a layer as a file calls it: `lora_unet_...`, `unet.down_blocks...`, or a module path.

        Raises:
            WaveFTError: a layer that the base does not have, or a spelling that is not known.
        """
        names = spelled(key)
        for candidate in names if self._slots is not None else ():
            if candidate in self._slots:  # type: ignore[operator]
                return candidate
            if candidate in self._flat:
                return self._flat[candidate]
        counted = [found for name in names if (found := self._by_count(name))] if self._counted else []
        if self._slots is None:
            return counted[0] if counted else names[0]
        for name in counted:
            if name in self._slots:
                return name
        bare = _bare(_plain(key))
        alone = [slot.name for slot in self._slots.values() if _bare(slot.path) == bare]
        if len(alone) == 1:
            return alone[0]
        if not is_known(key):
            raise WaveFTError(
                f'{self._source}, layer "{key}": expected a name in a spelling that is known here, got another. They '
                f"are {SPELLINGS}. Export it in one of these; the base is not at fault."
            )
        raise WaveFTError(
            f'{self._source}, layer "{key}": expected one of the base\'s, got none of that name. '
            f"Nearest: {listed(nearest(names[0], self._slots, 3))}. Give the base that it was trained on, as a "
            "diffusers folder if it is not SDXL."
        )

    @staticmethod
    def _by_count(name: str) -> str | None:
        """Returns the original checkpoint's spelling of diffusers' flat name, by SDXL's numbers."""
        found = re.fullmatch(r"lora_unet_(.+)", name)
        path = _dotted(found[1]) if found else None
        original = original_paths([*_sdxl_blocks(), path]).get(path) if path else None
        return f"lora_unet_{flat(original)}" if original else None


def spelled(key: str) -> tuple[str, ...]:
    """Returns our names that a layer's name in another tool's file may stand for, the likeliest first."""
    path = _plain(key)
    paths = [path]
    if path.endswith(".to_out"):  # diffusers' first attention processors leave out the .0
        paths.insert(len(paths) if path == key else 0, f"{path}.0")
    return tuple(dict.fromkeys(name for path in paths for name in _names(path)))


def _names(path: str) -> tuple[str, ...]:
    if "." not in path and path.startswith(("lora_", "lycoris_")):
        return (*_respelled(path), path)
    for root, component in _ROOTS.items():
        if path.startswith(f"{root}."):
            rest = _plain(path.removeprefix(f"{root}."))
            full = rest if component == "unet" else f"text_model.{_bare(rest)}"
            return tuple(_PREFIXES[component] + flat(name) for name in (full, rest))
    if path.partition(".")[0] in (*_DIFFUSERS_ROOTS, *_ORIGINAL_ROOTS):
        return "lora_unet_" + flat(path), "lora_" + flat(path)
    return ("lora_" + flat(path),)


def is_known(key: str) -> bool:
    """Returns whether a layer's name is in a tool's spelling that is known: a base that lacks it is another, then."""
    path = _plain(key)
    if key.startswith("base_model.model.") or path.partition(".")[0] in (*_DIFFUSERS_ROOTS, *_ORIGINAL_ROOTS):
        return True
    return path.startswith((*(f"{root}." for root in _ROOTS), *_FLAT, "lora_"))


def _respelled(name: str) -> tuple[str, ...]:
    """Returns the flat names of ours that a flat name may stand for."""
    prefix = next((prefix for prefix in _FLAT if name.startswith(prefix)), None)
    if prefix is None:
        return ()
    ours, rest = _FLAT[prefix], name.removeprefix(prefix)
    if ours == "lora_unet_":
        return ours + rest, "lora_" + rest
    return ours + rest, f"{ours}text_model_{rest.removeprefix('text_model_')}"


def _plain(path: str) -> str:
    """Returns a path without what PEFT and wrappers put before it, and diffusers' first releases within it."""
    return unwrapped(path.removeprefix("base_model.model.")).replace(".processor.", ".")


def diffusers_path(slot: Slot, slots: Mapping[str, Slot]) -> str:
    """Returns the module path that diffusers gives a layer, the slot's own unless it is the original checkpoint's.

    Raises:
        WaveFTError: the original checkpoint's path of something else than an attention block of SDXL.
    """
    path = slot.path.removeprefix("model.diffusion_model.")
    if path.partition(".")[0] not in _ORIGINAL_ROOTS or not slot.name.startswith("lora_unet_"):
        return slot.path
    originals = original_paths([*_sdxl_blocks(), *(f"{block}.x" for block in _attentions())])
    blocks = {originals[f"{block}.x"].removesuffix("x"): block for block in _attentions()}
    found = re.match(r"(?:\w+_blocks\.\d+\.\d+|middle_block\.\d+)\.", path)
    if not found or found[0] not in blocks or not is_sdxl(slots):
        raise WaveFTError(
            f'layer "{slot.name}": expected an attention layer of SDXL, got the path "{slot.path}" of the original '
            "checkpoint, whose name in diffusers is not known. Give the base as a diffusers folder."
        )
    return f"{blocks[found[0]]}.{path[found.end() :]}"


def is_sdxl(slots: Mapping[str, Slot]) -> bool:
    """Returns whether the transformer blocks lie where SDXL's do, in the original checkpoint's count."""
    originals = original_paths([*_sdxl_blocks(), *(f"{block}.x" for block in _attentions())])
    expected = {flat(originals[f"{block}.x"].removesuffix(".x")) for block in _attentions()}
    pattern = re.compile(r"lora_unet_((?:input|output)_blocks_\d+_\d+|middle_block_\d+)_transformer_blocks_")
    return {found[1] for name in slots if (found := pattern.match(name))} == expected


def pattern_value(patterns: object, path: str) -> object:
    """Returns what PEFT's `..._pattern` of a config says of a module path: the first key that its end matches, or None.

    Raises:
        WaveFTError: no mapping, or a key that is no regular expression.
    """
    if not isinstance(patterns, Mapping):
        raise WaveFTError(f"adapter_config.json, pattern: expected a JSON object, got {patterns!r}. It is damaged.")
    for key, value in patterns.items():
        try:
            if compile_pattern(rf"(.*\.)?({key})$", "pattern").matches_at(path, 0):
                return value
        except WaveFTError as error:
            raise WaveFTError(
                f"adapter_config.json, pattern {key!r}: expected a regular expression, got this. {error}"
            ) from None
    return None


def flat(path: str) -> str:
    """Returns a module path as kohya's names have it."""
    return path.replace(".", "_")


def _prefix(slot: Slot) -> str:
    found = re.match(r"lora_(?:unet_|te\d_)?", slot.name)
    return found[0] if found else "lora_"


def _bare(path: str) -> str:
    return path.removeprefix("text_model.")


def _dotted(name: str) -> str | None:
    """Returns the module path of diffusers' flat name, as far as `original_paths` needs it; None if it is none."""
    found = re.fullmatch(r"(down_blocks|up_blocks)_(\d+)_([a-z]+)_(\d+)_(.+)", name)
    if found:
        return ".".join(found.groups())
    found = re.fullmatch(r"(mid_block)_([a-z]+)_(\d+)_(.+)", name) or re.fullmatch(
        r"(time_embedding|add_embedding)_(linear_\d)", name
    )
    if found:
        return ".".join(found.groups())
    return name if name in ("conv_in", "conv_out") else None


def _attentions() -> list[str]:
    blocks = [f"{level}.attentions.{index}" for level, count in _ATTENDED.items() for index in range(count)]
    return [*blocks, "mid_block.attentions.0"]


def _sdxl_blocks() -> list[str]:
    """Returns diffusers' paths of SDXL's blocks, from which the original's numbers are counted."""
    resnets = [
        f"{side}.{level}.resnets.{index}"
        for side, count in (("down_blocks", 2), ("up_blocks", 3))
        for level in range(3)
        for index in range(count)
    ]
    samplers = [f"down_blocks.{level}.downsamplers.0" for level in (0, 1)]
    samplers += [f"up_blocks.{level}.upsamplers.0" for level in (0, 1)]
    return [*resnets, *_attentions(), *samplers]
