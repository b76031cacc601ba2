"""Every random draw of a run, as a pure function of the seed, what it is for, and where in the run it falls.

Nothing reads or moves a global random state, so that sampling, caching and resuming cannot change what is trained.
A picture's draw is named by its optimizer step and its index in that step's global batch: how the batch is split over
micro batches or processes does not matter.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def integer(seed: int, purpose: str, *position: int) -> int:
    """Returns a number in [0, 2**63) that depends on the arguments alone."""
    text = ":".join((str(seed), purpose, *map(str, position)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uniform(seed: int, purpose: str, *position: int) -> float:
    """Returns a number in [0, 1)."""
    return (integer(seed, purpose, *position) >> 10) / 2**53


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """Returns a CPU generator; the same draws are made whatever device trains."""
    import torch  # here, so that the epochs' order and the captions can be planned without it

    return torch.Generator("cpu").manual_seed(integer(seed, purpose, *position))
