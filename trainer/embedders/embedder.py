"""What evaluation knows of a network: pictures in, one embedding each out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

BATCH = 16  # pictures at a time


@dataclass(frozen=True)
class Embedder:
    """A network that sees pictures.

    Attributes:
        name: as columns and pages call it, such as "lite0".
        identity: of its weights and of what is done to pictures before: embeddings of another are not these.
        prepare: a picture -> [3, h, w] float32.
        forward: [n, 3, h, w] on `device` -> [n, d].
        device: that it works on.
    """

    name: str
    identity: str
    prepare: Callable[[Image.Image], Tensor]
    forward: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Returns the pictures' embeddings [n, d] float32 on the CPU; [0, 0] of none."""
        parts = [self.forward(batch.to(self.device)).float().cpu() for batch in self._batches(pictures)]
        return torch.cat(parts) if parts else torch.empty(0, 0)

    def _batches(self, pictures: Sequence[Image.Image]) -> Iterator[Tensor]:
        for start in range(0, len(pictures), BATCH):
            yield torch.stack([self.prepare(picture) for picture in pictures[start : start + BATCH]])


class Reader(Protocol):
    """What turns texts into embeddings that pictures' can be compared with."""

    def __call__(self, texts: Sequence[str], /) -> Tensor:
        """Returns [n, d] float32 on the CPU."""
        ...
