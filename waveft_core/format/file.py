"""The adapter's file: load and save, as docs/format.md says."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..errors import Refusal, listed
from .adapter import FILE_DTYPES, Adapter, Layer, check_layer
from .container import PICKLES, WORDS, Entry, atomic, write_container
from .header import HEADER, MAX_BYTES, NEWER, Header, parse_header

PARTS = ("waveft_indices", "waveft_shape", "waveft_values")
_ORDER = (torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.uint8)  # of a file's tensors, the library's


def load(path: str | os.PathLike[str]) -> Adapter:
    """Returns the adapter in the file at `path`, its tensors on the CPU and copied off the file.

    Raises:
        WaveFTError: no such file, or anything that docs/format.md says a reader must refuse.
    """
    with _opened(path) as file:
        header, slices, metadata = _checked(file, Refusal(path))
        tensors = {name: file.get_tensor(name).clone() for name in slices if name != HEADER}
    return _assembled(header, tensors, metadata, str(path))


def from_tensors(tensors: Mapping[str, Tensor], source: str, metadata: Mapping[str, str] | None = None) -> Adapter:
    """Returns the adapter that `tensors` hold: for loaders that hand on a file's tensors without its metadata.

    Args:
        tensors: by the file's names, the header tensor among them.
        source: the file's name, for messages.

    Raises:
        WaveFTError: as `load`.
    """
    fail = Refusal(source)
    if HEADER not in tensors:
        raise fail(None, "tensors", f"a tensor {HEADER}", "none", "This is no WaveFT adapter.")
    held = tensors[HEADER]
    if held.dtype != torch.uint8 or held.dim() != 1:
        raise fail(None, HEADER, "U8 [len]", f"{held.dtype} {list(held.shape)}", "The file is damaged.")
    if held.numel() > MAX_BYTES:
        raise fail(None, HEADER, f"at most {MAX_BYTES} bytes", held.numel(), NEWER)
    header = parse_header(held.cpu().numpy().tobytes(), metadata, fail)
    declared = {name: (WORDS.get(held.dtype, str(held.dtype)), list(held.shape)) for name, held in tensors.items()}
    _check_declared(declared, fail)
    return _assembled(header, tensors, metadata or {}, source)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what the file says of itself, without reading any coefficient.

    Returns:
        the header's keys, and `layers` (their number), `coefficients` (in all), `metadata`.

    Raises:
        WaveFTError: not a WaveFT file, or a header that a reader must refuse.
    """
    with _opened(path) as file:
        header, slices, metadata = _checked(file, Refusal(path))
        counts = [held.get_shape()[0] for name, held in slices.items() if name.endswith(".waveft_values")]
    rest = {key: value for key, value in metadata.items() if key != "waveft"}
    return {**header.to_dict(), "layers": len(counts), "coefficients": sum(counts), "metadata": rest}


def save(
    adapter: Adapter,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes `adapter` to `path`: whole or not at all, and the same adapter is the same bytes.

    Args:
        metadata: strings for the file's `__metadata__`, over the adapter's own.
        dtype: of the values in the file: float32, float16 or bfloat16.

    Raises:
        WaveFTError: values that `dtype` cannot hold, metadata that are not strings, or no such folder.
        OSError: the folder is not writable.
    """
    path = Path(path)
    fail = Refusal(path)
    strings = {**adapter.metadata, **(metadata or {}), "waveft": adapter.header.to_json()}
    wrong = [key for key, value in strings.items() if not isinstance(value, str)]
    if wrong:
        raise fail(
            None, "metadata", "strings", f"other values under {listed(wrong)}", "Convert them with str() or json."
        )
    if dtype not in FILE_DTYPES:
        raise fail(None, "dtype", "float32, float16 or bfloat16", dtype, "Use float32.")
    layers = {name: Layer(layer.values.to(dtype), layer.indices, layer.shape) for name, layer in adapter.layers.items()}
    for name, layer in layers.items():
        check_layer(name, layer, adapter.wavelet, adapter.mode, adapter.scaling, fail)
    tensors = {HEADER: torch.tensor(list(adapter.header.to_json().encode()), dtype=torch.uint8)}
    for name, layer in layers.items():
        tensors[f"{name}.waveft_values"] = layer.values
        tensors[f"{name}.waveft_indices"] = layer.indices
        tensors[f"{name}.waveft_shape"] = torch.tensor(layer.shape, dtype=torch.int32)
    names = sorted(tensors, key=lambda name: (_ORDER.index(tensors[name].dtype), name))
    write_container(path, [_entry(name, tensors[name]) for name in names], strings)


def _entry(name: str, tensor: Tensor) -> Entry:
    return Entry.of(name, tensor.dtype, tensor.shape, lambda: tensor)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all; see `container.atomic`."""
    with atomic(path) as file:
        file.write(content)


def _opened(path: str | os.PathLike[str]) -> Any:
    fail = Refusal(path)
    if not Path(path).is_file():
        got, remedy = _not_a_file(Path(path))
        raise fail(None, "file", "an existing .safetensors file", got, remedy)
    if Path(path).suffix in PICKLES:
        remedy = "It can run code when it is read: convert it to safetensors first."
        raise fail(None, "file", "a .safetensors file", f"a pickle ({Path(path).suffix})", remedy)
    try:
        return safetensors.safe_open(path, framework="pt", device="cpu")
    except (safetensors.SafetensorError, OSError) as error:
        raise fail(None, "file", "a whole safetensors file", str(error), "Copy or download it again.") from None


def _not_a_file(path: Path) -> tuple[str, str]:
    """Returns what there is instead of an adapter's file, and what to do."""
    if (path / "adapter_config.json").is_file():
        return "PEFT's folder of an adapter", "Make a file of it first: convert --to waveft."
    if path.is_dir():
        return "a folder", "Give the file in it."
    if re.search(r":[+-]?\d*,\d+$", str(path)):
        return "no such file", "A strength is written with a point: FILE:0.8."
    return "no such file", "Check the path."


def _checked(file: Any, fail: Refusal) -> tuple[Header, dict[str, Any], dict[str, str]]:
    """Returns an opened file's header, its tensors' slices by name, and its metadata; refuses what they show wrong."""
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    metadata = file.metadata() or {}
    header = _header_of(file, slices, metadata, fail)
    _check_declared({name: (held.get_dtype(), held.get_shape()) for name, held in slices.items()}, fail)
    return header, slices, metadata


def _header_of(file: Any, slices: Mapping[str, Any], metadata: Mapping[str, str], fail: Refusal) -> Header:
    if HEADER not in slices:
        raise fail(None, "tensors", f"a tensor {HEADER}", "none", _foreign(slices))
    held = slices[HEADER]
    if held.get_dtype() != "U8" or len(held.get_shape()) != 1:
        raise fail(None, HEADER, "U8 [len]", f"{held.get_dtype()} {held.get_shape()}", "The file is damaged.")
    if held.get_shape()[0] > MAX_BYTES:
        raise fail(None, HEADER, f"at most {MAX_BYTES} bytes", held.get_shape()[0], NEWER)
    return parse_header(file.get_tensor(HEADER).numpy().tobytes(), metadata, fail)


def _foreign(names: Collection[str]) -> str:
    """Returns what a safetensors file that is no adapter of ours seems to be, and what can be done with it."""
    made = "load it as that, or make an adapter of it: `extract --base BASE --tuned FILE`, in ComfyUI Extract WaveFT."
    if any(word in name for name in names for word in (".lora_", ".lora.", ".hada_", ".lokr_")):
        return f"This is no WaveFT adapter but seems to be a LoRA: {made}"
    if any(name.endswith(".diff") for name in names):
        return f"This is no WaveFT adapter but holds full differences: {made}"
    if any(name.endswith(".waveft_spectrum") for name in names):
        return "This is no WaveFT adapter's file but PEFT's: give its folder to `convert --to waveft --base MODEL`."
    if any(name.startswith(("model.diffusion_model.", "first_stage_model.")) for name in names):
        return "This is no WaveFT adapter but seems to be a whole model: put it with the checkpoints."
    return "This is a safetensors file but no WaveFT adapter."


def _check_declared(declared: Mapping[str, tuple[str, list[int]]], fail: Refusal) -> None:
    """Refuses what names, dtypes and shapes alone show to be wrong, before any tensor is read.

    Args:
        declared: tensor name -> its dtype in safetensors' word, and its shape.
    """
    layers: dict[str, dict[str, list[int]]] = {}
    damaged = "The file is damaged."
    for name, (dtype, shape) in declared.items():
        if name == HEADER:
            continue
        layer, _, part = name.partition(".")
        if not layer or part not in PARTS:
            rules = "<layer>." + "|".join(PARTS)
            raise fail(None, "tensors", rules, f'"{name}"', "It is no WaveFT file, or of a later version.")
        expected = ("F32", "F16", "BF16") if part == "waveft_values" else ("I32",)
        if dtype not in expected:
            raise fail(layer, part, " or ".join(expected), dtype, damaged)
        if len(shape) != 1:
            raise fail(layer, part, "one axis", f"shape {shape}", damaged)
        layers.setdefault(layer, {})[part] = shape
    if not layers:
        raise fail(None, "layers", "at least one layer", "none", "The file holds no adapter.")
    for layer, parts in layers.items():
        if len(parts) != len(PARTS):
            raise fail(layer, "tensors", ", ".join(PARTS), ", ".join(sorted(parts)), damaged)
        values, indices = parts["waveft_values"][0], parts["waveft_indices"][0]
        if values != indices or not values:
            got = f"{values} values and {indices} indices"
            raise fail(layer, "coefficients", "as many values as indices, at least one", got, damaged)
        if not 2 <= parts["waveft_shape"][0] <= 4:
            raise fail(layer, "waveft_shape", "two to four sizes", parts["waveft_shape"][0], damaged)


def _assembled(header: Header, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], source: str) -> Adapter:
    layers = {}
    for name in sorted(key.removesuffix(".waveft_values") for key in tensors if key.endswith(".waveft_values")):
        shape = tensors[f"{name}.waveft_shape"].tolist()
        layers[name] = Layer(tensors[f"{name}.waveft_values"], tensors[f"{name}.waveft_indices"], tuple(shape))
    rest = {key: value for key, value in metadata.items() if key != "waveft"}
    return Adapter(layers, header.wavelet, header.mode, header.scaling, header.locations, rest, source)
