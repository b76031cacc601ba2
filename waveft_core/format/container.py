"""The safetensors container, read and written in pieces: whole files on disk, never whole files in memory.

The library maps a file into memory or takes all tensors at once; a checkpoint of 7 GB needs neither.  Every file of
this package is written through `atomic`: to a temporary name beside its target, synced and renamed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import safetensors
import torch
from torch import Tensor

from ..errors import WaveFTError, listed

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
WORDS = {dtype: word for word, dtype in DTYPES.items()}
PIECE_BYTES = 2**24  # copied at a time
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

Piece = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file.

    Attributes:
        dtype: safetensors' word, such as "BF16".
        shape: of the tensor.
        start: of its bytes, counted from the file's beginning.
        size: bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Entry:
    """A tensor to be written.

    Attributes:
        name, dtype, shape: as in the file's header; `dtype` is safetensors' word.
        pieces: gives the tensor's bytes, in order; called when its turn has come, once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    pieces: Callable[[], Iterable[Piece]]

    @classmethod
    def of(cls, name: str, dtype: torch.dtype, shape: Sequence[int], make: Callable[[], Tensor]) -> Entry:
        """Returns the entry of a tensor that `make` makes when its turn has come."""
        size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
        return cls(name, WORDS[dtype], tuple(shape), size, lambda: [tensor_bytes(make().to(dtype))])

    @classmethod
    def copied(cls, name: str, stored: Stored, path: Path) -> Entry:
        """Returns the entry of a tensor that is copied out of the file at `path`, byte for byte."""
        return cls(name, stored.dtype, stored.shape, stored.size, lambda: read_pieces(path, stored))


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Returns a tensor's bytes as the container holds them (little-endian, row-major), without a copy where it can."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def read_layout(path: str | os.PathLike[str]) -> tuple[dict[str, Stored], dict[str, str]]:
    """Returns the tensors that a safetensors file holds, in the order of their bytes, and its metadata.

    Raises:
        WaveFTError: no such file, or no whole safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise WaveFTError(f'file "{path}": expected a .safetensors file, got none there. Check the path.')
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu"):
            pass  # checks the header, and that its tensors fill the file without holes
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (safetensors.SafetensorError, OSError) as error:
        raise WaveFTError(
            f'file "{path}": expected a whole safetensors file, got: {error}. Copy or download it again.'
        ) from None
    metadata = header.pop("__metadata__", None) or {}
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return {
        name: Stored(held["dtype"], tuple(held["shape"]), 8 + length + held["data_offsets"][0], _span(held))
        for name, held in ordered
    }, metadata


def read_tensor(path: str | os.PathLike[str], stored: Stored) -> Tensor:
    """Returns one tensor of the file, in memory of its own.

    Raises:
        WaveFTError: a dtype that this package has no use for.
    """
    if stored.dtype not in DTYPES:
        raise WaveFTError(f'file "{path}": expected one of {", ".join(DTYPES)}, got a tensor of {stored.dtype}.')
    content = torch.empty(stored.size, dtype=torch.uint8)
    with Path(path).open("rb") as file:
        file.seek(stored.start)
        if stored.size and file.readinto(content.numpy().data) != stored.size:
            raise WaveFTError(f'file "{path}": expected {stored.size} bytes at {stored.start}, got fewer.')
    return content.view(DTYPES[stored.dtype]).view(stored.shape)


def read_pieces(path: str | os.PathLike[str], stored: Stored) -> Iterator[Piece]:
    """Yields one tensor's bytes."""
    left = stored.size
    with Path(path).open("rb") as file:
        file.seek(stored.start)
        while left:
            piece = file.read(min(left, PIECE_BYTES))
            if not piece:
                raise WaveFTError(f'file "{path}": expected {left} more bytes, got the file\'s end. Copy it again.')
            left -= len(piece)
            yield piece


def write_container(
    path: str | os.PathLike[str],
    entries: Sequence[Entry],
    metadata: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes `entries` in their order to `path`: whole or not at all, header in sorted order.

    Args:
        progress: told the bytes of every tensor that is written.

    Raises:
        WaveFTError: the folder does not exist, or an entry gave other than its bytes.
        OSError: it cannot be written; what was at `path` stands.
    """
    with atomic(Path(path)) as file:
        file.write(_header(entries, metadata))
        for entry in entries:
            written = 0
            for piece in entry.pieces():
                written += file.write(piece)
            if written != entry.size:
                raise WaveFTError(f'tensor "{entry.name}": expected {entry.size} bytes, got {written}.')
            if progress is not None:
                progress(written)


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {}
    start = 0
    for entry in entries:
        span = [start, start + entry.size]
        header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": span}
        start += entry.size
    if metadata:
        header["__metadata__"] = dict(metadata)
    wrong = [key for key, value in metadata.items() if not (_is_text(key) and _is_text(value))]
    if wrong:
        names = listed(map(repr, wrong))
        raise WaveFTError(f"metadata: expected strings of valid Unicode, got others at {names}. Convert or drop them.")
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors' own padding: the data stays aligned to 8 bytes
    if len(text) > MAX_HEADER_BYTES:
        raise WaveFTError(
            f"metadata: expected a header of at most {MAX_HEADER_BYTES} bytes, which is all that readers of "
            f"safetensors take, got {len(text)}. Keep the largest strings in a file of their own."
        )
    return len(text).to_bytes(8, "little") + text


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of `path` when all of it is on disk; no reader sees half of one.

    Raises:
        WaveFTError: the folder does not exist.
        OSError: it cannot be written to; what was at `path` stands.
    """
    if not path.parent.is_dir():
        raise WaveFTError(f'file "{path}": expected an existing folder, got none at "{path.parent}". Make it first.')
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:  # speaks of the file that was asked for
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _span(held: Mapping[str, list[int]]) -> int:
    start, end = held["data_offsets"]
    return end - start
