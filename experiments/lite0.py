"""EfficientNet-Lite0 with a head for a task: its 1 x 1 convolutions are what trains.

It is the network that `waveft evaluate` sees with, with ImageNet's weights out of the extra `eval`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import SimpleNamespace

from torch import Tensor, nn
from torch.nn import functional as F

from trainer.embedders import lite0, tensors

TARGETS = r".*(_expand_conv|_project_conv|_conv_head)"  # all that are 1 x 1
SIDE = 32  # pixels of a side that small pictures are brought to: the network halves it five times


class Classifier(lite0.Network):
    """The network, and a linear head over its features.

    Args:
        held: the weights, by the package's names.
        classes: of the head.
    """

    def __init__(self, held: Mapping[str, Tensor], classes: int) -> None:
        super().__init__(held)
        self.classifier = nn.Linear(len(held["_conv_head.weight"]), classes)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Returns the logits [B, classes], as transformers' models name them."""
        return SimpleNamespace(logits=self.classifier(self.features(pixel_values)))


def is_installed() -> bool:
    """Returns whether the weights' package is there."""
    return importlib.util.find_spec(lite0.PACKAGE) is not None


def load(classes: int) -> Classifier:
    """Returns the network with ImageNet's weights, out of the extra `eval`.

    Raises:
        UserError: it is not installed, or its file is another one.
    """
    return Classifier(tensors.read(lite0.find(), "EfficientNet-Lite0's weights", lite0.SHA256), classes)


def seen(pixels: Tensor) -> Tensor:
    """Returns grey pictures [N, 1, H, W] in [-1, 1] as the network takes them: [N, 3, SIDE, SIDE]."""
    wide = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return wide.expand(-1, 3, -1, -1)
