"""A base model's weights in files, by layer name: listed without being read, and read one at a time.

A base is a `.safetensors` file (a whole SDXL checkpoint, a bare UNet, any state dict of `<module path>.weight`) or a
diffusers folder (`unet/`, `text_encoder/`, ..., or one of these alone).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from ..errors import WaveFTError, listed, nearest
from ..format.container import DTYPES, PICKLES, read_layout, read_tensor
from ..format.disk import is_folder
from ..format.folders import component_files
from ..format.keys import checkpoint_place, layer_names, unwrapped
from ..format.layout import Stored
from ..format.quantised import METADATA, REMEDY, quantised

_FUSED = ("q_proj", "k_proj", "v_proj")  # the thirds of OpenCLIP's attn.in_proj_weight, in its order


@dataclass(frozen=True)
class Slot:
    """A weight's place.

    Attributes:
        name: the layer's name in adapter files.
        path: its module path within its component.
        component: "unet", "te1", "te2", a diffusers folder's name, or None for a model on its own.
        file, key: the file, and the tensor's name there.
        rows: the slice along the tensor's first axis that is this weight, None for all of it.
        shape: of the weight.
        dtype: of the weight.
    """

    name: str
    path: str
    component: str | None
    file: Path
    key: str
    rows: tuple[int, int] | None
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class _Held:
    """One weight as a file holds it."""

    file: Path
    key: str
    stored: Stored
    rows: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        first, *rest = self.stored.shape or (1,)
        return (first if self.rows is None else self.rows[1] - self.rows[0], *rest)


class Weights:
    """The weights of a base model in files. `Weights.open(path)` makes one.

    Attributes:
        path: what was opened.
        files: the layout and the metadata of every file, as `container.read_layout` gives them.
        slots: the places of all weights of two to four axes, by layer name.
        unread: folders of the base whose weights are not in safetensors files.
    """

    def __init__(self, path: Path, components: list[tuple[str | None, list[Path]]], unread: list[str]) -> None:
        self.path = path
        self.files = {file: read_layout(file) for _, files in components for file in files}
        self.unread = tuple(unread)
        slots: dict[str, Slot] = {}
        self._wrong: dict[str, str] = {}
        for component, files in components:
            for slot in self._found(component, files):
                other = slots.setdefault(slot.name, slot)
                if other is not slot:
                    self._wrong[slot.name] = (
                        f'expected one weight of that name, got "{other.key}" and "{slot.key}". '
                        "Rename one of them in the model."
                    )
        self.slots: Mapping[str, Slot] = MappingProxyType(slots)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Weights:
        """Returns the weights of the file or folder at `path`; only headers are read.

        Raises:
            WaveFTError: no such file or folder, a file of another format, or a folder without safetensors files.
        """
        path = Path(path)
        if is_folder(path):
            components, unread = component_files(path)
            return cls(path, components, unread)
        if path.suffix in PICKLES:
            raise WaveFTError(
                f'model "{path}": expected a .safetensors file or a diffusers folder, got a pickle ({path.suffix}), '
                "which can run code when it is read. Convert it to safetensors first."
            )
        return cls(path, [(None, [path])], [])

    def slot(self, name: str) -> Slot:
        """Returns the place of one weight.

        Raises:
            WaveFTError: no such layer (naming the nearest), a name that fits two weights, or one that is stored scaled.
        """
        if name in self._wrong:
            raise WaveFTError(f'model "{self.path}", layer "{name}": {self._wrong[name]}')
        if name not in self.slots:
            close = listed(nearest(name, self.slots, 3))
            raise WaveFTError(
                f'model "{self.path}", layer "{name}": expected one of its {len(self.slots)} layers, got none of that '
                f"name. Nearest names: {close}."
            )
        return self.slots[name]

    def read(self, name: str) -> Tensor:
        """Returns one weight in memory of its own, in the file's dtype; nothing else is read.

        Raises:
            WaveFTError: as `slot`.
        """
        slot = self.slot(name)
        stored = self.files[slot.file][0][slot.key]
        size = math.prod(slot.shape) * slot.dtype.itemsize
        skipped = 0 if slot.rows is None else slot.rows[0] * (size // slot.shape[0])
        return read_tensor(slot.file, replace(stored, shape=slot.shape, start=stored.start + skipped, size=size))

    def _quantised(self, files: list[Path]) -> Mapping[str, str]:
        """Returns the weights of a component that must not be read as they lie, and what says so.

        Its files are seen together: a weight and its scale may lie in two shards.
        """
        dtypes = {key: stored.dtype for file in files for key, stored in self.files[file][0].items()}
        said = [self.files[file][1][METADATA] for file in files if METADATA in self.files[file][1]]
        return quantised(dtypes, {METADATA: said[0]} if said else None).weights

    def _found(self, component: str | None, files: list[Path]) -> Iterator[Slot]:
        """Yields the slots of one component's files."""
        held = {path: one for file in files for path, one in _weights(file, self.files[file][0])}
        scaled = self._quantised(files)
        for path, name in layer_names(held, component).items():
            one = held[path]
            if not 2 <= len(one.shape) <= 4 or math.prod(one.shape) == 0:  # a norm's, which no adapter is for
                continue
            if one.stored.dtype not in DTYPES:
                self._wrong[name] = (
                    f"expected one of {', '.join(DTYPES)}, got {one.stored.dtype}. Use an unquantised base."
                )
                continue
            if one.key in scaled:
                self._wrong[name] = (
                    "expected a weight as it is, got one stored with a scale of its own (scaled fp8, or another "
                    f'quantised form: "{scaled[one.key]}"). {REMEDY}'
                )
            part, inner = checkpoint_place(unwrapped(path)) if component is None else (component, unwrapped(path))
            apart = re.match(r"lora_(unet|te\d)_", name)
            part = part or (apart[1] if apart else None)
            yield Slot(name, inner, part, one.file, one.key, one.rows, one.shape, DTYPES[one.stored.dtype])


def _weights(file: Path, layout: Mapping[str, Stored]) -> Iterator[tuple[str, _Held]]:
    """Yields the module paths of a file's weights; OpenCLIP's fused attention is three of them."""
    for key, stored in layout.items():
        if key.endswith(".weight"):
            yield key.removesuffix(".weight"), _Held(file, key, stored)
        elif ".resblocks." in key and key.endswith(".attn.in_proj_weight") and len(stored.shape) == 2:
            third = stored.shape[0] // 3
            for place, kind in enumerate(_FUSED):
                rows = (place * third, (place + 1) * third)
                yield key.removesuffix("in_proj_weight") + kind, _Held(file, key, stored, rows)
