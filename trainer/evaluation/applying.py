"""An adapter file in the base's weights for a while: of a method of the trainer's, or what the core's reader knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import nn

import waveft_core
from waveft_core.interop.lora import deltas
from waveft_core.toolbox.sources import opened

from ..base.models import Base
from ..methods import shipped
from ..system.errors import UserError


def components(base: Base) -> dict[str, nn.Module]:
    """Returns the base's parts that an adapter may reach, by the names that adapter files give them."""
    found: dict[str, nn.Module] = {"unet": base.unet}
    return found | {f"te{number + 1}": encoder for number, (_, encoder) in enumerate(base.text)}


@contextmanager
def applied(base: Base, path: Path | None, strength: float) -> Iterator[bool]:
    """Puts an adapter into the base, and takes it out again bit for bit; yields whether it reaches a text encoder.

    Args:
        base: its text encoders must still be there.
        path: of the adapter; None = the base as it is.
        strength: the dial.

    Raises:
        UserError: it is no adapter of this base; nothing is changed then.
    """
    if path is None:
        yield False
        return
    names, undo = put_in(components(base), path, strength)
    try:
        yield any(name.startswith("lora_te") for name in names)
    finally:
        undo()


def put_in(parts: Mapping[str, nn.Module], path: Path, strength: float) -> tuple[list[str], Callable[[], None]]:
    """Writes an adapter into the weights; returns its layers' names and what takes it out; UserError as `applied`."""
    try:
        found = shipped.known(path)
        if isinstance(found, waveft_core.Adapter):
            return list(found.layers), waveft_core.merge(parts, found, strength).undo
        if found is not None:
            inside = ExitStack()
            inside.enter_context(shipped.applied(parts, path, strength))
            return list(found.layers), inside.close
        before = add(parts, path, strength)
        return list(before), lambda: put_back(parts, before)
    except waveft_core.WaveFTError as error:
        raise UserError(str(error)) from error


@torch.no_grad()
def add(parts: Mapping[str, nn.Module], path: Path, strength: float) -> dict[str, torch.Tensor]:
    """Adds strength * dW to the weights, rounded once; returns the layers' weights as they were."""
    source, before = opened(parts), dict[str, torch.Tensor]()
    try:
        for name, delta in deltas(path, parts):
            weight = source.read(name)
            before[name] = weight.detach().clone()
            wide = weight.double() if weight.dtype == torch.float64 else weight.float()
            weight.data.copy_((wide + strength * delta.to(wide.device, wide.dtype)).to(weight.dtype))
    except BaseException:
        put_back(parts, before)
        raise
    return before


@torch.no_grad()
def put_back(parts: Mapping[str, nn.Module], before: Mapping[str, torch.Tensor]) -> None:
    """Writes weights as they were."""
    source = opened(parts)
    for name, weight in before.items():
        source.read(name).data.copy_(weight)
