"""A finished file of any method, read as what it adds to each weight, and put into a model for as long as it is wanted.

What UIs compute of a file is computed here, so that what is measured is what is shipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import waveft_core
from waveft_core import WaveFTError
from waveft_core.format.container import read_layout
from waveft_core.format.keys import layer_names

from ..system.errors import UserError
from . import tensorfile
from .method import Method
from .registry import of_tensors

WAVEFT = "waveft"  # what the architecture of the core's own files is called
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Shipped:
    """A file of a method other than the core's.

    Attributes:
        kind: the method whose file it is.
        tensors: by name.
        layers: their names.
        source: the file.
    """

    kind: type[Method]
    tensors: Mapping[str, torch.Tensor]
    layers: tuple[str, ...]
    source: str

    def delta(self, name: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """Returns what a layer's weight, of `shape`, or its bias gets, float32."""
        try:
            return self.kind.delta(tensorfile.held_by(self.tensors, name), shape)
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise UserError(
                f'file "{self.source}", layer "{name}": expected tensors of {self.kind.TITLE} for a weight of '
                f"{list(shape)}, got others ({error}). It was trained for another base, or is damaged."
            ) from None


def load(path: Path) -> waveft_core.Adapter | Shipped:
    """Returns what a file holds.

    Raises:
        UserError: no such file, damaged, or of no method that is known here.
    """
    if (found := known(path)) is None:
        raise UserError(f'file "{path}": expected an adapter of a method that is known here, got another file.')
    return found


def known(path: Path) -> waveft_core.Adapter | Shipped | None:
    """Returns what a file holds, None where its tensors are named as no method here names them.

    Raises:
        UserError: no such file, or a damaged one.
    """
    try:
        names, _ = read_layout(path)
        kind = of_tensors(names)
        if kind is None:
            return None
        if kind.ARCHITECTURE == WAVEFT:
            return waveft_core.load(path)
        tensors = tensorfile.load(path)
    except (WaveFTError, OSError) as error:
        raise UserError(str(error)) from None
    broken = [name for name, held in tensors.items() if held.is_floating_point() and not bool(held.isfinite().all())]
    if broken:
        raise UserError(f'file "{path}", tensor "{broken[0]}": expected finite numbers, got NaN or infinity.')
    layers = dict.fromkeys(name.partition(".")[0] for name in tensors if name.endswith(kind.TRAINED))
    return Shipped(kind, tensors, tuple(layers), str(path))


@contextlib.contextmanager
def applied(models: Mapping[str, nn.Module], path: Path, strength: float = 1.0, beside: bool = False) -> Iterator[None]:
    """Inside, the models compute with W0 + strength * dW of a file; afterwards they are as before, bit for bit.

    Args:
        models: "unet" and, where the file has layers of theirs, "te1" and "te2".
        path: of the file.
        strength: the dial that UIs have.
        beside: run WaveFT's update beside weights that are too coarse to hold it.

    Raises:
        UserError: it is no adapter, or one for other models.
        WaveFTError: the same, of a WaveFT file.
    """
    found = load(path)
    if isinstance(found, waveft_core.Adapter):
        tuning = waveft_core.attach(models, found, beside=beside, strength=strength)
        try:
            yield
        finally:
            tuning.detach()
        return
    originals: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for tensor, added in changes(models, found):
            originals.append((tensor, tensor.detach().to("cpu", copy=True)))
            wide = tensor.detach().double() if tensor.dtype == torch.float64 else tensor.detach().float()
            tensor.detach().copy_(wide + strength * added.to(wide))
        yield
    finally:
        for tensor, original in originals:
            tensor.detach().copy_(original)


def changes(models: Mapping[str, nn.Module], found: Shipped) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the tensors that a file changes, each with what it adds; all refusals come before the first."""
    places: dict[str, nn.Module] = {}
    for component, model in models.items():
        modules = dict(model.named_modules())
        places |= {name: modules[path] for path, name in layer_names(modules, component).items()}
    if missing := [
        name for name in found.layers if not isinstance(getattr(places.get(name), "weight", None), nn.Parameter)
    ]:
        raise UserError(
            f'file "{found.source}": expected layers of this base, got {missing[0]} and {len(missing) - 1} more that '
            "it lacks. Apply it to the base that it was trained for, text encoders too where they were trained."
        )
    if coarse := [name for name in found.layers if places[name].weight.dtype not in FLOATS]:
        raise UserError(
            f'file "{found.source}", layer "{coarse[0]}": expected a base in whole numbers of 16 or 32 bits, got '
            f'{places[coarse[0]].weight.dtype}. Load it with [model] base_dtype = "auto".'
        )
    for name in found.layers:
        module, weight = places[name], places[name].weight
        assert isinstance(weight, torch.Tensor)
        for what, added in found.delta(name, tuple(weight.shape)).items():
            yield getattr(module, what), added
