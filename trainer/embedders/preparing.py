"""From a picture to the numbers that a network was trained on: resized, cropped about the centre, normalised.

The rules are those of a `preprocessor_config.json`. They are applied here, with Pillow alone: the libraries' own
processors resize differently from version to version, and ask for torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparing:
    """How a network wants its pictures.

    Attributes:
        shortest: px of the shorter side after resizing, the aspect ratio kept; or (width, height); None = as it is.
        crop: (width, height) px about the centre; None = all of it.
        mean, std: of each channel in [0, 1]: subtracted and divided by.
        resample: Pillow's filter.
    """

    shortest: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: int = Image.Resampling.BICUBIC

    def __call__(self, picture: Image.Image) -> Tensor:
        """Returns [3, h, w] float32."""
        picture = picture.convert("RGB")
        if self.shortest is not None:
            picture = picture.resize(self._size(picture), Image.Resampling(self.resample))
        if self.crop is not None:
            width, height = self.crop
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))  # black where it is smaller
        values = torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 255  # [3, h, w]
        mean, std = (torch.tensor(held, dtype=torch.float32)[:, None, None] for held in (self.mean, self.std))
        return (values - mean) / std

    def _size(self, picture: Image.Image) -> tuple[int, int]:
        if isinstance(self.shortest, tuple):
            return self.shortest
        assert self.shortest is not None
        short, long = sorted(picture.size)
        longest = int(self.shortest * long / short)  # rounded down, as the libraries do
        return (self.shortest, longest) if picture.width <= picture.height else (longest, self.shortest)


def from_config(config: Mapping[str, Any]) -> Preparing:
    """Returns what a `preprocessor_config.json` says; what it leaves open is CLIP's.

    Raises:
        ValueError: a size in other words than these.
    """
    shortest = _size(config.get("size", {"shortest_edge": 224}), whole=False) if config.get("do_resize", True) else None
    crop = _size(config.get("crop_size", shortest), whole=True) if config.get("do_center_crop", True) else None
    normal = config.get("do_normalize", True)
    return Preparing(
        shortest,
        crop if isinstance(crop, tuple) else None,
        tuple(config.get("image_mean", CLIP_MEAN)) if normal else (0.0,) * 3,
        tuple(config.get("image_std", CLIP_STD)) if normal else (1.0,) * 3,
        int(config.get("resample", Image.Resampling.BICUBIC)),
    )


def _size(said: Any, whole: bool) -> int | tuple[int, int] | None:
    """Returns (width, height), or the shorter side alone; a bare number is both sides of a crop (`whole`)."""
    if isinstance(said, Mapping):
        if "height" in said and "width" in said:
            return int(said["width"]), int(said["height"])
        said = said.get("shortest_edge")
    if isinstance(said, tuple) or said is None:
        return said
    if isinstance(said, int):
        return (said, said) if whole else said
    raise ValueError(f"size: expected a number, shortest_edge, or height and width, got {said!r}.")
