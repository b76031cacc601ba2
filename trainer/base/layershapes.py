"""A base's layers as the headers of its files name them: paths, shapes, and how finely each sees the picture. No torch.

What trains is decided by the loaded model (`layers`); this is what can be said before: for the dry run, the estimates
and the first checks. Files in the original layout name blocks otherwise. The rule that `waveft_core.format.keys` has
for any UNet is written here for SDXL's attention alone, so that torch is not imported for it; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..job.networks import Network, Shira, Waveft
from ..job.schema import Model
from ..system.patterns import pattern
from . import headers
from .modelfacts import ASSETS, ModelFacts, read_config

A_LEVEL = 3  # blocks of the original layout: two resnets and a downsampler, or three resnets with an upsampler
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class Layer:
    """A layer that trains: its path as patterns see it, m and n of its matrix, and whether it has a bias."""

    path: str
    rows: int
    columns: int
    biased: bool = False


def shapes(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every matrix and kernel of the UNet, by diffusers' path where one is known."""
    named = ((name.removesuffix(".weight"), shape) for name, shape in facts.unet_shapes.items() if len(shape) > 1)
    return {diffusers_path(name): shape for name, shape in named}


def diffusers_path(name: str) -> str:
    """Returns diffusers' path of an attention's layer in the original layout, any other name as it is."""
    found = re.fullmatch(r"(input_blocks|output_blocks|middle_block)\.(?:(\d+)\.)?1\.(\D.*)", name)
    if found is None or (found[1] == "middle_block") != (found[2] is None):
        return name
    if found[2] is None:
        return f"mid_block.attentions.0.{found[3]}"
    down = found[1] == "input_blocks"
    block, number = divmod(int(found[2]) - down, A_LEVEL)
    if found[3].startswith("conv"):  # an upsampler's
        return name
    return f"{'down' if down else 'up'}_blocks.{block}.attentions.{number}.{found[3]}"


def deepest(paths: dict[str, tuple[int, ...]]) -> int:
    """Returns how often the UNet halves the picture."""
    levels = [int(found[1]) for path in paths if (found := re.match(r"down_blocks\.(\d+)\.", path))]
    blocks = [int(found[1]) // A_LEVEL for path in paths if (found := re.match(r"input_blocks\.(\d+)\.", path))]
    return max([0, *levels, *blocks])


def level(path: str, deepest: int) -> int:
    """Returns how often the picture is halved where the layer sees it, by its path in either layout."""
    if path.startswith(("mid_block", "middle_block")):
        return deepest
    found = re.match(r"(down_blocks|up_blocks|input_blocks|output_blocks)\.(\d+)\.(\w*)", path)
    if not found:
        return 0
    side, number, kind = found[1], int(found[2]), found[3]
    if side in ("down_blocks", "up_blocks"):
        here = number if side == "down_blocks" else deepest - number
        return min(deepest, here + (kind == "downsamplers") - (kind == "upsamplers"))
    here = number // A_LEVEL
    return here if side == "input_blocks" else deepest - here - path.endswith(".conv")


def layers(facts: ModelFacts, model: Model, network: Network) -> list[Layer] | None:
    """Returns the layers that train, None where the files do not tell: of a hub id, or of names that are not known."""
    biased = {diffusers_path(name.removesuffix(".bias")) for name in facts.unet_shapes if name.endswith(".bias")}
    found = [
        Layer(path, shape[0], numel(shape) // shape[0], path in biased)
        for path, shape in shapes(facts).items()
        if matches(path, network.targets)
    ]
    found = [layer for layer in found if chosen(layer.path, network)]
    if not found:
        return None
    if network.train_text_encoder:
        found += [layer for layer in text_layers(model) if chosen(layer.path, network)]
    return found


def matches(path: str, targets: Sequence[str] | str) -> bool:
    """Returns whether the job's targets mean the layer."""
    if isinstance(targets, str):
        return pattern(targets).fullmatch(path)
    return any(path == ending or path.endswith(f".{ending}") for ending in targets)


def chosen(path: str, network: Network) -> bool:
    """Returns whether include and exclude leave the layer."""
    kept = not network.include or any(pattern(one).search(path) for one in network.include)
    return kept and not any(pattern(one).search(path) for one in network.exclude)


def text_layers(model: Model) -> list[Layer]:
    """Returns the attention layers of both text encoders, by their configs."""
    base = Path(model.pretrained_model_name_or_path)
    folder = base if base.is_dir() else Path(model.config) if model.config else ASSETS
    found = []
    for number, name in enumerate(("text_encoder", "text_encoder_2"), 1):
        config = read_config(folder / name)
        width = config.get("hidden_size", 0)
        found += [
            Layer(f"te{number}.text_model.encoder.layers.{block}.self_attn.{layer}", width, width, True)
            for block in range(config.get("num_hidden_layers", 0))
            for layer in TEXT_LAYERS
        ]
    return found


def of_file(path: Path, endings: tuple[str, ...]) -> dict[str, int] | None:
    """Returns how many numbers each layer of an adapter file has in tensors of those endings; None where none has."""
    try:
        tensors = headers.read(path).tensors
    except ValueError:
        return None
    found: dict[str, int] = {}
    for name, entry in tensors.items():
        if name.endswith(endings):
            layer = name.partition(".")[0]
            found[layer] = found.get(layer, 0) + numel(entry["shape"])
    return found or None


def plane(layer: Layer, network: Waveft | Shira) -> int:
    """Returns how many coefficients the layer's transform has, which p cannot exceed; a test compares with the core."""
    return side(layer.rows, network) * side(layer.columns, network)


def side(length: int, network: Waveft | Shira) -> int:
    """Returns how many coefficients the transform of so many numbers has, its filter's length known by its name."""
    if network.wavelet == "identity" or network.mode == "periodization":
        return length
    order = int(network.wavelet.lstrip("abcdefghijklmnopqrstuvwxyz"))
    taps = 6 * order if network.wavelet.startswith("coif") else 2 * order
    return 2 * ((length + taps - 1) // 2)


def numel(shape: tuple[int, ...] | list[int]) -> int:
    """Returns how many numbers a tensor of that shape has."""
    product = 1
    for size in shape:
        product *= size
    return product
