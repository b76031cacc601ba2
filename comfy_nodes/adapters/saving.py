"""What Save WaveFT does: an adapter in a new file, with what it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from .. import folders, models
from ..core import hub_metadata, rounded_to, size_text
from ..core import save as write
from ..sockets import Carried
from . import describe, recipe

_TITLE = "modelspec.title"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save(
    carried: Carried, path: Path, dtype: str, note: str, graph: Mapping[str, str], remarks: Sequence[str] = ()
) -> str:
    """Writes the adapter, whole or not at all, and returns a report.

    Args:
        path: of a file that is not there yet.
        note: a description for its metadata; empty to keep the one that the adapter has.
        graph: what its metadata are to say of the graph.
        remarks: lines for the report.

    Raises:
        WaveFTError: a value that the dtype cannot hold.
    """
    made = rounded_to(carried.adapter, DTYPES[dtype])
    metadata = {**recipe.as_metadata(carried), **graph}
    if "of" in carried.origin or "combined" in carried.origin or _TITLE not in metadata:
        metadata[_TITLE] = path.stem  # what was changed is not what the old title stands for
    if note.strip():
        metadata["modelspec.description"] = note.strip()
    adapter = replace(made.adapter, metadata=metadata, source="")
    write(adapter, path, hub_metadata(adapter, DTYPES[dtype]), DTYPES[dtype])
    lines = [
        f"saved {carried.title}",
        f"to {models.in_output(path)} ({size_text(path.stat().st_size)})",
        f"{describe.plural(len(adapter.layers), 'layer')}, {describe.basis(adapter)}",
    ]
    if made.error:
        lines.append(f"rounded to {dtype}: relative error {made.error:.2g}")
    if made.vanished:
        lines.append(f"{describe.plural(made.vanished, 'coefficient')} too small for {dtype} became 0")
    lines += remarks
    lines.append(f"sha256 {folders.sha256(path)}")
    return "\n".join((*lines, "made of", *(f"  {line}" for line in recipe.lines(carried.origin))))
