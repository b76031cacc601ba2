"""What a safetensors file says of itself before its numbers: names, shapes, sizes, and a digest of a few samples.

No torch, and no more than a few hundred kilobytes read, however large the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself
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
        parameters: how many numbers it has.
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
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else LARGEST_HEADER
            if length >= LARGEST_HEADER or length + 8 > size:
                raise ValueError("is not a safetensors file, or was cut short. Fetch it again.")
            text = file.read(length)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}. Check its permissions, or fetch it again.") from None
    try:
        tensors = json.loads(text)
        metadata = tensors.pop("__metadata__", None) or {}
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError("is not a safetensors file: its header cannot be read. Fetch it again.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"was cut short: expected {expected} bytes, got {size}. Fetch it again.")
    return Header(path, tensors, metadata, 8 + length)


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
    return Part(sum(math.prod(shape) for shape in shapes.values()), size, digest.hexdigest(), shapes)


def sample(path: Path, start: int, size: int) -> bytes:
    """Returns up to `SAMPLE_BYTES` from the middle of `size` bytes at `start`."""
    length = min(size, SAMPLE_BYTES)
    with path.open("rb") as file:
        file.seek(start + (size - length) // 2)
        return file.read(length)


def pickled(paths: Iterable[Path]) -> Part:
    """Returns what can be said of `.bin` files, which are not opened here: size, and a digest of samples."""
    digest, total = hashlib.sha256(), 0
    for path in paths:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        step = max(1, size // SAMPLES)
        for start in range(0, size, step):
            digest.update(sample(path, start, min(step, size - start)))
        total += size
    return Part(0, total, digest.hexdigest() if total else "", {})


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a component's folder that are loaded: safetensors, of full precision where there are any."""
    files = sorted(folder.glob("*.safetensors"))
    full = [path for path in files if not is_half(path)]
    return full or files or sorted([*folder.glob("*pytorch_model*.bin"), *folder.glob("model*.bin")])


def is_half(path: Path) -> bool:
    """Returns whether a file's name says that it is diffusers' fp16 variant."""
    return ".fp16." in path.name or ".fp16-" in path.name
