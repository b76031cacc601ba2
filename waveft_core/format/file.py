"""The adapter's file: load and save, as docs/format.md says."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Refusal, listed
from .adapter import DAMAGED, FILE_DTYPES, Adapter, Layer, check_layer, check_plane
from .container import (
    PICKLES,
    PIECE_BYTES,
    WORDS,
    Entry,
    layout_of,
    tensor_bytes,
    tensor_of,
    tensors_of,
    write_container,
)
from .disk import is_file, is_folder, opened, what_lies_at
from .header import HEADER, MAX_BYTES, NEWER, Header, parse_header
from .layout import Stored

PARTS = ("waveft_indices", "waveft_shape", "waveft_values")
_ORDER = (torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.uint8)  # of a file's tensors, the library's


def load(path: str | os.PathLike[str]) -> Adapter:
    """Returns the adapter in the file at `path`, its tensors on the CPU and copied off the file.

    Raises:
        WaveFTError: no such file, or anything that docs/format.md says a reader must refuse.
    """
    fail = Refusal(path)
    with _opened(path, fail) as (file, layout, metadata):
        header = _header_of(layout, lambda name: tensor_of(file, path, layout[name]), metadata, fail)
        _check_declared(_declared(layout), fail)
        order = sorted(layout, key=lambda name: (not name.endswith(".waveft_shape"), layout[name].start))
        tensors: dict[str, Tensor] = {}
        read = tensors_of(file, path, layout)
        for name in order:  # shapes first: they say how many coefficients there can be at all
            if name != HEADER:
                look = _look_at(name, layout[name], header, tensors, fail)
                tensors[name] = read(layout[name], look)
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
    fail = Refusal(path)
    with _opened(path, fail) as (file, layout, metadata):
        header = _header_of(layout, lambda name: tensor_of(file, path, layout[name]), metadata, fail)
        _check_declared(_declared(layout), fail)
    counts = [stored.shape[0] for name, stored in layout.items() if name.endswith(".waveft_values")]
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
    tensors = _tensors(adapter, layers)
    write_container(path, [_entry(name, tensor) for name, tensor in tensors.items()], strings)


def tensors_hash(adapter: Adapter, dtype: torch.dtype = torch.float32) -> str:
    """Returns the hexadecimal SHA-256 of the tensors that `save` would write: `hashes.tensors_sha256` of the file.

    Hubs and user interfaces know an adapter by it. Names are not in it.
    """
    layers = {name: Layer(layer.values.to(dtype), layer.indices, layer.shape) for name, layer in adapter.layers.items()}
    digest = hashlib.sha256()
    for tensor in _tensors(adapter, layers).values():
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _tensors(adapter: Adapter, layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Returns a file's tensors in its order."""
    tensors = {HEADER: torch.tensor(list(adapter.header.to_json().encode()), dtype=torch.uint8)}
    for name, layer in layers.items():
        tensors[f"{name}.waveft_values"] = layer.values
        tensors[f"{name}.waveft_indices"] = layer.indices
        tensors[f"{name}.waveft_shape"] = torch.tensor(layer.shape, dtype=torch.int32)
    return {name: tensors[name] for name in sorted(tensors, key=lambda name: (_ORDER.index(tensors[name].dtype), name))}


def _entry(name: str, tensor: Tensor) -> Entry:
    return Entry.of(name, tensor.dtype, tensor.shape, lambda: tensor)


@contextmanager
def _opened(path: str | os.PathLike[str], fail: Refusal) -> Iterator[tuple[FileIO, dict[str, Stored], dict[str, str]]]:
    """Gives a safetensors file, open, with its layout and its metadata.

    It is opened once: what is read belongs together, also where another file takes its place meanwhile.
    """
    if not is_file(path):
        got, remedy = _not_a_file(Path(path))
        raise fail(None, "file", "an existing .safetensors file", got, remedy)
    if Path(path).suffix in PICKLES:
        remedy = "It can run code when it is read: convert it to safetensors first."
        raise fail(None, "file", "a .safetensors file", f"a pickle ({Path(path).suffix})", remedy)
    with opened(path) as file:
        remedy = "Copy or download it again."
        layout, metadata = layout_of(
            file, path, lambda why: fail(None, "file", "a whole safetensors file", why, remedy)
        )
        yield file, layout, metadata


def _not_a_file(path: Path) -> tuple[str, str]:
    """Returns what there is instead of an adapter's file, and what to do."""
    if is_file(path / "adapter_config.json"):
        return "PEFT's folder of an adapter", "Make a file of it first: convert --to waveft."
    if is_folder(path):
        return "a folder", "Give the file in it."
    if re.search(r":[+-]?\d*,\d+$", str(path)):
        return "no such file", "A strength is written with a point: FILE:0.8."
    got = what_lies_at(path)
    return "no such file" if got == "none there" else got, "Check the path."


def _header_of(
    layout: Mapping[str, Stored], read: Callable[[str], Tensor], metadata: Mapping[str, str], fail: Refusal
) -> Header:
    if HEADER not in layout:
        raise fail(None, "tensors", f"a tensor {HEADER}", "none", _foreign(layout))
    held = layout[HEADER]
    if held.dtype != "U8" or len(held.shape) != 1:
        raise fail(None, HEADER, "U8 [len]", f"{held.dtype} {list(held.shape)}", "The file is damaged.")
    if held.shape[0] > MAX_BYTES:
        raise fail(None, HEADER, f"at most {MAX_BYTES} bytes", held.shape[0], NEWER)
    return parse_header(read(HEADER).numpy().tobytes(), metadata, fail)


def _declared(layout: Mapping[str, Stored]) -> dict[str, tuple[str, list[int]]]:
    return {name: (stored.dtype, list(stored.shape)) for name, stored in layout.items()}


def _look_at(
    name: str, stored: Stored, header: Header, read: Mapping[str, Tensor], fail: Refusal
) -> Callable[[Tensor], None] | None:
    """Refuses more coefficients than the layer's plane has before any is read; returns what looks at them as they come.

    A file with holes may be of any size and cost its sender nothing: what a hole reads as, zeros, are no indices.
    """
    layer, _, part = name.partition(".")
    if part == "waveft_shape":
        return None
    shape = tuple(read[f"{layer}.waveft_shape"].tolist())
    room = check_plane(layer, shape, header.wavelet, header.mode, fail)
    if stored.shape[0] > room:
        raise fail(layer, part, f"at most {room}, the plane of a weight {list(shape)}", stored.shape[0], DAMAGED)

    def look(piece: Tensor) -> None:
        indices = piece.view(torch.int32)
        if not bool((indices[1:] > indices[:-1]).all()):
            raise fail(layer, part, f"strictly increasing within [0, {room})", "others", DAMAGED)

    return look if part == "waveft_indices" and stored.size > PIECE_BYTES else None


def _foreign(names: Collection[str]) -> str:
    """Returns what a safetensors file that is no adapter of ours seems to be, and what can be done with it."""
    made = "load it as that, or make an adapter of it: `extract --base BASE --tuned FILE`, in ComfyUI Extract WaveFT."
    if any(word in name for name in names for word in (".lora_", ".lora.", "_lora.", ".hada_", ".lokr_")):
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
