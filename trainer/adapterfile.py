"""Writes the trained adapter with its metadata, and reads it back before anyone is told that it is there."""

from __future__ import annotations

from pathlib import Path

import torch

import waveft_core

from . import metadata
from .errors import TrainingStopped
from .files import free_name
from .preflight import Ready

DTYPES = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def save(adapter: waveft_core.Adapter, ready: Ready, steps: int, precision_name: str, prediction: str) -> Path:
    """Returns the path of the file; a run that was stopped early has its step in the name.

    Raises:
        TrainingStopped: it could not be written, or what was read back is not what was written.
    """
    path, dtype = ready.adapter_path, DTYPES[ready.job.save.save_precision]
    if steps < ready.job.train.max_train_steps:
        path = free_name(ready.output(f"-step{steps}.safetensors"))
    path.parent.mkdir(parents=True, exist_ok=True)
    bare = path.with_name(f".{path.name}.tensors.tmp")  # the tensors' hash is part of the metadata
    try:
        waveft_core.save(adapter, bare, dtype=dtype)
        made = metadata.collect(ready, steps, precision_name, prediction, metadata.hash_tensors(bare))
        waveft_core.save(adapter, path, metadata=made, dtype=dtype)
    except (OSError, waveft_core.WaveFTError) as error:
        raise TrainingStopped(f'adapter "{path}": could not be written: {error}') from error
    finally:
        bare.unlink(missing_ok=True)
    verify(adapter, path, dtype)
    return path


def verify(adapter: waveft_core.Adapter, path: Path, dtype: torch.dtype) -> None:
    """Reads the file back; TrainingStopped where a layer is missing or differs."""
    found = waveft_core.load(path)
    same = found.layers.keys() == adapter.layers.keys() and all(
        torch.equal(found.layers[name].values, layer.values.to(dtype).cpu())
        and torch.equal(found.layers[name].indices, layer.indices.cpu())
        for name, layer in adapter.layers.items()
    )
    if not same:
        raise TrainingStopped(
            f'adapter "{path}": expected to read back what was written, got something else. Check the disk.'
        )
