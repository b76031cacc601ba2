"""Writes the trained adapter with its metadata, and reads it back before anyone is told that it is there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from waveft_core.format.container import read_layout

from ..base.models import Base
from ..methods.tuning import Product
from ..preflight.preflight import Ready
from ..run.runfolder import ADAPTER
from ..system.console import say
from ..system.errors import TrainingStopped
from ..system.files import free_name
from . import metadata, rescue

PEFT, DIFF = "-peft", f"-diff{ADAPTER}"  # ends of names
OF_THE_FILE = ("sshs_", "modelspec.hash", "modelspec.usage", "waveft")  # metadata that say nothing of another file
DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def save(product: Product, path: Path, ready: Ready, steps: int, precision_name: str, base: Base) -> Path:
    """Writes the adapter as it is after `steps` optimizer steps, and returns `path`.

    Args:
        product: what is written, the values of the running mean where the job has one.
        path: the run's own file or a checkpoint's; what is there is replaced.
        ready: the checked job.
        steps: optimizer steps done.
        precision_name: what the base computed in: "no", "fp16" or "bf16".
        base: that it was trained on.

    Raises:
        TrainingStopped: it could not be written, or what was read back is not what was written. The message names
            the file that the tensors are in all the same.
    """
    dtype = DTYPES[ready.job.save.save_precision]
    bare = path.with_name(f".{path.name}.tensors.tmp")  # the tensors' hash is part of the metadata
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bare.unlink(missing_ok=True)  # of a run that was killed: it must not pass for this one's
        product.save(bare, dtype)
        made = metadata.collect(product, ready, steps, precision_name, base, metadata.hash_tensors(bare))
        product.save(path, dtype, made)
        verify(product, path, dtype)
    except BaseException as error:  # whatever it is, hours of training must not be lost to it
        kept = rescued(product, bare, path, ready)
        where = f'What was trained is in "{kept}", without metadata.' if kept else "Nothing could be written."
        if not isinstance(error, Exception):
            say(where)
            raise
        raise TrainingStopped(f'adapter "{path}": could not be written and checked: {error} {where}') from error
    with contextlib.suppress(OSError):  # the adapter is whole: a hidden file beside it harms nobody
        bare.unlink()
    return path


def export(product: Product, ready: Ready) -> list[Path]:
    """Writes what else the finished adapter goes into: HF PEFT's folder, whole differences; returns the files.

    Args:
        product: as `save` wrote it into the run's own file, whose metadata are carried over.
        ready: the checked job.

    Raises:
        WaveFTError, OSError: something could not be written; the adapter itself stands.
    """
    folder = ready.folder
    written = product.save_folders(folder.output(PEFT))
    if ready.job.save.save_diff:
        _, strings = read_layout(folder.adapter)
        carried = {key: value for key, value in strings.items() if not key.startswith(OF_THE_FILE)}
        if kind := carried.get("modelspec.architecture"):
            carried["modelspec.architecture"] = f"{kind.rpartition('/')[0]}/lora"  # the word that the UIs know
        dtype = DTYPES[ready.job.save.save_precision]
        product.save_diff(folder.output(DIFF), dtype, carried)
        written.append(folder.output(DIFF))
    return written


def rescued(product: Product, bare: Path, path: Path, ready: Ready) -> Path | None:
    """Returns the visible file that the tensors are in after a failure, written as fp32 where there was none yet.

    None where nothing at all can be written, in this folder or another.
    """
    with contextlib.suppress(OSError):
        if bare.is_file():
            return bare.replace(free_name(path.with_name(f"{path.stem}-tensors.safetensors")))
    ending = f"{path.stem.removeprefix(ready.folder.name)}-tensors.safetensors"
    kept = rescue.elsewhere(ready, ending, lambda place: product.save(place, torch.float32))
    return kept or (bare if bare.is_file() else None)


def verify(product: Product, path: Path, dtype: torch.dtype) -> None:
    """Reads the file back; TrainingStopped where a layer is missing or differs."""
    if not product.is_in(path, dtype):
        raise TrainingStopped(
            f'adapter "{path}": expected to read back what was written, got something else. Check the disk.'
        )
