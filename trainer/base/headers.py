"""What a safetensors file says of itself before its numbers: names, shapes, sizes, and a digest of a few samples.

No torch, and no more than a few hundred kilobytes read, however large the file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.plaintext import shown
from ..system.reading import is_file, open_regular, parse_json, read_json
from .basetensors import is_left

LARGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself
HALF = ".fp16"  # in the names of diffusers' variant of half precision
PICKLED = re.compile(r"(diffusion_)?(pytorch_)?model")  # begins their names
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
SAMPLES, SAMPLE_BYTES = 64, 1024  # of a component: enough to tell any two trainings of it apart


@dataclass(frozen=True)
class Header:
    """A file's header.

    Attributes:
        path: of the file.
        tensors: name -> {"dtype", "shape", "data_offsets"}.
        metadata: what else the writer had to say.
        start: where the numbers begin, bytes.
    """

    path: Path
    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    start: int


@dataclass(frozen=True)
class Part:
    """One component of a base: a UNet, a VAE, the text encoders.

    Attributes:
        parameters: how many numbers it has that are read.
        size: bytes that they take in the files.
        digest: of names, shapes and samples of the numbers, hexadecimal; "" for a component without weights.
        shapes: of its tensors, by their names in the files.
    """

    parameters: int
    size: int
    digest: str
    shapes: dict[str, tuple[int, ...]]


def read(path: Path) -> Header:
    """Returns a safetensors file's header; ValueError, in words, where the file is something else or cut short."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else LARGEST_HEADER
            if length >= LARGEST_HEADER or length + 8 > size:
                raise ValueError("is not a safetensors file, or was cut short. Fetch it again.")
            text = file.read(length)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}. Check its permissions, or fetch it again.") from None
    try:
        tensors = parse_json(text)
        metadata = tensors.pop("__metadata__", None) or {}
        good = texts(metadata) and all(isinstance(entry, dict) and formed(entry) for entry in tensors.values())
        if not good:
            raise ValueError
        spans = sorted(entry["data_offsets"] for entry in tensors.values())
        if any(span[0] != before[1] for before, span in itertools.pairwise([[0, 0], *spans])):
            raise ValueError  # holes, or tensors that share bytes
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("is not a safetensors file: its header cannot be read. Fetch it again.") from None
    expected = 8 + length + (spans[-1][1] if spans else 0)
    if size != expected:
        raise ValueError(f"was cut short: expected {expected} bytes, got {size}. Fetch it again.")
    return Header(path, tensors, metadata, 8 + length)


def texts(metadata: Any) -> bool:
    """Returns whether a header's own metadata are what they must be: texts by name."""
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def formed(entry: dict[str, Any]) -> bool:
    """Returns whether a tensor's entry has the form that whoever uses it relies on.

    A dtype, a shape of whole numbers, and two ordered offsets that are as far apart as such a tensor is large. Raises
    KeyError or TypeError where it is further off.
    """
    shape, offsets, dtype = entry["shape"], entry["data_offsets"], entry["dtype"]
    numbers = [*shape, *offsets]
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in numbers):
        return False
    begin, end = offsets if len(offsets) == 2 else (1, 0)
    bits = re.search(r"\d+", dtype)  # "F8_E4M3" has 8 and "BOOL" none written
    return begin <= end and 8 * (end - begin) == math.prod(shape) * (int(bits[0]) if bits else 8)


def inside(header: Header, prefix: str) -> dict[str, dict[str, Any]]:
    """Returns the tensors whose names begin with the prefix, by their names without it."""
    return {name.removeprefix(prefix): entry for name, entry in header.tensors.items() if name.startswith(prefix)}


def part(headers: Iterable[Header], prefix: str = "") -> Part:
    """Returns what the files hold of one component: their tensors whose names begin with the prefix, without it.

    The digest depends on neither the file's name nor what else it holds, so that two checkpoints with one VAE have one
    VAE digest. Names alone would not do: most fine-tunes of a base have its header to the letter.
    """
    held = {
        name.removeprefix(prefix): (entry, header)
        for header in headers
        for name, entry in header.tensors.items()
        if name.startswith(prefix)
    }
    if not held:
        return Part(0, 0, "", {})
    shapes = {name: tuple(held[name][0]["shape"]) for name in sorted(held)}
    kinds = [(name, held[name][0]["dtype"], shape) for name, shape in shapes.items()]
    digest = hashlib.sha256(json.dumps(kinds).encode())
    # those whose names' digests come first: as good as drawn, and always the same
    for name in sorted(held, key=lambda name: hashlib.sha256(name.encode()).digest())[:SAMPLES]:
        entry, header = held[name]
        first, end = entry["data_offsets"]
        digest.update(sample(header.path, header.start + first, end - first))
    size = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry, _ in held.values())
    count = sum(math.prod(shape) for name, shape in shapes.items() if not is_left(name))
    return Part(count, size, digest.hexdigest(), shapes)


def sample(path: Path, start: int, size: int) -> bytes:
    """Returns up to `SAMPLE_BYTES` from the middle of `size` bytes at `start`."""
    length = min(size, SAMPLE_BYTES)
    with open_regular(path) as file:
        file.seek(start + (size - length) // 2)
        return file.read(length)


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a component's folder that are loaded: safetensors, of full precision where there are any.

    One file, or the shards that an index names; ValueError, in words, where the index cannot be followed.
    """
    stem = "model" if folder.name.startswith("text_encoder") else "diffusion_pytorch_model"
    for variant in ("", HALF):
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            return shards(index)
        if (path := folder / f"{stem}{variant}.safetensors").is_file():
            return [path]
    return []


def shards(index: Path) -> list[Path]:
    """Returns the files beside an index that it names; ValueError, in words, where it names none, or other places."""
    try:
        names = set(read_json(index, LARGEST_HEADER)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{index.name} cannot be read. Fetch it again.") from None
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ValueError(f"{index.name}: expected names of files beside it, got others. Fetch it again.")
    if missing := sorted(name for name in names if not is_file(index.with_name(name))):
        raise ValueError(f"{index.name} names {', '.join(map(shown, missing[:3]))}, not there. Fetch the whole model.")
    return [index.with_name(name) for name in sorted(names)]


def pickles(folder: Path) -> list[Path]:
    """Returns the weight files of a component's folder that are pickles, which are never opened here."""
    return sorted(path for path in folder.iterdir() if path.suffix in PICKLES and PICKLED.match(path.name))


def is_half(path: Path) -> bool:
    """Returns whether a file's name says that it is diffusers' fp16 variant."""
    return f"{HALF}." in path.name or f"{HALF}-" in path.name
