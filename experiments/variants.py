"""A row of an SDXL table: what is trained, at which rates; and the sizes and rates that rows share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.comparison import contestants
from trainer.comparison.contestants import Contestant
from trainer.job.schema import Job

SMALL_P = 205  # the mean over the nano base's layers: LoRA rank 1's budget
FULL_P = 2592
SMALL_RATE, FULL_RATE = 1e-3, 1e-4


@dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        label: as the table calls it.
        method: of [network].
        keys: of [network].
        rates: learning rates.
        base: another base than the job's own.
        weights: file to start from, which settles the method's keys.
    """

    label: str
    method: str
    keys: Mapping[str, Any]
    rates: tuple[float, ...]
    base: str = ""
    weights: str = ""

    @property
    def contestant(self) -> Contestant:
        """The same as the comparison knows it."""
        return Contestant(self.label, self.method, dict(self.keys), self.rates)


def sizes(small: bool) -> tuple[int, float]:
    """Returns p of rank 1's budget and the learning rate of a form."""
    return (SMALL_P, SMALL_RATE) if small else (FULL_P, FULL_RATE)


def default_rates(method: str, keys: Mapping[str, Any], job: Job) -> tuple[float, ...]:
    """Returns the comparison's three rates of a method, which reach about as far as the job's own."""
    own = job.model_dump(exclude_none=True, exclude_unset=True).get("network", {})
    return tuple(contestants.default_rates(method, keys, own, job.optimizer.learning_rate))
