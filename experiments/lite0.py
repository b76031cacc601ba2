"""EfficientNet-Lite0 as modules with a head for a task: its 1 x 1 convolutions are what trains.

The weights are those that `waveft evaluate` sees with, ImageNet's, out of the extra `eval`; its embedder reads them as
they are, and has no modules that a method could be put into.
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


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: what is odd of it goes below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the padded input's convolution [B, C, H / stride, W / stride]."""
        side, kernel, stride = x.shape[-1], self.kernel_size[0], self.stride[0]
        padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before = padding // 2
        return super().forward(F.pad(x, (before, padding - before) * 2))


class Block(nn.Module):
    """An inverted bottleneck: expand, depthwise, project, each with its batch norm."""

    def __init__(self, held: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        widens = f"{name}_expand_conv.weight" in held  # the first does not
        if widens:
            self._expand_conv, self._bn0 = layer(held, f"{name}_expand_conv"), norm(held, f"{name}_bn0")
        self._depthwise_conv = layer(held, f"{name}_depthwise_conv", stride, depthwise=True)
        self._project_conv = layer(held, f"{name}_project_conv")
        self._bn1, self._bn2 = norm(held, f"{name}_bn1"), norm(held, f"{name}_bn2")
        self._widens = widens

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output, with the input added where both are of one shape."""
        made = F.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        made = F.relu6(self._bn1(self._depthwise_conv(made)))
        made = self._bn2(self._project_conv(made))
        return made + x if made.shape == x.shape else made


class Lite0(nn.Module):
    """The network, and a linear head over its features.

    Args:
        held: the weights, by the package's names.
        classes: of the head.
    """

    def __init__(self, held: Mapping[str, Tensor], classes: int) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = layer(held, "_conv_stem", 2), norm(held, "_bn0")
        strides = [lite0.STRIDES.get(number, 1) for number in range(lite0.BLOCKS)]
        self._blocks = nn.Sequential(*(Block(held, f"_blocks.{at}.", stride) for at, stride in enumerate(strides)))
        self._conv_head, self._bn1 = layer(held, "_conv_head"), norm(held, "_bn1")
        self.classifier = nn.Linear(len(held["_conv_head.weight"]), classes)
        self.load_state_dict({name: one for name, one in held.items() if not name.startswith("_fc.")}, strict=False)
        self.eval()  # batch norms keep ImageNet's means

    def features(self, pixel_values: Tensor) -> Tensor:
        """Returns the features [B, 1280] of pictures [B, 3, H, W]."""
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(pixel_values))))
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Returns the logits [B, classes], as transformers' models name them."""
        return SimpleNamespace(logits=self.classifier(self.features(pixel_values)))


def layer(held: Mapping[str, Tensor], name: str, stride: int = 1, depthwise: bool = False) -> Convolution:
    """Returns an empty convolution of a weight's shape."""
    rows, columns, kernel, _ = held[f"{name}.weight"].shape
    return Convolution(
        columns * (rows if depthwise else 1), rows, kernel, stride, groups=rows if depthwise else 1, bias=False
    )


def norm(held: Mapping[str, Tensor], name: str) -> nn.BatchNorm2d:
    """Returns an empty batch norm of a weight's length."""
    return nn.BatchNorm2d(len(held[f"{name}.weight"]), eps=lite0.EPSILON)


def is_installed() -> bool:
    """Returns whether the weights' package is there."""
    return importlib.util.find_spec(lite0.PACKAGE) is not None


def load(classes: int) -> Lite0:
    """Returns the network with ImageNet's weights, out of the extra `eval`.

    Raises:
        UserError: it is not installed, or its file is another one.
    """
    return Lite0(tensors.read(lite0.find(), "EfficientNet-Lite0's weights", lite0.SHA256), classes)


def seen(pixels: Tensor) -> Tensor:
    """Returns grey pictures [N, 1, H, W] in [-1, 1] as the network takes them: [N, 3, SIDE, SIDE]."""
    wide = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return wide.expand(-1, 3, -1, -1)
