"""Merges adapters into a base model's files, tensor by tensor: memory for the largest tensor, never for the checkpoint.

Every tensor that no adapter touches is copied byte for byte, in its place; a touched weight is

    round(W0 + sum over adapters of scaling * strength * IDWT(C))

in float32, rounded once, through the same ledger as a merge in memory.  All names and shapes are checked before the
first byte is written, and nothing stands at the target until all of it is on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..basis.places import same_bits
from ..basis.plan import arithmetic_dtype
from ..basis.planning import make_plan
from ..errors import Refusal, WaveFTError, listed
from ..format.adapter import Adapter, check_pairs
from ..format.container import PIECE_BYTES, Entry, read_tensor, write_container
from ..format.disk import files_below, is_file, is_folder, opened, resolved, size_of
from ..format.header import is_finite
from ..format.layout import Stored
from ..format.wholefile import check_name
from ..update.active import Update
from ..update.ledger import ledger_of, refuse_overflow
from ..update.storage import WEIGHT_DTYPES
from .outputs import check_target, copy_file, replacing_folder, tree_of
from .weights import Slot, Weights

MERGED = "waveft.merged"  # metadata: a JSON list of what was merged, oldest first

Progress = Callable[[int, int], None]
Parts = Sequence[tuple[Adapter, float]]
Shares = dict[
    str, list[tuple[Slot, list[tuple[Adapter, float]]]]
]  # by tensor name: the weights in it, and what is added


@dataclass(frozen=True)
class Written:
    """What a merge wrote.

    Attributes:
        path: the new file or folder.
        size: bytes.
        layers: how many weights were changed: a strength of 0, or an update that the dtype rounds away, changes none.
        touched: how many weights the adapters are for.
        left_out: files of the base's folder that were not copied: the unmerged weights in another form, and the README
            and pictures that present the unmerged model.
    """

    path: Path
    size: int
    layers: int
    touched: int
    left_out: tuple[str, ...] = ()


def merge_files(
    base: str | os.PathLike[str],
    adapters: Parts,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Writes the base model with the adapters in it, whole or not at all: a file for a file, a folder for a folder.

    Args:
        base: a `.safetensors` file or a diffusers folder.
        adapters: adapters and their strengths, `[(load("a.safetensors"), 0.8), ...]`; several on one weight are
            summed before it is rounded.
        out: the new file or folder. What was merged is added to its metadata, under `waveft.merged`.
        overwrite: whether `out` may exist.
        progress: told the bytes written since the last call, and the bytes in all.

    Raises:
        WaveFTError: before anything is written: a layer that the base lacks or of another shape, a base that stores
            its weights scaled, an `out` that exists or is the base, or too little space; later: a merged weight that is
            not finite. Nothing is left at `out` then.
        OSError: it cannot be written; what was at `out` stands.
    """
    check_pairs(adapters)
    weights, out = Weights.open(base), Path(out)
    adapters = list(adapters)
    _check_parts(adapters, out)
    placed = _resolve(weights, adapters)
    notes = _Notes(adapters)
    layers = sum(len(held) for shares in placed.values() for held in shares.values())
    if is_folder(weights.path):
        size, left_out = _write_folder(weights, placed, notes, out, overwrite, progress)
        return Written(out, size, len(notes.changed), layers, left_out)
    total = size_of(weights.path) or 0
    check_target(weights.path, out, total, overwrite)
    _write_file(weights, weights.path, placed[weights.path], notes, out, _counted(progress, total))
    return Written(out, size_of(out) or 0, len(notes.changed), layers)


def _check_parts(adapters: Parts, out: Path) -> None:
    check_name(out)
    if not adapters:
        raise WaveFTError("adapters: expected at least one, got none. Give some.")
    for adapter, strength in adapters:
        if isinstance(strength, bool) or not isinstance(strength, int | float) or not is_finite(strength):
            raise Refusal(adapter.source)(None, "strength", "a finite number", repr(strength), "Give, say, 1.")
        if adapter.source and resolved(adapter.source) == resolved(out):
            raise WaveFTError(f'out "{out}": expected another place than the adapters, got one. Choose a new name.')


def _resolve(weights: Weights, adapters: Parts) -> dict[Path, Shares]:
    """Returns, for each file of the base, its touched tensors; refuses an adapter that does not fit whole."""
    slots: dict[str, Slot] = {}
    parts: dict[str, list[tuple[Adapter, float]]] = {}
    for adapter, strength in adapters:
        fail = Refusal(adapter.source)
        _check_names(weights, adapter, fail)
        for name, layer in adapter.layers.items():
            slot = slots[name] = weights.slot(name)
            if slot.shape != layer.shape:
                expected, got, remedy = list(layer.shape), list(slot.shape), "The file was trained for another model."
                raise fail(name, f'weight "{slot.key}"', expected, got, remedy)
            if slot.dtype not in WEIGHT_DTYPES:
                held = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHT_DTYPES)
                raise fail(name, f'weight "{slot.key}"', held, slot.dtype, "Use an unquantised base.")
            parts.setdefault(name, []).append((adapter, strength))
    found: dict[Path, Shares] = {}
    for name, slot in slots.items():
        found.setdefault(slot.file, {}).setdefault(slot.key, []).append((slot, parts[name]))
    return found


def _check_names(weights: Weights, adapter: Adapter, fail: Refusal) -> None:
    missing = [name for name in adapter.layers if name not in weights.slots]
    if not missing:
        return
    said = adapter.metadata
    trained = said.get("modelspec.architecture") or said.get("ss_base_model_version") or "unknown"
    unread = f" Its folders {listed(weights.unread)} hold no safetensors files and were not read." * bool(
        weights.unread
    )
    raise fail(
        None,
        f"{len(missing)} of {len(adapter.layers)} layers",
        f'layers that "{weights.path}" has',
        f"none of the names {listed(missing)}",
        f"The file was trained for: {trained}. Merge it into that model.{unread}",
    )


class _Notes:
    """What the metadata say of the adapters that were merged.

    Attributes:
        changed: the layers whose weights differ from the base's, as they are written.
    """

    def __init__(self, adapters: Parts) -> None:
        self.changed: set[str] = set()
        self._said = [
            (
                adapter,
                {
                    "name": Path(adapter.source).stem or "adapter",
                    "strength": strength,
                    "sha256": _hash(adapter),
                    "wavelet": adapter.wavelet,
                    "scaling": adapter.scaling,
                },
            )
            for adapter, strength in adapters
        ]

    def over(self, metadata: Mapping[str, str], names: set[str]) -> dict[str, str]:
        """Returns a file's metadata with the adapters that changed it, `names` being the layers that it holds."""
        before: list[object] = []
        if MERGED in metadata:
            try:
                held = json.loads(metadata[MERGED])
            except ValueError:
                held = metadata[MERGED]  # not ours to judge: kept as it is
            before = held if isinstance(held, list) else [held]
        counted = [(len(names & adapter.layers.keys()), said) for adapter, said in self._said]
        now = [{**said, "layers": count} for count, said in counted if count]
        return {**metadata, MERGED: json.dumps([*before, *now], sort_keys=True, ensure_ascii=False)}


def _hash(adapter: Adapter) -> str:
    """Returns the sha256 of the adapter's file, or of its header and coefficients where it has none."""
    digest = hashlib.sha256()
    if adapter.source and is_file(adapter.source):
        with opened(adapter.source) as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()
    digest.update(adapter.header.to_json().encode())
    for name, layer in adapter.layers.items():
        digest.update(f"{name} {list(layer.shape)}".encode())
        digest.update(layer.indices.cpu().numpy().tobytes())
        digest.update(layer.values.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def _write_file(
    weights: Weights, file: Path, shares: Shares, notes: _Notes, out: Path, progress: Callable[[int], None]
) -> None:
    """Writes one file of the base anew, its touched tensors merged as their turn comes."""
    layout, metadata = weights.files[file]
    entries = [
        Entry.of(key, shares[key][0][0].dtype, stored.shape, _maker(file, stored, shares[key], notes.changed))
        if key in shares
        else Entry.copied(key, stored, file)
        for key, stored in layout.items()
    ]
    names = {slot.name for held in shares.values() for slot, _ in held}
    write_container(out, entries, notes.over(metadata, names), progress)


def _maker(
    file: Path, stored: Stored, shares: list[tuple[Slot, list[tuple[Adapter, float]]]], changed: set[str]
) -> Callable[[], Tensor]:
    """Returns what reads a tensor and merges its weights; it adds the names of those that differ then to `changed`."""

    def make() -> Tensor:
        tensor = read_tensor(file, stored)
        for slot, parts in shares:
            weight = tensor if slot.rows is None else tensor[slot.rows[0] : slot.rows[1]]
            ledger = ledger_of(weight, slot.name)
            for adapter, strength in parts:
                layer = adapter.layers[slot.name]
                wide = arithmetic_dtype(weight.dtype)
                plan = make_plan(adapter.wavelet, adapter.mode, layer.shape, layer.indices, wide)
                ledger.add(Update(slot.name, plan, layer.values, adapter.scaling * strength))
            refuse_overflow([ledger])
            if not same_bits(ledger.written, ledger.originals):
                changed.add(slot.name)
        return tensor

    return make


def _write_folder(
    weights: Weights,
    placed: Mapping[Path, Shares],
    notes: _Notes,
    out: Path,
    overwrite: bool,
    progress: Progress | None,
) -> tuple[int, tuple[str, ...]]:
    """Writes the base's folder anew; returns its bytes, and the names of the files that were left out."""
    touched = {file.parent for file in placed}
    files, left_out = tree_of(weights.path, set(weights.files), touched)
    total = sum(size_of(file) or 0 for file in files)
    check_target(weights.path, out, total, overwrite)
    tell = _counted(progress, total)
    with replacing_folder(out) as made:
        for file in files:
            place = made / file.relative_to(weights.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            if file in placed:
                _write_file(weights, file, placed[file], notes, place, tell)
            else:
                copy_file(file, place, tell)
        size = sum(size_of(file) or 0 for file in files_below(made))
    return size, tuple(str(file.relative_to(weights.path)) for file in left_out)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    return (lambda size: None) if progress is None else (lambda size: progress(size, total))
