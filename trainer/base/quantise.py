"""The frozen UNet in fewer bits: 8, which diffusers' hooks cast back and forth, or 4, in bitsandbytes' nf4 layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..system import commandline
from ..system.errors import UserError

QUANTISED = "attentions."  # in a layer's path: four fifths of SDXL's weights; time embeddings and resnets stay whole


def to_fp8(unet: Any, compute: torch.dtype) -> None:
    """Stores the weights of linear layers in float8_e4m3fn; each is cast to `compute` while it runs.

    Norms stay as they are, which is diffusers' own choice, and convolutions too: autograd keeps the parameter of a
    convolution for its backward pass, where it would find eight bits instead of what the forward pass had.
    """
    unet.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=compute, skip_modules_classes=(nn.Conv2d,)
    )


def to_nf4(unet: nn.Module, compute: torch.dtype) -> None:
    """Puts bitsandbytes' 4-bit layers in the place of the linear layers around attention.

    They quantise their weights when they are moved to the device that runs them; until then they hold them whole.

    Raises:
        UserError: bitsandbytes is not installed, or does not work here.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f'[model] base_dtype: "nf4" needs bitsandbytes, which cannot be used here ({error}). Run: '
            + commandline.install("bitsandbytes")
        ) from error
    linear = [(path, layer) for path, layer in unet.named_modules() if type(layer) is nn.Linear and QUANTISED in path]
    for path, layer in linear:
        made = Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute,
            quant_type="nf4",
            device="meta",  # its own first weights would take minutes to draw
        )
        made.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=made)
        made.bias = layer.bias
        # in training mode, for the samples too: out of it, bitsandbytes repacks a CPU's weights for good, in a form
        # that has no gradient
        unet.set_submodule(path, made.train())
