"""The one bridge to waveft_core: every other file of this package takes its names from here.

Inside ComfyUI the clone is a package whose folder is not on the path, so the core lies beside us in the same package
(and an installed copy of another version must not be taken instead); in a checkout it is a top-level package. Which of
the two holds is decided by our own package's name, never by trying one and falling back.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

try:
    if TYPE_CHECKING or "." not in __package__:
        from waveft_core import (
            SDXL_ATTENTION,
            Adapter,
            WaveFTError,
            combine,
            energy,
            extract_deltas,
            load,
            prune,
            reproject,
            save,
            scale,
            summarize,
        )
        from waveft_core.atoms import wavelets
        from waveft_core.beside import added
        from waveft_core.cli.console import size_text
        from waveft_core.cli.report import as_text
        from waveft_core.container import read_layout
        from waveft_core.errors import listed, nearest
        from waveft_core.file import from_tensors, read_header, write_atomically
        from waveft_core.gradient import Sampler
        from waveft_core.hashes import sha256
        from waveft_core.header import HEADER
        from waveft_core.interop.lora import deltas
        from waveft_core.plan import Plan
        from waveft_core.rounding import rounded_to
        from waveft_core.sources import differences, matches
        from waveft_core.summary import BANDS
    else:
        from ..waveft_core import (
            SDXL_ATTENTION,
            Adapter,
            WaveFTError,
            combine,
            energy,
            extract_deltas,
            load,
            prune,
            reproject,
            save,
            scale,
            summarize,
        )
        from ..waveft_core.atoms import wavelets
        from ..waveft_core.beside import added
        from ..waveft_core.cli.console import size_text
        from ..waveft_core.cli.report import as_text
        from ..waveft_core.container import read_layout
        from ..waveft_core.errors import listed, nearest
        from ..waveft_core.file import from_tensors, read_header, write_atomically
        from ..waveft_core.gradient import Sampler
        from ..waveft_core.hashes import sha256
        from ..waveft_core.header import HEADER
        from ..waveft_core.interop.lora import deltas
        from ..waveft_core.plan import Plan
        from ..waveft_core.rounding import rounded_to
        from ..waveft_core.sources import differences, matches
        from ..waveft_core.summary import BANDS
except ModuleNotFoundError as error:
    if error.name not in {"numpy", "pywt", "safetensors", "torch"}:
        raise
    installer = Path(__file__).resolve().parent.parent / "install.py"
    raise ImportError(
        f'Python package: expected "{error.name}", got none in {sys.prefix}. '
        f'Run: "{sys.executable}" "{installer}", then start ComfyUI again.'
    ) from error

WaveFTError.__module__ = "waveft"  # what ComfyUI's dialog shows; inside it the module's name is a path

__all__ = [
    "BANDS",
    "HEADER",
    "SDXL_ATTENTION",
    "Adapter",
    "Plan",
    "Sampler",
    "WaveFTError",
    "added",
    "as_text",
    "combine",
    "deltas",
    "differences",
    "energy",
    "extract_deltas",
    "from_tensors",
    "listed",
    "load",
    "matches",
    "nearest",
    "prune",
    "read_header",
    "read_layout",
    "reproject",
    "rounded_to",
    "save",
    "scale",
    "sha256",
    "size_text",
    "summarize",
    "wavelets",
    "write_atomically",
]
