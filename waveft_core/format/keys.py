"""Layer names: diffusers' module paths, the original SDXL checkpoint's, and the file's `lora_unet_*`, by rule.

Nothing here is a table of layers.  The original UNet counts its blocks through (`input_blocks.0`, `.1`, ...) where
diffusers counts in levels (`down_blocks.1.attentions.0`), so the numbers follow from how many resnets each level of
*this* UNet has and whether it ends in a down- or upsampler.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_checkpoint_wrapped_module)\.")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_CHECKPOINT = {
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",  # ComfyUI's name for the model alone
    "conditioner.embedders.0.transformer.": "te1",
    "conditioner.embedders.1.model.": "te2",
}
_OPENCLIP = {
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding",
    "ln_final": "text_model.final_layer_norm",
}
_OPENCLIP_BLOCK = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
TEXT_ENCODERS = ("te1", "te2")


def unwrapped(path: str) -> str:
    """Returns a module path without the prefixes that DataParallel, torch.compile and checkpoint wrappers add."""
    return _WRAPPERS.sub("", path)


def is_diffusers_unet(paths: Iterable[str]) -> bool:
    """Returns whether the module paths are those of a diffusers UNet with down, middle and up blocks."""
    roots = {path.partition(".")[0] for path in paths}
    return {"down_blocks", "mid_block", "up_blocks"} <= roots


def original_paths(paths: Iterable[str]) -> dict[str, str]:
    """Returns the original checkpoint's path of every module of a diffusers UNet that has one.

    Args:
        paths: module paths of the whole UNet, or of all its modules with a weight: the blocks are counted from them.
    """
    paths = list(paths)
    resnets: dict[tuple[str, int], set[int]] = {}
    samplers: set[tuple[str, int]] = set()
    attended: set[tuple[str, int]] = set()
    for path in paths:
        found = re.match(r"(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)", path)
        if found:
            level = (found[1], int(found[2]))
            if found[3] == "resnets":
                resnets.setdefault(level, set()).add(int(found[4]))
            elif found[3] == "attentions":
                attended.add(level)
            else:
                samplers.add(level)
    starts: dict[tuple[str, int], int] = {}
    for side, place in (("down_blocks", 1), ("up_blocks", 0)):  # input_blocks.0 is the first convolution
        for level in sorted(level for level in resnets if level[0] == side):
            starts[level] = place
            place += len(resnets[level])
            if side == "down_blocks" and level in samplers:
                place += 1
    named = ((path, _original(path, starts, resnets, attended)) for path in paths)
    return {path: original for path, original in named if original is not None}


def _original(
    path: str,
    starts: Mapping[tuple[str, int], int],
    resnets: Mapping[tuple[str, int], set[int]],
    attended: set[tuple[str, int]],
) -> str | None:
    """Returns one module's path in the original checkpoint, None where it has none (a container)."""
    for ours, theirs in _ENDS.items():
        if path == ours:
            return theirs
    found = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)(?:\.(.+))?", path)
    if found:
        inner = _inner(found[1], found[3])
        place = 1 if found[1] == "attentions" else 2 * int(found[2])
        return None if inner is None else f"middle_block.{place}{inner}"
    found = re.fullmatch(r"(down_blocks|up_blocks)\.(\d+)\.(\w+)\.(\d+)(?:\.(.+))?", path)
    if not found or (found[1], int(found[2])) not in starts:
        return None
    side, level, kind, index = found[1], (found[1], int(found[2])), found[3], int(found[4])
    if kind == "downsamplers":
        return f"input_blocks.{starts[level] + len(resnets[level])}.0.op" if found[5] == "conv" else None
    if kind == "upsamplers":
        last = starts[level] + len(resnets[level]) - 1
        return f"output_blocks.{last}.{2 if level in attended else 1}.conv" if found[5] == "conv" else None
    inner = _inner(kind, found[5])
    blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
    return None if inner is None else f"{blocks}.{starts[level] + index}.{1 if kind == 'attentions' else 0}{inner}"


def _inner(kind: str, rest: str | None) -> str | None:
    """Returns what follows a block's number: a transformer's inner names are the same, a resnet's are not."""
    if rest is None:
        return None
    if kind == "attentions":
        return f".{rest}"
    return f".{_RESNET[rest]}" if rest in _RESNET else None


def layer_names(paths: Iterable[str], component: str | None = None) -> dict[str, str]:
    """Returns the file's layer name of every module path.

    Args:
        paths: all module paths of one model (or the paths of a state dict's weights), wrapper prefixes allowed.
        component: "unet", "te1" or "te2" in a mapping of models; None for a model on its own.
    """
    return dict(_layer_names(tuple(paths), component))


@functools.lru_cache(maxsize=8)  # an attachment asks four times for the names of the same thousands of paths
def _layer_names(paths: tuple[str, ...], component: str | None) -> dict[str, str]:
    plain = {path: unwrapped(path) for path in paths}
    if component in TEXT_ENCODERS:
        return {
            path: f"lora_{component}_text_model_" + _flat(name.removeprefix("text_model."))
            for path, name in plain.items()
        }
    if component in (None, "unet") and is_diffusers_unet(plain.values()):
        originals = original_paths(plain.values())
        return {path: "lora_unet_" + _flat(originals.get(name, name)) for path, name in plain.items()}
    if component is None and any(name.startswith(tuple(_CHECKPOINT)) for name in plain.values()):
        return {path: _checkpoint_name(name) for path, name in plain.items()}
    if component == "unet" or any(name.startswith("input_blocks.") for name in plain.values()):
        return {path: "lora_unet_" + _flat(name) for path, name in plain.items()}
    prefix = "lora_" if component is None else f"lora_{_flat(component)}_"
    return {path: prefix + _flat(name) for path, name in plain.items()}


def checkpoint_place(path: str) -> tuple[str | None, str]:
    """Returns the component that a path of a whole single-file SDXL checkpoint belongs to, and the path within it.

    The second text encoder is stored under OpenCLIP's names; its path is transformers', as the first's is. What belongs
    to no component that has layers in adapter files (the VAE) keeps its path, with the component None.
    """
    for prefix, component in _CHECKPOINT.items():
        if path.startswith(prefix):
            inner = path.removeprefix(prefix)
            return component, openclip_path(inner) or inner if component == "te2" else inner
    return None, path


def openclip_path(path: str) -> str | None:
    """Returns transformers' path of a module of an OpenCLIP text encoder, None for one that it does not have.

    `attn.q_proj`, `attn.k_proj` and `attn.v_proj` stand for the thirds of OpenCLIP's `attn.in_proj_weight`.
    """
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", path)
    if not found:
        return _OPENCLIP.get(path)
    inner = _OPENCLIP_BLOCK.get(found[2])
    return None if inner is None else f"text_model.encoder.layers.{found[1]}.{inner}"


def _checkpoint_name(path: str) -> str:
    component, inner = checkpoint_place(path)
    return f"lora_{component}_{_flat(inner)}" if component else "lora_" + _flat(inner)


def _flat(path: str) -> str:
    return path.replace(".", "_")
