"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> Path:
    """Writes the file whole or not at all, its folder made where there is none; returns its path."""
    from waveft_core import file  # imports torch, which who only asks for names and sizes has no need of

    path.parent.mkdir(parents=True, exist_ok=True)
    file.write_atomically(path, content.encode() if isinstance(content, str) else content)
    return path


def free_name(path: Path, taken: Callable[[Path], bool] = Path.exists) -> Path:
    """Returns `path`, or the first of `name-2`, `name-3` ... that is not taken."""
    candidate, number = path, 2
    while taken(candidate):
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def readable_size(path: Path) -> str:
    """Returns the file's size in words: bytes, kB or MB (powers of 1000)."""
    size = path.stat().st_size
    if size < 1000:
        return f"{size} bytes"
    return f"{size / 1000:.0f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"
