"""Layers that have no gradient when the optimizer makes its first step, and why: frozen, not run, run under no_grad.

An optimizer passes such parameters over in silence, and a run that trains nothing looks like one that learns slowly.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..errors import WaveFTError, listed
from .coefficients import Coefficients


def check(layers: Sequence[Coefficients], name: str, strength: float, disabled: bool) -> None:
    """Refuses a first step that cannot train, and warns of layers that it leaves out.

    Args:
        layers: those whose values the optimizer holds.
        name: of their tuning.
        strength: of it.
        disabled: whether the step is made within `Tuning.disabled()`.

    Raises:
        WaveFTError: values are frozen, or no layer has a gradient and why is known.
    """
    frozen = [layer.path for layer in layers if not layer.values.requires_grad]
    if frozen:
        raise WaveFTError(
            f"layers {listed(frozen)}: expected values that require grad, got frozen ones. Call "
            "model.requires_grad_(False) before attach, not after it."
        )
    idle = [layer for layer in layers if layer.values.grad is None]
    unrun = [layer.path for layer in idle if not (layer.ran_with_grad or layer.ran_without_grad)]
    off = [layer.path for layer in idle if not layer.shown]
    blocked = [layer.path for layer in idle if layer.shown and layer.ran_without_grad and not layer.ran_with_grad]
    if len(off) == len(layers):
        raise WaveFTError(
            f'tuning "{name}": expected a strength other than 0 to train at, got {strength}'
            f"{' and a step within disabled()' if disabled else ''}. Set it to 1."
        )
    if len(idle) == len(layers) and blocked:
        raise WaveFTError(
            f"layers {listed(blocked)}: expected gradients after the backward pass, got none, since they ran "
            "under no_grad only. With reentrant gradient checkpointing an input must require grad: use "
            "use_reentrant=False."
        )
    for names, why in ((unrun, "did not run"), (blocked, "ran under no_grad only (reentrant checkpointing?)")):
        if names:
            text = f"WaveFT: {len(names)} attached layers {why} before the first step: {listed(names)}"
            warnings.warn(text, stacklevel=3)
