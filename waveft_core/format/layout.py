"""The header of a safetensors file, parsed and checked: no number of it is used before it agrees with the file's size.

The rules are those of the safetensors library, whose own check maps the whole file into memory; a header given twice in
part, which the library lets pass, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from .disk import Version

MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
BITS = {
    "F64": 64,
    "I64": 64,
    "U64": 64,
    "C64": 64,
    "F32": 32,
    "I32": 32,
    "U32": 32,
    "F16": 16,
    "BF16": 16,
    "I16": 16,
    "U16": 16,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I8": 8,
    "U8": 8,
    "BOOL": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
_MOST_AXES = 64  # torch's own limit


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies in a file.

    Attributes:
        dtype: safetensors' word, such as "BF16".
        shape: of the tensor.
        start: of its bytes, counted from the file's beginning.
        size: bytes.
        version: of the file whose header said so; None where that does not matter.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    version: Version | None = None


def parse_layout(content: bytes, data_bytes: int, version: Version) -> tuple[dict[str, Stored], dict[str, str]]:
    """Returns the tensors that a header declares, in the order of their bytes, and its metadata.

    Args:
        content: the header's bytes.
        data_bytes: of the file after the header; the tensors must fill them without holes.

    Raises:
        ValueError: in words, whatever is wrong.
    """
    if not content.startswith(b"{"):
        raise ValueError("a header that is no JSON object")
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("a header nested too deep") from None
    metadata = found.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata that are not strings")
    if b"\\u" in content:  # an escape may spell half a letter, which no file name and no UTF-8 can hold
        for text in (*found, *metadata, *metadata.values()):
            text.encode("utf-8")
    first = 8 + len(content)
    tensors = {name: _stored(name, entry, first, version) for name, entry in found.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size)))
    end = first
    for name, stored in ordered.items():
        if stored.start != end:
            raise ValueError(f'tensor "{name}" at {stored.start - first} of the data, where {end - first} is next')
        end += stored.size
    if end != first + data_bytes:
        raise ValueError(f"{data_bytes} bytes of data, where the header declares {end - first}")
    return ordered, metadata


def _stored(name: str, entry: object, first: int, version: Version) -> Stored:
    if not isinstance(entry, dict):
        raise ValueError(f'no description of tensor "{name}"')
    dtype, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f'a dtype of tensor "{name}" that safetensors does not have')
    if not _whole(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f'no shape of tensor "{name}"')
    if not _whole(span) or len(span) != 2 or span[0] > span[1]:
        raise ValueError(f'no place of tensor "{name}"')
    size = span[1] - span[0]
    if _entries(shape, 8 * size) * BITS[dtype] != 8 * size:
        raise ValueError(f'{size} bytes for tensor "{name}", {dtype} {list(shape)}')
    return Stored(dtype, tuple(shape), first + span[0], size, version)


def _whole(numbers: object) -> TypeGuard[list[int]]:
    """Returns whether it is a list of whole numbers that are not negative; true and 7.0 are none."""
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _entries(shape: list[int], most: int) -> int:
    """Returns the product of a shape, or any number above `most` where it is larger: no product of huge numbers."""
    if 0 in shape:
        return 0
    entries = 1
    for size in shape:
        entries *= size
        if entries > most:
            break
    return entries


def _once(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name given twice in the header")
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} in the header, which is no JSON")
