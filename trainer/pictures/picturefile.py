"""What is known of an image file before it is trained: whether it can be read, its size, its digest."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

ORIENTATION = 0x0112  # the EXIF tag; values of 5 and more lie on their side
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
        if not path.stat().st_size:
            return "it is empty, 0 bytes"
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with Image.open(path) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION, 1) >= 5
            frames = getattr(image, "n_frames", 1)
            alpha = image.mode in ALPHA_MODES or "transparency" in image.info
            image.seek(0)
            image.draft("RGB", (64, 64))  # JPEG is decoded small: quick, and a cut-short file still shows
            image.load()
    except UnidentifiedImageError:
        return unidentified(path)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return str(error) or type(error).__name__
    return Measured((height, width) if sideways else (width, height), digest, alpha, frames)


def unidentified(path: Path) -> str:
    """Returns what a file is that Pillow does not take for an image."""
    with path.open("rb") as file:
        head = file.read(len(POINTER))
    if head == POINTER:
        return "it is a pointer of Git LFS: fetch the picture itself with `git lfs pull`"
    return "its content is no image, or of a kind that Pillow cannot open"
