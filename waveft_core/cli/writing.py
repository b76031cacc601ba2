"""A command's new adapter file: whether its name may be had, and what is said of it once it is written."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import WaveFTError, plural
from ..format.adapter import FILE_DTYPES, Adapter
from ..format.disk import exists, is_file, size_of
from ..format.file import save
from ..format.hub import hub_metadata
from ..toolbox.outputs import check_new
from ..toolbox.rounding import rounded_to
from .console import say, size_text


def check_file(out: Path, overwrite: bool) -> None:
    """Refuses a name that a new adapter file must not have.

    Raises:
        WaveFTError: another suffix than .safetensors, which no UI would list; a file that exists; no such folder.
    """
    if out.suffix != ".safetensors":
        raise WaveFTError(f'out "{out}": expected a name that ends in .safetensors, got another. Change it.')
    check_new(out, overwrite)
    if exists(out) and not is_file(out):
        raise WaveFTError(f'out "{out}": expected a file, got something else of that name. Choose another name.')


def write_adapter(adapter: Adapter, out: Path, dtype: torch.dtype) -> None:
    """Writes an adapter, and says so: also what became 0 in `dtype`, and where nothing is left of it."""
    made = rounded_to(adapter, dtype)
    save(made.adapter, out, hub_metadata(made.adapter, dtype), dtype)
    size = size_text(size_of(out) or 0)
    say(f"wrote {out}: {plural(len(adapter.layers), 'layer')}, {plural(count(adapter), 'coefficient')} ({size})")
    if made.vanished:
        say(f"{plural(made.vanished, 'coefficient')} too small for {str(dtype).removeprefix('torch.')}: now 0")
    say_zeros(made.adapter)


def say_zeros(adapter: Adapter) -> None:
    """Says of an adapter without effect that it has none, whichever command it came out of."""
    if not adapter.scaling or not any(bool(layer.values.any()) for layer in adapter.layers.values()):
        say("all of its coefficients are 0: it changes nothing")


def stored_dtype(adapter: Adapter) -> torch.dtype:
    """Returns the dtype to write an adapter's values in: their own where it is one that files hold, else float32."""
    found = {layer.values.dtype for layer in adapter.layers.values()}
    own = found.pop() if len(found) == 1 else torch.float32
    return own if own in FILE_DTYPES else torch.float32


def count(adapter: Adapter) -> int:
    """Returns the number of coefficients of all layers."""
    return sum(layer.values.numel() for layer in adapter.layers.values())
