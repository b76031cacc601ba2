"""What is known of an image file before it is trained: whether it can be read, its size, its digest."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from . import formats, sidechunks

ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
THREADS = 8  # at most; decoding and hashing let go of the interpreter
POINTER = b"version https://git-lfs"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """An image file that can be read.

    Attributes:
        size: (width, height) in px of the upright picture.
        digest: hexadecimal SHA-256 of the file's bytes.
        alpha: whether it has transparency.
        frames: 1, or more where it moves; the first is trained.
    """

    size: tuple[int, int]
    digest: str
    alpha: bool = False
    frames: int = 1


def measure_all(paths: Sequence[Path], progress: Progress | None = None) -> dict[Path, Measured | str]:
    """Returns for each file what it is, or why it cannot be read; `progress` is told (done, total) after each."""
    found: dict[Path, Measured | str] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # of odd metadata and of large pictures, which are decoded all the same
        for path, result in zip(paths, pool.map(measure, paths), strict=True):
            found[path] = result
            if progress:
                progress(len(found), len(paths))
    return found


def measure(path: Path) -> Measured | str:
    """Returns what the file is, or why it cannot be read. It is decoded: a file cut short is found here."""
    try:
        content = formats.read_content(path)
        if not content:
            return "it is empty, 0 bytes"
        if content.startswith(POINTER):
            return "it is a pointer of Git LFS: fetch the picture itself with `git lfs pull`"
        with formats.opened(content) as image:
            size, frames = image.size, count_frames(image, content)
            alpha = image.mode in ALPHA_MODES or "transparency" in image.info
            image.draft("RGB", (64, 64))  # JPEG is decoded small: quick, and a cut-short file still shows
            image.load()
            size = formats.upright_size(image, size)
    except Exception as error:  # noqa: BLE001 - decoders raise anything of a bad file; that it is one is what is told
        return formats.told(error)
    return Measured(size, hashlib.sha256(content).hexdigest(), alpha, frames)


def count_frames(image: Image.Image, content: bytes) -> int:
    """Returns how many pictures the file holds, the first of them current again; 1 where that cannot be told."""
    try:
        frames = max(getattr(image, "n_frames", 1), sidechunks.png_frames(content))
        image.seek(0)
    except Exception:  # noqa: BLE001 - the first picture is what counts, and its own faults show when it is decoded
        return 1
    return frames
