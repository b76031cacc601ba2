"""Whether a file is a WaveFT adapter, by a look at its first bytes: what is asked of every LoRA in a folder."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache

from .disk import opened, stamp

# A safetensors file opens with the length of its JSON header (8 bytes) and the header, which names every tensor.
TENSOR_WORDS = (b"waveft.header", b".waveft_")
FIRST_TENSOR = re.compile(rb'"([^"]+)"\s*:\s*\{[^{}]*$')  # before its "dtype"
HEADER_LIMIT_BYTES, HEADER_START_BYTES, NAME_BYTES = 1 << 25, 1 << 14, 512


def is_waveft(path: str | None) -> bool:
    """Says whether a file is a WaveFT adapter by the look of its header; None is none."""
    if path is None:
        return False
    with suppress(OSError, ValueError):  # a link to nowhere, a FIFO, or not ours to read: nothing that could be loaded
        return _mentions_header(path, stamp(path))
    return False


@cache
def _mentions_header(path: str, _stamp: str) -> bool:
    """Says whether a file's safetensors header is a WaveFT adapter's, without parsing it.

    It is asked of every LoRA. Parsing the JSON of one with 2364 tensors takes 12 ms; the name of the first tensor
    decides, since a file with others beside ours is refused. A file that was looked at is not opened again until its
    size or time changes.
    """
    with opened(path) as file:
        length = min(int.from_bytes(file.read(8), "little"), HEADER_LIMIT_BYTES)
        start = file.read(min(length, HEADER_START_BYTES))
        before, found, _ = start.partition(b'"dtype"')
        if not found:  # long metadata come first
            before = (start + file.read(length - len(start))).partition(b'"dtype"')[0]
    named = FIRST_TENSOR.search(before[-NAME_BYTES:])
    return named is not None and any(word in named[1] for word in TENSOR_WORDS)
