"""Which pictures are kept out of training, by their content: copies are on one side, whatever their name."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..system import rng
from ..system.console import counted
from .subsets import Remarks


class Share(NamedTuple):
    """A dataset's part of the validation.

    Attributes:
        where: the table that says it, for messages.
        part: of its pictures that is kept out.
        seed: of which they are.
        digests: of its pictures that may be.
    """

    where: str
    part: float
    seed: int
    digests: Collection[str]


def held_out(shares: Sequence[Share], always_trained: Collection[str], remarks: Remarks) -> set[str]:
    """Returns the digests of the pictures that no dataset trains, whichever of them asked for it.

    Every dataset keeps at least one to train. What is in `always_trained`, the regularisation pictures, is never out.
    """
    held: set[str] = set()
    for share in shares:
        free = ranked(share, set(share.digests) - set(always_trained))
        count = min(math.floor(share.part * len(free) + 0.5), len(free) - 1)
        if share.part and count < 1:
            remarks.notices.append(too_few(share, len(free)))
        held |= set(free[: max(count, 0)])
    for share in shares:
        if share.digests and held.issuperset(share.digests):  # others took the rest of them
            held.discard(ranked(share, set(share.digests))[-1])
    if any(share.part for share in shares) and not held:
        remarks.problems.append(
            f"{next(share.where for share in shares if share.part)} validation_split: expected at least one picture "
            "to be kept out of training, got none. Write more, or 0."
        )
    return held


def ranked(share: Share, digests: set[str]) -> list[str]:
    """Returns the digests in an order that depends on each of them and the seed alone."""
    return sorted(digests, key=lambda digest: (rng.integer(share.seed, "validation split", int(digest, 16)), digest))


def too_few(share: Share, count: int) -> str:
    """Returns why a dataset keeps none out."""
    what = f"{share.where} validation_split"
    if count < 2:
        return f"{what}: the dataset has {counted(count, 'picture')} that may be kept out, and one must stay: none is"
    return (
        f"{what}: {share.part:g} of {counted(count, 'picture')} is none; {math.ceil(100 / count) / 100:g} would be one"
    )
