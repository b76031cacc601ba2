"""Embeddings of pictures, kept by content: a picture is seen once by each network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..embedders.embedder import Embedder
from ..pictures import formats
from ..system.files import write_atomically
from ..system.reading import open_regular


@dataclass(frozen=True)
class Seen:
    """A picture that may have been seen already.

    Attributes:
        key: of its content and of all that is done to it before it is looked at.
        open: gives it.
    """

    key: str
    open: Callable[[], Image.Image]


def drawn(paths: Iterable[Path]) -> list[Seen]:
    """Returns picture files, as they are."""
    found = []
    for path in paths:
        with open_regular(path) as file:
            found.append(Seen(hashlib.file_digest(file, "sha256").hexdigest(), partial(open_drawn, path)))
    return found


def open_drawn(path: Path) -> Image.Image:
    """Returns a drawn picture, in RGB."""
    with formats.opened(formats.read_content(path)) as image:
        return image.convert("RGB")


class Kept:
    """A network's embeddings, in a file that the next evaluation finds.

    Args:
        network: that sees.
        folder: of the files; one that cannot be read is made anew.
    """

    def __init__(self, network: Embedder, folder: Path) -> None:
        self.network = network
        name = hashlib.sha256(network.identity.encode()).hexdigest()[:16]
        self.path, self._rows = folder / f"{network.name}-{name}.safetensors", dict[str, Tensor]()
        with suppress(SafetensorError, OSError):
            self._rows = load_file(self.path) if self.path.is_file() else {}

    def of(self, pictures: Sequence[Seen]) -> Tensor:
        """Returns the pictures' embeddings [n, d] float32; [0, 0] of none."""
        missing = {one.key: one for one in pictures if one.key not in self._rows}
        if missing:
            made = self.network([one.open() for one in missing.values()])
            self._rows |= dict(zip(missing, made, strict=True))
            write_atomically(self.path, save({key: row.contiguous().clone() for key, row in self._rows.items()}))
        return torch.stack([self._rows[one.key] for one in pictures]) if pictures else torch.empty(0, 0)
