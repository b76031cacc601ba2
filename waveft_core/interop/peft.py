"""HF PEFT's WaveFT folders, in and out: `adapter_config.json` and `adapter_model.safetensors`.

PEFT stores values alone, [p] a layer, in the order in which a seed draws their positions: `randperm(m*n)[:p]` of a
window inside its zero-padded plane.  So shapes must come from the base, and a wrong base or seed would be read without
an error: what can be checked is checked.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from ..basis.atoms import IDENTITY, coeffs_shape
from ..basis.locations import parse_locations, peft_order
from ..errors import WaveFTError, listed
from ..format.adapter import Adapter, Layer
from ..format.container import Entry, read_layout, read_tensor, write_container
from ..format.disk import is_file, is_folder
from ..format.keys import layer_names
from ..format.layout import Stored
from ..format.wholefile import atomic
from ..toolbox.sources import Slot, Source, Weighted, opened
from .names import Names, diffusers_path
from .peft_config import CONFIG, WORKING, read_config, written_config

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
TENSORS = "adapter_model.safetensors"
_PREFIX, _SUFFIX = "base_model.model.", ".waveft_spectrum"


def read_peft(folder: str | os.PathLike[str], base: Source | Weighted | Shapes) -> Adapter:
    """Returns the adapter of a PEFT folder: the same dW, exactly (db3 to 1e-11: PEFT's table has a wrong digit).

    The mode is `zero`, PEFT's own, unless the basis is that of periodization: `db1` where all sizes are even.

    Args:
        base: the weights that it was trained on, or their shapes by module path; they settle shapes and names.

    Raises:
        WaveFTError: a file that is missing or a pickle, a config of another kind, a wavelet that PEFT computes wrongly
            or not at all, a tensor that is no spectrum, a layer that the base lacks, or another number of values than
            config and base give.
    """
    folder = Path(folder)
    config = read_config(folder)
    layout, _ = read_layout(_tensors(folder))
    slots = _slots(base)
    paths = _paths(folder, layout, slots)
    shapes = {name: tuple(slots[name].shape) for name in paths}
    wrong = sorted(name for name, shape in shapes.items() if len(shape) != 2)
    if wrong:
        raise WaveFTError(f'folder "{folder}": expected linear layers, got {listed(wrong)}. Give the right base.')
    odd = any(size % 2 for shape in shapes.values() for size in shape)
    mode = "zero" if config.wavelet != IDENTITY and (odd or config.wavelet != "db1") else "periodization"
    counts = config.counts({name: path.removeprefix(_PREFIX) for name, path in paths.items()}, shapes)
    layers = {}
    for name, path in paths.items():
        spectrum = read_tensor(_tensors(folder), layout[path + _SUFFIX])
        _check_count(folder, name, spectrum.numel(), counts[name], math.prod(shapes[name]))
        order = _order(config.wavelet, mode, shapes[name], spectrum.numel(), config.seed, config.transposed)
        layers[name] = Layer(spectrum[order.argsort()], order.sort().values.int(), shapes[name])
    locations = f"peft:{config.seed}" if config.seed >= 0 else None
    return Adapter(layers, config.wavelet, mode, config.scaling, locations, source=str(folder))


def write_peft(adapter: Adapter, folder: str | os.PathLike[str], base: Source | Weighted | Shapes) -> None:
    """Writes the adapter as a folder that `PeftModel.from_pretrained` reads: each file whole or not at all.

    Args:
        folder: made if it is not there; its parent must be.
        base: the weights it was trained on, or their shapes by module path: PEFT names layers by their paths.

    Raises:
        WaveFTError: positions other than PEFT's of the seed in `locations`, a basis that PEFT does not have, or a layer
            that is not linear or that the base lacks.
        OSError: it cannot be written.
    """
    folder = Path(folder)
    slots = _slots(base)
    seed, transposed = _drawn(adapter)
    missing = sorted(adapter.layers.keys() - slots.keys())
    if missing:
        raise _refused(adapter, f"layers {listed(missing)}", "layers of the base", "none", "Give the right base.")
    components = sorted({str(slots[name].component) for name in adapter.layers})
    if len(components) > 1:
        remedy = "PEFT's folder is for one model: split the adapter."
        raise _refused(adapter, "layers", "one component's", f"those of {', '.join(components)}", remedy)
    paths = {name: diffusers_path(slots[name], slots) for name in adapter.layers}
    counts = {paths[name]: layer.values.numel() for name, layer in adapter.layers.items()}
    tensors: dict[str, Tensor] = {}
    for name, layer in adapter.layers.items():
        if tuple(slots[name].shape) != layer.shape:
            expected, got = list(slots[name].shape), list(layer.shape)
            raise _refused(adapter, f'layer "{name}"', f"the base's {expected}", got, "Give the right base.")
        order = _order(adapter.wavelet, adapter.mode, layer.shape, layer.values.numel(), seed, transposed)
        spectrum = torch.empty_like(layer.values, device="cpu")
        spectrum[order.argsort()] = layer.values.cpu()
        tensors[f"{_PREFIX}{paths[name]}{_SUFFIX}"] = spectrum
    if not is_folder(folder) and not is_folder(folder.parent):
        raise WaveFTError(f'folder "{folder}": expected an existing folder at "{folder.parent}". Make it first.')
    folder.mkdir(exist_ok=True)
    entries = [_entry(key, tensors[key]) for key in sorted(tensors, key=lambda key: (str(tensors[key].dtype), key))]
    write_container(folder / TENSORS, entries, {"format": "pt"})
    config = written_config(adapter, seed, transposed, counts)
    with atomic(folder / CONFIG) as file:
        file.write((json.dumps(config, indent=2, sort_keys=True) + "\n").encode())


def _entry(key: str, tensor: Tensor) -> Entry:
    return Entry.of(key, tensor.dtype, tensor.shape, lambda: tensor)


def _drawn(adapter: Adapter) -> tuple[int, bool]:
    """Returns the seed that draws the adapter's positions in PEFT, and whether its weights are stored [in, out]."""
    remedy = 'Train it with locations = "peft:SEED", or convert it to .diff.'
    kind, seed = parse_locations(adapter.locations) if adapter.locations else ("none", 0)
    if kind != "peft":
        raise _refused(adapter, "locations", '"peft:SEED": PEFT draws its own', adapter.locations, remedy)
    if adapter.wavelet not in (*WORKING, IDENTITY):
        raise _refused(adapter, "wavelet", f"one that PEFT computes ({listed(WORKING, 40)})", adapter.wavelet, remedy)
    if adapter.mode == "periodization" and adapter.wavelet not in ("db1", IDENTITY):
        raise _refused(adapter, "mode", f'"zero", PEFT\'s for {adapter.wavelet}', adapter.mode, remedy)
    for transposed in (False, True):
        astray = [
            name
            for name, layer in adapter.layers.items()
            if len(layer.shape) != 2
            or layer.values.numel() > math.prod(layer.shape)
            or not torch.equal(
                _order(adapter.wavelet, adapter.mode, layer.shape, layer.values.numel(), seed, transposed)
                .sort()
                .values,
                layer.indices.cpu().long(),
            )
        ]
        if not astray:
            return seed, transposed
    got = f"others in {listed(astray)}"
    raise _refused(adapter, "positions", f"those that PEFT draws for seed {seed}, in linear layers", got, remedy)


@lru_cache(maxsize=64)
def _order(wavelet: str, mode: str, shape: tuple[int, ...], count: int, seed: int, transposed: bool) -> Tensor:
    """Returns PEFT's positions in our C, [count] int64, in the order of its draw (`locations.draw` sorts them).

    Args:
        shape: of the weight, [m, n]; [n, m] where it is stored transposed.
    """
    m, n = shape[::-1] if transposed else shape
    places = torch.from_numpy(peft_order(wavelet, mode, (m, n), count, seed).copy())
    across, along = coeffs_shape(wavelet, mode, (m, n))
    return (places % along) * across + places // along if transposed else places


def _paths(folder: Path, layout: Mapping[str, Stored], slots: Mapping[str, Slot]) -> dict[str, str]:
    """Returns how the file calls each layer, by our names."""
    names = Names(slots, f'folder "{folder}"')
    paths: dict[str, str] = {}
    for key, stored in layout.items():
        if not key.endswith(_SUFFIX) or len(stored.shape) != 1 or not stored.shape[0]:
            raise WaveFTError(
                f'folder "{folder}", tensor "{key}": expected WaveFT spectra [p] alone, got another of '
                f"{list(stored.shape)}. Biases and modules_to_save cannot be held: merge them into the base first."
            )
        path = key.removesuffix(_SUFFIX)
        name = names.of(path)
        if name in paths:
            raise WaveFTError(f'folder "{folder}", layer "{name}": expected it once, got it twice. It is damaged.')
        paths[name] = path
    return paths


def _check_count(folder: Path, name: str, got: int, expected: int, entries: int) -> None:
    if got != expected or got > entries:
        raise WaveFTError(
            f'folder "{folder}", layer "{name}": expected {min(expected, entries)} values by its config and the base, '
            f"got {got}. Give the base that it was trained on, and the config that belongs to it."
        )


def _slots(base: Source | Weighted | Shapes) -> Mapping[str, Slot]:
    if isinstance(base, Mapping) and base and all(isinstance(shape, tuple | list) for shape in base.values()):
        shapes = {path: tuple(shape) for path, shape in base.items() if isinstance(shape, tuple | list)}
        return {name: _Shaped(name, path, None, shapes[path]) for path, name in layer_names(shapes).items()}
    return opened(base).slots  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Shaped:
    name: str
    path: str
    component: str | None
    shape: tuple[int, ...]


def _tensors(folder: Path) -> Path:
    if not is_file(folder / TENSORS) and is_file(folder / "adapter_model.bin"):
        raise WaveFTError(
            f'folder "{folder}": expected {TENSORS}, got adapter_model.bin, a pickle, which may run any code. '
            "Save it with PEFT's save_pretrained(..., safe_serialization=True)."
        )
    return folder / TENSORS


def _refused(adapter: Adapter, what: str, expected: object, got: object, remedy: str) -> WaveFTError:
    called = f'adapter "{adapter.source}"' if adapter.source else "adapter"
    return WaveFTError(f"{called}, {what}: expected {expected}, got {got}. {remedy}")
