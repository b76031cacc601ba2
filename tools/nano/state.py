"""What an interrupted stage goes on from, and its learning rate's course."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch


def save_atomically(state: dict, path: Path) -> None:
    """Writes `state` so that `path` is always whole: the old one or the new one."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Returns the factor of the learning rate at `step` of `steps`: a linear rise, then a cosine down to 2 percent."""
    rise = min(1.0, (step + 1) / warmup)
    return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0))))
