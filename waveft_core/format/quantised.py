"""Which weights of a file are not the numbers that the file holds for them: scaled fp8 and other quantised forms.

Such a weight is stored as small numbers and, beside it, tensors that say what they stand for: one scale, scales by
block, a codebook.  Read as it lies it is wrong by whatever the scale is (thousands, for fp8), and nothing in its dtype
or shape shows it.  This asks for every spelling that is in use (ComfyUI's, bitsandbytes', optimum-quanto's, GPTQ's,
AWQ's) and, for fp8 and whole numbers, for anything in the weight's module that a plain layer does not have.  Names and
dtypes are enough: nothing is read, and torch is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

METADATA = "_quantization_metadata"  # where ComfyUI's newer files name their quantised layers
REMEDY = "Use the same model in fp16, bf16, or plain fp8."

# The last part of the names of tensors that say what the weight of their module stands for, or are parts of it.
_SCALING = (
    *("scale_weight", "weight_scale", "weight_scale_2", "weight_scale_inv", "pre_quant_scale"),  # ComfyUI, TensorRT
    *("weight_s_rel", "weight_s_channel", "weight_codebook", "comfy_quant"),
    *("absmax", "nested_absmax", "quant_map", "nested_quant_map", "SCB", "weight_format"),  # bitsandbytes
    *("bitsandbytes__nf4", "bitsandbytes__fp4"),  # after `weight.quant_state`
    *("_data", "_scale", "_shift", "_zeropoint"),  # optimum-quanto, after `weight`
    *("qweight", "qzeros", "scales", "g_idx", "W_q"),  # GPTQ, AWQ, HQQ
)
_ACTIVATIONS = ("input_scale", "scale_input", "output_scale", "scale_output")  # the weight itself means what it says
_MARKER = "scaled_fp8"  # every fp8 weight below its own prefix is scaled
_FLOATS = ("F64", "F32", "F16", "BF16")
_PLAIN = {"weight", "bias"}  # what a layer holds where nothing is quantised
_MOST_PREFIX = 8  # names within a path that the metadata may leave out
_MOST_MARKERS = 16  # a file has one for each of its models: with more, everything counts as marked


@dataclass(frozen=True)
class Quantised:
    """What of a file is quantised.

    Attributes:
        weights: tensors that must not be read as they lie, each with the tensor (or the metadata key) that says so.
        own: the tensors that belong to the quantisation: scales, markers, codebooks. They are no layer's weights.
    """

    weights: Mapping[str, str]
    own: frozenset[str]


def quantised(dtypes: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> Quantised:
    """Returns which tensors of a file are quantised weights, and which belong to the quantisation.

    Args:
        dtypes: tensor name -> its dtype in safetensors' word, such as "F8_E4M3".
        metadata: the file's strings.
    """
    scaling: dict[str, str] = {}  # module -> the tensor that says what its weight stands for
    prefixes: dict[str, str] = {}
    own: set[str] = set()
    for name in dtypes:
        module, _, last = name.rpartition(".")
        if last == _MARKER:
            prefixes[name.removesuffix(_MARKER)] = name
        elif _is_one(last, _SCALING):
            module = module.removesuffix(".quant_state")
            scaling.setdefault("" if module == "weight" else module.removesuffix(".weight"), name)
        elif not _is_one(last, _ACTIVATIONS):
            continue
        own.add(name)
    if len(prefixes) > _MOST_MARKERS:
        prefixes = {"": next(iter(prefixes.values()))}
    layers = _told((metadata or {}).get(METADATA))
    strange = _beside(dtypes)
    weights, used = {}, set()
    for name, dtype in dtypes.items():
        if name in own or not name.endswith("weight"):
            continue
        for module in _modules(name):
            if module in scaling:
                weights[name] = scaling[module]
                used.add(module)
        if name not in weights and dtype not in _FLOATS:
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
            module = name.rpartition(".")[0]
            if prefix is not None:
                weights[name] = prefixes[prefix]
            elif layers is None or any(path in layers for path in _tails(module)):
                weights[name] = METADATA
            elif module in strange:
                weights[name] = strange[module]
    return Quantised({**_orphaned(dtypes, scaling, used), **weights}, frozenset(own))


def _is_one(last: str, endings: tuple[str, ...]) -> bool:
    """Returns whether the last part of a name is one of `endings`, alone or of a fused weight (`in_proj_...`)."""
    return last in endings or last.endswith(tuple(f"_{ending}" for ending in endings if not ending.startswith("_")))


def _modules(name: str) -> Iterator[str]:
    """Yields the modules whose scale would be this weight's: its own, and a fused weight's name without `_weight`."""
    yield name.rpartition(".")[0]
    if name.endswith("_weight"):
        yield name.removesuffix("_weight")


def _tails(path: str) -> Iterator[str]:
    """Yields a path and what is left of it without its first names: metadata may leave the model's prefix out."""
    yield path
    for _ in range(_MOST_PREFIX):
        _, dot, path = path.partition(".")
        if not dot:
            return
        yield path


def _told(text: str | None) -> frozenset[str] | None:
    """Returns the layers that the metadata name as quantised, None where it cannot be told: then it may be any."""
    if text is None:
        return frozenset()
    try:
        layers = json.loads(text)["layers"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return frozenset(layers) if isinstance(layers, dict) else None


def _beside(dtypes: Mapping[str, str]) -> dict[str, str]:
    """Returns, of each module of a weight that is no float's, a tensor that a plain layer would not have beside it.

    A spelling that is not known here is still none of a plain layer.
    """
    modules = {
        name.rpartition(".")[0]
        for name, dtype in dtypes.items()
        if dtype not in _FLOATS and name.rpartition(".")[2] == "weight"
    }
    found: dict[str, str] = {}
    for name in dtypes:
        module, _, last = name.rpartition(".")
        if module in modules and last not in _PLAIN:
            found.setdefault(module, name)
    return found


def _orphaned(dtypes: Mapping[str, str], scaling: Mapping[str, str], used: set[str]) -> dict[str, str]:
    """Returns the weights that a scale of no weight in the file may belong to: all that are no floats, and the absent.

    Args:
        scaling: module -> the tensor that says what its weight stands for.
        used: the modules whose weight is in the file.
    """
    alone = [module for module in scaling if module not in used]
    if not alone:
        return {}
    first = scaling[alone[0]]
    bare = {
        name: first for name, dtype in dtypes.items() if dtype not in _FLOATS and name.rpartition(".")[2] == "weight"
    }
    return {**bare, **{f"{module}.weight".removeprefix("."): scaling[module] for module in alone}}
