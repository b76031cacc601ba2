"""The one bridge to waveft_core: every other file of this package takes its names from here.

The core must be the clone's own: a copy of another version that is installed beside the UI would be taken first where
another extension put its folder first.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the clone

try:
    import waveft_core
    from waveft_core.packs import *  # noqa: F403  the one list of names is theirs
    from waveft_core.packs import WaveFTError
except ModuleNotFoundError as error:
    if error.name not in {"numpy", "pywt", "safetensors", "torch"}:
        raise
    raise ImportError(
        f'Python package: expected "{error.name}", got none in {sys.prefix}. '
        f'Run: "{sys.executable}" "{ROOT / "install.py"}", then start the UI again.'
    ) from error

_found = Path(waveft_core.__file__).resolve().parent.parent
if _found != ROOT:
    raise ImportError(
        f'waveft_core: expected the extension\'s own in "{ROOT}", got another in "{_found}". '
        "Remove that one (pip uninstall waveft), or the second copy of this extension, and start the UI again."
    )

WaveFTError.__module__ = "waveft"  # what tracebacks show
