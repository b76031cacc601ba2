"""dW out of LoRA files and their kin, layer by layer: LoRA, LoCon, LoHa, LoKr and full differences, in kohya's and
LyCORIS's names, diffusers' and PEFT's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..basis.plan import arithmetic_dtype
from ..errors import WaveFTError, listed
from ..format.container import DTYPES, read_layout, read_tensor
from ..format.disk import is_file, is_folder, names_in, read_json
from ..format.layout import Stored
from ..toolbox.precision import Told, unrounded
from ..toolbox.sources import Source, Weighted, opened
from .names import Names, pattern_value
from .products import product

_PARTS = {
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora_mid.weight": "mid",
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_A": "down",
    "lora_B": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down",  # diffusers' first text encoders
    "lora_linear_layer.up.weight": "up",
    "alpha": "alpha",
    "diff": "diff",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: name for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")},
}
_JOINED = {"_lora.down.weight": "down", "_lora.up.weight": "up"}  # diffusers' first UNets: `..._to_q_lora.up.weight`
_REFUSED = {
    "diff_b": "a bias's difference, and a WaveFT adapter holds weights alone",
    "dora_scale": "a DoRA magnitude, whose update is not a difference of the weight's own",
    "lora_magnitude_vector": "a DoRA magnitude, whose update is not a difference of the weight's own",
    "oft_blocks": "an OFT's rotation, whose update is not a difference of the weight's own",
    "set_weight": "a weight to be put in the place of the model's, which is no difference",
    "w_norm": "a norm's difference, and a WaveFT adapter holds linear and convolution weights alone",
    "b_norm": "a norm's difference, and a WaveFT adapter holds linear and convolution weights alone",
}
_ENDINGS = {**{f".{suffix}": part for suffix, part in _PARTS.items()}, **_JOINED}


@dataclass(frozen=True)
class _Group:
    """One layer's tensors: how the file calls the layer, and its parts."""

    called: str
    parts: Mapping[str, Stored]


def deltas(
    path: str | os.PathLike[str],
    base: Source | Weighted | None = None,
    known: Mapping[str, str] | None = None,
    rounding: Told | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yields each layer's name, as adapter files have it, and its dW: float32, float64 from float64 tensors.

    One layer is in memory at a time. Without a base, names in diffusers' spelling are counted as SDXL's, and a dW has
    the shape that its tensors show: give the base where a convolution's LoKr or LoHa is stored as a matrix.

    Args:
        path: a `.safetensors` file, or PEFT's folder of a LoRA.
        base: the weights that it was trained on: they settle the layers' names and shapes.
        known: other spellings of the base's layers, {spelling: layer name}; for a base that is not SDXL's.
        rounding: told of each full difference that is what rounding the base gives, and so none: its layer's name,
            entries, the dtype.

    Raises:
        WaveFTError: before the first layer: a tensor of no known kind (naming it), a layer that the base lacks, a PEFT
            file without its `adapter_config.json`; at a layer: shapes that do not fit.
    """
    file = _file(Path(path))
    layout, metadata = read_layout(file)
    groups = _groups(layout, file)
    source = None if base is None else opened(base)
    slots = None if source is None else source.slots
    names = Names(slots, f'file "{file}"', known)
    named: dict[str, _Group] = {}
    for group in groups:
        name = names.of(group.called)
        if name in named:
            got = f'"{named[name].called}" and "{group.called}"'
            raise WaveFTError(f'file "{file}", layer "{name}": expected it once, got {got}. Remove one of the two.')
        named[name] = group
    scale = _Scale(file, metadata, groups)

    def made() -> Iterator[tuple[str, Tensor]]:
        for name, group in named.items():
            delta = _delta(file, name, group, scale)
            if source is not None:
                delta = _fitted(file, name, delta, tuple(source.slots[name].shape))
                if "diff" in group.parts:
                    stored = DTYPES[group.parts["diff"].dtype]
                    delta = unrounded(name, source.read(name).detach(), delta, stored, rounding)
            yield name, delta

    return made()


def _file(path: Path) -> Path:
    if not is_folder(path):
        return path
    file = path / "adapter_model.safetensors"
    if not is_file(file):
        got = listed(held.name for held in names_in(path)) or "an empty folder"
        raise WaveFTError(f'folder "{path}": expected PEFT\'s adapter_model.safetensors, got {got}. Give the file.')
    return file


def _groups(layout: Mapping[str, Stored], file: Path) -> list[_Group]:
    """Returns the file's tensors by layer, in the order of the layers' names."""
    layers: dict[str, dict[str, Stored]] = {}
    for key, stored in layout.items():
        suffix = next((held for held in _ENDINGS if key.endswith(held) and len(key) > len(held)), None)
        if suffix is None:
            why = next((why for held, why in _REFUSED.items() if held in key.split(".")), "a tensor of no known kind")
            raise WaveFTError(
                f'file "{file}", tensor "{key}": expected LoRA, LoCon, LoHa, LoKr or full differences of weights, '
                f"got {why}. Export it without, or merge it into a checkpoint and extract from that."
            )
        parts = layers.setdefault(key.removesuffix(suffix), {})
        if _ENDINGS[suffix] in parts:
            raise WaveFTError(f'file "{file}", tensor "{key}": expected one of its kind, got two. It is damaged.')
        parts[_ENDINGS[suffix]] = stored
    if not layers:
        raise WaveFTError(f'file "{file}": expected some layers, got none. Check the file.')
    return [_Group(layer, layers[layer]) for layer in sorted(layers)]


class _Scale:
    """What multiplies a layer's product: alpha / r, from the file, from PEFT's config, or 1."""

    def __init__(self, file: Path, metadata: Mapping[str, str], groups: list[_Group]) -> None:
        self._file = file
        config = file.parent / "adapter_config.json"
        self._config: Mapping[str, Any] = {}
        if any(group.called.startswith("base_model.model.") for group in groups):
            if not is_file(config):
                raise WaveFTError(
                    f'file "{file}": expected adapter_config.json beside it, which holds PEFT\'s lora_alpha, got none. '
                    "Keep the two together."
                )
            self._config = _object(read_json(config, "PEFT's config"), config)
        elif "lora_adapter_metadata" in metadata:  # diffusers' copy of the same config, a prefix for each component
            self._config = _object(_parsed(metadata["lora_adapter_metadata"], file), file)
        for key, value in self._config.items():
            if key.rpartition(".")[2] == "use_dora" and value:
                raise WaveFTError(
                    f'file "{file}": expected a LoRA, got DoRA ({_REFUSED["dora_scale"]}). Merge it first.'
                )
        if self._config.get("peft_type", "LORA") != "LORA":
            got = self._config["peft_type"]
            raise WaveFTError(
                f'file "{file}", peft_type: expected "LORA", got {got!r}. Merge it, and extract from that.'
            )

    def of(self, called: str, rank: int, alpha: float | None) -> float:
        if alpha is not None:
            return alpha / rank
        root, _, path = called.removeprefix("base_model.model.").partition(".")
        prefix = f"{root}." if f"{root}.lora_alpha" in self._config else ""
        path = path if prefix else called.removeprefix("base_model.model.")
        found = pattern_value(self._config.get(f"{prefix}alpha_pattern") or {}, path)
        value = self._config.get(f"{prefix}lora_alpha") if found is None else found
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WaveFTError(f'file "{self._file}", lora_alpha: expected a number, got {value!r}. It is damaged.')
        return value / (math.sqrt(rank) if self._config.get(f"{prefix}use_rslora") else rank)

    @property
    def transposed(self) -> bool:
        """PEFT's fan_in_fan_out: the weight is stored [in, out]."""
        return bool(self._config.get("fan_in_fan_out"))


def _delta(file: Path, name: str, group: _Group, scale: _Scale) -> Tensor:
    """Returns one layer's dW."""

    def read(part: str) -> Tensor:
        tensor = read_tensor(file, group.parts[part])
        return tensor.to(arithmetic_dtype(tensor.dtype))

    try:
        delta, rank = product(read, frozenset(group.parts) - {"alpha"})
        if rank:  # a product; what is stored whole has no scale
            alpha = float(read("alpha").reshape(())) if "alpha" in group.parts else None
            delta.mul_(scale.of(group.called, rank, alpha))
    except (RuntimeError, IndexError) as error:  # torch's own words for shapes that do not fit
        got = ", ".join(f"{part} {list(stored.shape)}" for part, stored in sorted(group.parts.items()))
        raise WaveFTError(
            f'file "{file}", layer "{name}": expected those of one LoRA, LoHa, LoKr or full difference, got {got} '
            f"({str(error).splitlines()[0]}). The file is damaged."
        ) from None
    return delta.t().contiguous() if scale.transposed and delta.dim() == 2 else delta


def _fitted(file: Path, name: str, delta: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns dW in the base's shape: a convolution's may be stored as a matrix, a 1 x 1 one's either way."""
    if delta.shape[0] != shape[0] or delta.numel() != math.prod(shape):
        raise WaveFTError(
            f'file "{file}", layer "{name}": expected a difference of {list(shape)}, got {list(delta.shape)}. '
            "It was trained for another model."
        )
    return delta.reshape(shape)


def _parsed(text: str, where: Path) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WaveFTError(f'file "{where}": expected JSON in its metadata, got {error}. It is damaged.') from None


def _object(found: object, where: Path) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise WaveFTError(f'file "{where}": expected a JSON object, got {type(found).__name__}. It is damaged.')
    return found
