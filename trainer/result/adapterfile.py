"""Writes the trained adapter with its metadata, and reads it back before anyone is told that it is there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

import waveft_core

from ..base.models import Base
from ..preflight.preflight import Ready
from ..system.console import say
from ..system.errors import TrainingStopped
from ..system.files import free_name
from . import metadata

DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def save(adapter: waveft_core.Adapter, path: Path, ready: Ready, steps: int, precision_name: str, base: Base) -> Path:
    """Writes the adapter as it is after `steps` optimizer steps, and returns `path`.

    Args:
        adapter: what is written, the values of the running mean where the job has one.
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
        waveft_core.save(adapter, bare, dtype=dtype)
        made = metadata.collect(adapter, ready, steps, precision_name, base, metadata.hash_tensors(bare))
        waveft_core.save(adapter, path, metadata=made, dtype=dtype)
        verify(adapter, path, dtype)
    except BaseException as error:  # whatever it is, hours of training must not be lost to it
        kept = rescue(adapter, bare, path)
        where = f'What was trained is in "{kept}", without metadata.' if kept else "Nothing could be written."
        if not isinstance(error, Exception):
            say(where)
            raise
        raise TrainingStopped(f'adapter "{path}": could not be written and checked: {error} {where}') from error
    with contextlib.suppress(OSError):  # the adapter is whole: a hidden file beside it harms nobody
        bare.unlink()
    return path


def rescue(adapter: waveft_core.Adapter, bare: Path, path: Path) -> Path | None:
    """Returns the visible file that the tensors are in after a failure, written as fp32 where there was none yet.

    None where nothing at all can be written.
    """
    visible = free_name(path.with_name(f"{path.stem}-tensors.safetensors"))
    try:
        if bare.exists():
            return bare.replace(visible)
        waveft_core.save(adapter, visible)
    except (OSError, RuntimeError, waveft_core.WaveFTError):
        return bare if bare.exists() else None
    return visible


def verify(adapter: waveft_core.Adapter, path: Path, dtype: torch.dtype) -> None:
    """Reads the file back; TrainingStopped where a layer is missing or differs."""
    found = waveft_core.load(path)
    same = (
        found.header == adapter.header
        and found.layers.keys() == adapter.layers.keys()
        and all(
            torch.equal(found.layers[name].values, layer.values.to(dtype).cpu())
            and torch.equal(found.layers[name].indices, layer.indices.cpu())
            and tuple(found.layers[name].shape) == tuple(layer.shape)
            for name, layer in adapter.layers.items()
        )
    )
    if not same:
        raise TrainingStopped(
            f'adapter "{path}": expected to read back what was written, got something else. Check the disk.'
        )
