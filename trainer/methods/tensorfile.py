"""Adapter files of other methods: plain safetensors, `<layer>.<ending>`, written whole and always the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from waveft_core import WaveFTError
from waveft_core.format.container import Entry, read_layout, read_tensor, write_container

from ..system.errors import UserError
from ..system.files import write_atomically
from .method import Method
from .tuning import Product

WHOLE = ("alpha", "scaling")  # endings of the tensors that keep their dtype: factors, not trained numbers
ORDER = (torch.float32, torch.int32, torch.bfloat16, torch.float16)  # wide first, so that tensors stay aligned
Folders = Mapping[str, tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]]


class TensorProduct(Product):
    """The tensors of a file.

    Args:
        kind: the method whose they are.
        tensors: by their names in the file.
        shapes: of the weights of the layers that it holds.
        kohya: what kohya's tools call it.
        folders: what HF PEFT's folders hold, by component.
    """

    def __init__(
        self,
        kind: type[Method],
        tensors: Mapping[str, torch.Tensor],
        shapes: Mapping[str, Sequence[int]],
        kohya: Mapping[str, str],
        folders: Folders | None = None,
    ) -> None:
        self.kohya = dict(kohya)
        self.kind, self.shapes, self.folders = kind, dict(shapes), dict(folders or {})
        self.tensors = {name: tensors[name].contiguous().cpu() for name in sorted(tensors)}
        self.layers = len(self.shapes)
        numbers = sum(held.numel() for name, held in self.tensors.items() if name.endswith(kind.TRAINED))
        self.told = {"algo": kind.NAME, "layers": str(self.layers), f"{kind.UNIT}_in_all": str(numbers)}

    def rounded(self, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Returns the tensors as the file has them."""
        return {
            name: held if held.dtype != torch.float32 or name.endswith(WHOLE) else held.to(dtype)
            for name, held in self.tensors.items()
        }

    def save(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str] | None = None) -> None:
        """Writes the tensors, those of one dtype together."""
        rounded = self.rounded(dtype)
        if wrong := [name for name, held in rounded.items() if not bool(torch.isfinite(held).all())]:
            raise WaveFTError(f'tensor "{wrong[0]}": expected numbers that {dtype} can hold, got NaN or infinity.')
        names = sorted(rounded, key=lambda name: (ORDER.index(rounded[name].dtype), name))
        entries = [
            Entry.of(name, rounded[name].dtype, rounded[name].shape, partial(rounded.__getitem__, name))
            for name in names
        ]
        write_container(path, entries, dict(metadata or {}))

    def is_in(self, path: Path, dtype: torch.dtype) -> bool:
        """Returns whether the file holds the same tensors, bit for bit."""
        found, rounded = load(path), self.rounded(dtype)
        return found.keys() == rounded.keys() and all(
            found[name].dtype == held.dtype and torch.equal(found[name], held) for name, held in rounded.items()
        )

    def save_diff(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        """Writes dense differences, one layer in memory at a time."""
        entries = []
        for name, shape in sorted(self.shapes.items()):
            for what, sized in differences(self.kind, self.tensors, name, shape).items():
                made = partial(delta, self.kind, self.tensors, name, shape, what)
                entries.append(Entry.of(f"{name}.{'diff_b' if what == 'bias' else 'diff'}", dtype, sized, made))
        write_container(path, entries, dict(metadata))

    def save_folders(self, path: Path) -> list[Path]:
        """Writes `<path>`, and `<path>-te1` and so on where text encoders train."""
        written = []
        for component, (config, tensors) in self.folders.items():
            folder = path if component == "unet" else path.with_name(f"{path.name}-{component}")
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config, indent=2, sort_keys=True)
            written.append(write_atomically(folder / "adapter_config.json", f"{text}\n".encode()))
            weights = folder / "adapter_model.safetensors"
            held = {name: tensors[name].detach().float().cpu() for name in sorted(tensors)}
            entries = [
                Entry.of(name, values.dtype, values.shape, partial(held.__getitem__, name))
                for name, values in held.items()
            ]
            write_container(weights, entries, {"format": "pt"})
            written.append(weights)
        return written


def differences(
    kind: type[Method], tensors: Mapping[str, torch.Tensor], name: str, shape: Sequence[int]
) -> dict[str, Sequence[int]]:
    """Returns what a layer changes, "weight" or "bias", with its shape, without making it."""
    return {"bias": shape[:1]} if f"{name}.diff_b" in tensors else {"weight": shape}


def delta(
    kind: type[Method], tensors: Mapping[str, torch.Tensor], name: str, shape: Sequence[int], what: str = "weight"
) -> torch.Tensor:
    """Returns what the file adds to a layer's weight, of `shape`, or bias, float32."""
    return kind.delta(held_by(tensors, name), shape)[what]


def held_by(tensors: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Returns a layer's tensors by the endings of their names; those that no layer owns are in every layer's."""
    component = "_".join(name.split("_")[:2]).removeprefix("lora_")
    own = {key.removeprefix(f"{name}."): held for key, held in tensors.items() if key.startswith(f"{name}.")}
    shared = {key.removesuffix(f".{component}"): held for key, held in tensors.items() if key.endswith(f".{component}")}
    return {**shared, **own}


def load(path: str | Path) -> dict[str, torch.Tensor]:
    """Returns a file's tensors; WaveFTError where it is no whole safetensors file."""
    layout, _ = read_layout(path)
    return {name: read_tensor(path, stored) for name, stored in layout.items()}


def load_layers(path: str | Path) -> dict[str, dict[str, torch.Tensor]]:
    """Returns a file's tensors by layer and by the endings of their names.

    Raises:
        UserError: it is no whole safetensors file.
    """
    try:
        tensors = load(path)
    except WaveFTError as error:
        raise UserError(f"[network] network_weights: {error}") from None
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for name, held in tensors.items():
        layer, _, ending = name.partition(".")
        layers.setdefault(layer, {})[ending] = held
    return layers
