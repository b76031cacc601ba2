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
        from waveft_core import Adapter, WaveFTError, combine, energy, load, prune, reproject, save, scale
        from waveft_core.errors import listed, nearest
        from waveft_core.file import from_tensors, read_header
        from waveft_core.plan import Plan
        from waveft_core.summary import BANDS
    else:
        from ..waveft_core import Adapter, WaveFTError, combine, energy, load, prune, reproject, save, scale
        from ..waveft_core.errors import listed, nearest
        from ..waveft_core.file import from_tensors, read_header
        from ..waveft_core.plan import Plan
        from ..waveft_core.summary import BANDS
except ModuleNotFoundError as error:
    if error.name not in {"numpy", "pywt", "safetensors", "torch"}:
        raise
    installer = Path(__file__).resolve().parent.parent / "install.py"
    raise ImportError(
        f'Python package: expected "{error.name}", got none in {sys.prefix}. '
        f'Run: "{sys.executable}" "{installer}", then start ComfyUI again.'
    ) from error

__all__ = [
    "BANDS",
    "Adapter",
    "Plan",
    "WaveFTError",
    "combine",
    "energy",
    "from_tensors",
    "listed",
    "load",
    "nearest",
    "prune",
    "read_header",
    "reproject",
    "save",
    "scale",
]
