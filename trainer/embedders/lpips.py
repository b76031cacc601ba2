"""LPIPS with VGG16: the perceptual distance of two pictures (Zhang et al. 2018), 0 for equal ones.

Its backbone is torchvision's `vgg16-397923af.pth` (the 13 convolutions alone are read) or the same tensors as
safetensors; its heads are the `vgg.pth` of v0.1, which the packages lpips and torchmetrics carry. torchvision itself is
not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..system.errors import UserError
from . import tensors

# Each stage's convolutions by their place in torchvision's `features`; a stage begins with max pooling but the first.
STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPSILON = 1e-10  # keeps a pixel whose features are all 0 from dividing by it


@dataclass(frozen=True)
class Lpips:
    """The distance.

    Attributes:
        backbone: `features.N.weight` and `.bias` of VGG16.
        heads: five weights [1, C, 1, 1], none below 0.
    """

    backbone: Mapping[str, Tensor]
    heads: tuple[Tensor, ...]

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Returns the distances [n] float32 of pictures [n, 3, h, w] in [-1, 1]."""
        total = torch.zeros(len(first), device=first.device)
        for head, one, other in zip(self.heads, self._stages(first), self._stages(second), strict=True):
            total = total + F.conv2d((one - other).square(), head).mean(dim=(1, 2, 3))
        return total

    def _stages(self, pixels: Tensor) -> list[Tensor]:
        """Returns each stage's features, every pixel's of length 1."""
        shift, scale = (pixels.new_tensor(held)[:, None, None] for held in (SHIFT, SCALE))
        x, found = (pixels - shift) / scale, []
        for number, stage in enumerate(STAGES):
            x = F.max_pool2d(x, 2) if number else x
            for place in stage:
                weight, bias = self.backbone[f"features.{place}.weight"], self.backbone[f"features.{place}.bias"]
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPSILON))
        return found


def load(backbone: Path, heads: Path, device: torch.device) -> Lpips:
    """Returns the distance out of its two files.

    Raises:
        UserError: a file is not there, or is not what it should be.
    """
    features = tensors.read(backbone, "[evaluation] lpips_backbone")
    names = [f"features.{place}.{part}" for stage in STAGES for place in stage for part in ("weight", "bias")]
    if missing := [name for name in names if name not in features]:
        raise UserError(
            f'[evaluation] lpips_backbone "{backbone}": expected VGG16 as torchvision names it, got none of '
            f"{', '.join(missing[:3])}. Name torchvision's vgg16 file."
        )
    found = tensors.read(heads, "[evaluation] lpips_heads")
    weights = [found[name] for name in (f"lin{number}.model.1.weight" for number in range(5)) if name in found]
    widths = [int(features[f"features.{stage[-1]}.weight"].shape[0]) for stage in STAGES]
    if [tuple(weight.shape) for weight in weights] != [(1, width, 1, 1) for width in widths]:
        raise UserError(
            f'[evaluation] lpips_heads "{heads}": expected five heads of {", ".join(map(str, widths))} channels, got '
            f"{[tuple(weight.shape) for weight in weights] or 'none'}. Name the vgg.pth of LPIPS v0.1."
        )
    return Lpips(
        {name: features[name].float().to(device) for name in names},
        tuple(weight.float().to(device) for weight in weights),
    )
