"""Which torch trains. What loads, merges and computes with adapters runs on older ones: pyproject.toml says from where.

A web UI keeps the torch that it was made with for years, and must be able to use an adapter all the same.
"""

from __future__ import annotations

import re

import torch

from .errors import WaveFTError

OLDEST_TO_TRAIN = (2, 8)  # the hooks on state dicts and the compiled graphs' operator; pyproject.toml's `train` says so


def check_torch_trains(version: str = torch.__version__) -> None:
    """Refuses to train on a torch that is too old for it.

    Args:
        version: of torch.

    Raises:
        WaveFTError: saying what it can be used for.
    """
    found = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if found < OLDEST_TO_TRAIN:
        expected = ".".join(map(str, OLDEST_TO_TRAIN))
        raise WaveFTError(
            f"training: expected torch {expected} or newer, got {version}, on which adapters are loaded, merged, "
            "combined and extracted, but not trained or run beside quantised layers. Train in an environment of its "
            "own: `python3 start.py train JOB.toml` makes one."
        )
