"""The safetensors container, read and written in pieces: whole files on disk, never whole files in memory.

The library maps a file into memory or takes all tensors at once; a checkpoint of 7 GB needs neither.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from ..errors import WaveFTError, listed
from .disk import opened, take, version_of
from .layout import MAX_HEADER_BYTES, Stored, parse_layout
from .wholefile import atomic

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

Piece = bytes | bytearray | memoryview


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
    with opened(path, "a .safetensors file") as file:
        return layout_of(file, path)


def layout_of(
    file: FileIO, path: str | os.PathLike[str], refused: Callable[[str], WaveFTError] | None = None
) -> tuple[dict[str, Stored], dict[str, str]]:
    """Returns `read_layout` of a file that is open.

    Args:
        path: its name, for messages.
        refused: makes the refusal out of what is wrong, in words.

    Raises:
        WaveFTError: no whole safetensors file.
    """
    version = version_of(file)
    why, length = f"one of {version[2]} bytes", bytearray(8)
    if version[2] >= len(length):
        take(file, path, memoryview(length))
        size = int.from_bytes(length, "little")
        why = f"a header of {size} bytes in a file of {version[2]}"
        if size <= min(MAX_HEADER_BYTES, version[2] - len(length)):
            content = bytearray(size)
            take(file, path, memoryview(content))
            try:
                return parse_layout(bytes(content), version[2] - len(length) - size, version)
            except ValueError as error:
                why = str(error)
    if refused is not None:
        raise refused(why)
    raise WaveFTError(f'file "{path}": expected a whole safetensors file, got: {why}. Copy or download it again.')


def read_tensor(path: str | os.PathLike[str], stored: Stored) -> Tensor:
    """Returns one tensor of the file, in memory of its own.

    Raises:
        WaveFTError: a dtype that this package has no use for, a file that was changed since its header was read, or
            too little memory.
    """
    with opened(path, "the file whose header was read") as file:
        return tensor_of(file, path, stored)


def tensor_of(
    file: FileIO, path: str | os.PathLike[str], stored: Stored, look: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Returns `read_tensor` of a file that is open; `path` is its name, for messages.

    Args:
        look: called with each part that was read, [n] uint8, before the next is; may refuse it.

    Raises:
        WaveFTError: as `read_tensor`.
    """
    if stored.dtype not in DTYPES:
        raise WaveFTError(f'file "{path}": expected one of {", ".join(DTYPES)}, got a tensor of {stored.dtype}.')
    try:
        content = torch.empty(stored.size, dtype=torch.uint8)
    except RuntimeError:  # torch's MemoryError
        raise WaveFTError(
            f'file "{path}": expected {stored.size} bytes of free memory for a tensor, got less.'
        ) from None
    for piece in _places(file, path, stored):
        take(file, path, content.numpy().data[piece])
        if look is not None:
            look(content[piece])
    _check_unchanged(file, path, stored)
    return content.view(DTYPES[stored.dtype]).view(stored.shape)


def tensors_of(
    file: FileIO, path: str | os.PathLike[str], layout: Mapping[str, Stored]
) -> Callable[[Stored, Callable[[Tensor], None] | None], Tensor]:
    """Returns `tensor_of` for an open file: one of at most `PIECE_BYTES` is read whole and cut up."""
    ends = [stored.start + stored.size for stored in layout.values()]
    if not ends or max(ends) > PIECE_BYTES:
        return lambda stored, look: tensor_of(file, path, stored, look)
    first = min(layout.values(), key=lambda stored: stored.start)
    content = bytearray(max(ends) - first.start)
    _check_unchanged(file, path, first)
    file.seek(first.start)
    take(file, path, memoryview(content))
    _check_unchanged(file, path, first)

    def cut(stored: Stored, look: Callable[[Tensor], None] | None) -> Tensor:
        if not stored.size or stored.dtype not in DTYPES:
            return tensor_of(file, path, stored, look)
        own = torch.frombuffer(content, dtype=torch.uint8, count=stored.size, offset=stored.start - first.start).clone()
        if look is not None:
            look(own)
        return own.view(DTYPES[stored.dtype]).view(stored.shape)

    return cut


def read_pieces(path: str | os.PathLike[str], stored: Stored) -> Iterator[Piece]:
    """Yields one tensor's bytes.

    Raises:
        WaveFTError: a file that is cut short, or was changed since its header was read.
    """
    with opened(path, "the file whose header was read") as file:
        for piece in _places(file, path, stored):
            content = memoryview(bytearray(piece.stop - piece.start))
            take(file, path, content)
            yield content
        _check_unchanged(file, path, stored)


def _places(file: FileIO, path: str | os.PathLike[str], stored: Stored) -> Iterator[slice]:
    """Yields the parts of a tensor's bytes that are read at a time, the file being at the first."""
    _check_unchanged(file, path, stored)
    file.seek(stored.start)
    for start in range(0, stored.size, PIECE_BYTES):
        yield slice(start, min(start + PIECE_BYTES, stored.size))


def _check_unchanged(file: FileIO, path: str | os.PathLike[str], stored: Stored) -> None:
    """Refuses bytes of another file than the one whose header says what they are."""
    if stored.version is not None and version_of(file) != stored.version:
        raise WaveFTError(
            f'file "{path}": expected the file whose header was read, got another one or a changed one: it was '
            "written to meanwhile. Wait until it is whole, then start again."
        )


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


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate
        return False
