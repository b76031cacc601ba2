"""Lines that messages ask for: another word of this program, or an installation, whole as they run here."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

PROGRAM = "WAVEFT_PROGRAM"  # environment variable: how the program was called, "waveft" or "python3 start.py"


def program() -> str:
    """Returns how the program was called, as a message that names one of its words begins."""
    return os.environ.get(PROGRAM, "python -m waveft")


def line(words: Sequence[str]) -> str:
    """Returns words as one line for this system's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def install(*packages: str) -> str:
    """Returns the line that installs packages for the Python that runs."""
    return line([sys.executable, "-m", "pip", "install", *packages])
