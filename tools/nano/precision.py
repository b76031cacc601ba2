"""In what the nano base's autoencoder and judges compute: bf16, or float32 where the CPU would only emulate it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def autocast() -> torch.autocast:
    """Returns the context of their steps.

    A convolution in emulated bf16 takes twenty times as long as in float32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16())


def has_bf16() -> bool:
    """Returns whether this CPU has instructions for bf16, as far as the installed torch can say."""
    found: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
