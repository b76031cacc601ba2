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
        from waveft_core.packs import *  # noqa: F403  the one list of names is theirs
        from waveft_core.packs import WaveFTError
    else:
        from ..waveft_core.packs import *  # noqa: F403
        from ..waveft_core.packs import WaveFTError
except ModuleNotFoundError as error:
    if error.name not in {"numpy", "pywt", "safetensors", "torch"}:
        raise
    installer = Path(__file__).resolve().parent.parent / "install.py"
    raise ImportError(
        f'Python package: expected "{error.name}", got none in {sys.prefix}. '
        f'Run: "{sys.executable}" "{installer}", then start ComfyUI again.'
    ) from error

WaveFTError.__module__ = "waveft"  # what ComfyUI's dialog shows; inside it the module's name is a path
