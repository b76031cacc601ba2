"""Which picture is seen when: arithmetic from the step, so that any step can be planned without the ones before it."""

from __future__ import annotations

from functools import lru_cache

from . import rng


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> tuple[int, ...]:
    """Returns the numbers 0 .. count - 1 in the order of that epoch."""
    return tuple(sorted(range(count), key=lambda index: (rng.integer(seed, "order", epoch, index), index)))


def picture(seed: int, position: int, count: int) -> int:
    """Returns which of `count` pictures is the `position`-th that the run sees, counted over all epochs from 0."""
    epoch, place = divmod(position, count)
    return epoch_order(seed, epoch, count)[place]


def micro_batch(seed: int, step: int, micro: int, size: int, accumulation: int, count: int) -> list[tuple[int, int]]:
    """Returns (place in the optimizer step's global batch, which of `count` pictures) of one micro batch.

    It is a function of its arguments alone, and who is seen in a step does not depend on how the step is split.
    """
    places = range(micro * size, (micro + 1) * size)
    return [(place, picture(seed, step * size * accumulation + place, count)) for place in places]
