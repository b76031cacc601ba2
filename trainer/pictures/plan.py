"""Which pictures are seen when: a function of the seed and the pictures, so that any step can be planned by itself.

An epoch is every picture, as often as its repeats say, in a new order, and with them as many regularisation pictures
as there are others. Pictures wait for their like (same dataset, same bucket) until a batch is full; who still waits
when an epoch ends goes into the next one's batches. So every batch is full and every picture is seen equally often.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from ..system import rng
from .dataset import Picture


class Seen(NamedTuple):
    """One view of a batch: which picture, and in which epoch its turn came, both counted from 0."""

    picture: int
    epoch: int


class Plan:
    """The batches of a run, counted from 0 over all epochs and processes.

    Args:
        pictures: all that are trained, regularisation pictures among them.
        batch_size: dataset number -> pictures at a time.
        seed: the run's.
    """

    def __init__(self, pictures: Sequence[Picture], batch_size: Callable[[int], int], seed: int) -> None:
        self.seed = seed
        self._keys: list[Hashable] = [(picture.dataset, picture.geometry.bucket) for picture in pictures]
        self._sizes = [batch_size(picture.dataset) for picture in pictures]
        self._ours: list[int] = []
        self._regular: dict[int, list[int]] = {}  # dataset -> its regularisation pictures
        for number, picture in enumerate(pictures):
            chosen = self._regular.setdefault(picture.dataset, []) if picture.is_reg else self._ours
            chosen += [number] * picture.repeats
        own = [pictures[number].dataset for number in self._ours]
        self._slots = {dataset: own.count(dataset) for dataset in self._regular}  # regularisation views an epoch
        self._batches: list[tuple[Seen, ...]] = []
        self._ends: list[int] = []  # batches made by the end of each epoch
        self._waiting: dict[Hashable, list[Seen]] = {}

    @property
    def views(self) -> int:
        """Pictures seen in one epoch, repeats and regularisation pictures among them."""
        return len(self._ours) + sum(self._slots.values())

    @property
    def regular_views(self) -> int:
        """How many of an epoch's views are regularisation pictures."""
        return sum(self._slots.values())

    def batch(self, number: int) -> tuple[Seen, ...]:
        """Returns the batch of that number: views of one dataset and one bucket."""
        while len(self._batches) <= number:
            self._make_epoch()
        return self._batches[number]

    def batches(self, epochs: int) -> int:
        """Returns how many batches are full by the end of that many epochs."""
        if not any(self._regular.values()):  # then each epoch sees the same: they are counted, not made
            views = Counter(self._keys[picture] for picture in self._ours)
            sizes = {self._keys[picture]: self._sizes[picture] for picture in self._ours}
            return sum(epochs * count // sizes[key] for key, count in views.items())
        while len(self._ends) < epochs:
            self._make_epoch()
        return self._ends[epochs - 1] if epochs else 0

    def epochs(self, batches: int) -> int:
        """Returns how many epochs are over after that many batches."""
        while not self._ends or self._ends[-1] <= batches:
            self._make_epoch()
        return bisect_right(self._ends, batches)

    def _make_epoch(self) -> None:
        epoch = len(self._ends)
        for picture in shuffled(self.seed, "order", epoch, self._ours + self._regular_turn(epoch)):
            waiting = self._waiting.setdefault(self._keys[picture], [])
            waiting.append(Seen(picture, epoch))
            if len(waiting) == self._sizes[picture]:
                self._batches.append(tuple(waiting))
                waiting.clear()
        self._ends.append(len(self._batches))

    def _regular_turn(self, epoch: int) -> list[int]:
        """Returns the epoch's regularisation pictures: the next of an endless row in which all take turns."""
        turn = []
        for dataset, pictures in self._regular.items():
            for place in range(epoch * self._slots[dataset], (epoch + 1) * self._slots[dataset]):
                cycle, rest = divmod(place, len(pictures))
                turn.append(shuffled(self.seed, f"regular {dataset}", cycle, pictures)[rest])
        return turn


def shuffled(seed: int, purpose: str, number: int, items: Sequence[int]) -> list[int]:
    """Returns the items in the order of that number."""
    places = sorted(range(len(items)), key=lambda place: (rng.integer(seed, purpose, number, place), place))
    return [items[place] for place in places]


class Micro(NamedTuple):
    """One process's share of an optimizer step: a batch, and where it lies in the step's global batch.

    Attributes:
        views: of the batch.
        first: place of its first view in the step's global batch.
        total: views of the whole global batch.
    """

    views: tuple[Seen, ...]
    first: int
    total: int


def micro_batches(plan: Plan, step: int, accumulation: int, rank: int, world_size: int) -> list[Micro]:
    """Returns what one process does in optimizer step `step`, counted from 0.

    The step's batches, `accumulation * world_size` of them, are dealt to the processes in turn: the same batches make
    the step however many processes share them.
    """
    count = accumulation * world_size
    batches = [plan.batch(number) for number in range(step * count, (step + 1) * count)]
    firsts = [sum(map(len, batches[:number])) for number in range(count)]
    total = sum(map(len, batches))
    return [Micro(batches[number], firsts[number], total) for number in range(rank, count, world_size)]
