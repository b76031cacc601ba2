"""Which trainings are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

# Learning rates by c, of uniform positions and of chosen ones: tried to cover the same drifts, which chosen positions
# reach at a third of the rate.
RATES: dict[float, tuple[tuple[float, ...], tuple[float, ...]]] = {
    0.03: ((1e-3, 3e-3), (3e-4, 1e-3)),
    0.1: ((3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3)),
    0.3: ((2e-4, 6e-4), (1e-4, 4e-4)),
    1: ((1e-4, 3e-4, 1e-3), (3e-5, 1e-4, 3e-4)),
    3: ((3e-5, 1e-4), (1.5e-5, 6e-5)),
}


@dataclass(frozen=True)
class Run:
    """One training.

    `arm` is "uniform", or "gradient", "squares" or "across" with the number of candidates for each coefficient.
    """

    subject: str
    c: float
    arm: str
    rate: float
    seed: int
    wavelet: str = "db1"

    @property
    def name(self) -> str:
        """A file's name for it."""
        arm = self.arm.replace(" ", "")
        return f"{self.subject}-{self.c}-{self.wavelet}-{arm}-{self.rate}-{self.seed}"


def grid(photos: list[str]) -> list[Run]:
    """Returns every run, the most telling first: a shortage of time costs seeds and side questions, not the middle."""
    core = ["robot", "totem", *photos[:1]]
    runs: list[Run] = []

    def add(cs: Iterable[float], arms: Iterable[str], seeds: Iterable[int], subjects: list[str], **more: str) -> None:
        for c, seed, subject, arm in itertools.product(cs, seeds, subjects, arms):
            rates = RATES[c][arm != "uniform"]
            if more or arm not in both:
                rates = rates[-2:]  # side questions
            runs.extend(Run(subject, c, arm, rate, seed, **more) for rate in rates)

    both = ("uniform", "gradient 16")
    others = ("gradient 64", "across 16", "squares 16")
    add((0.1, 1), both, (0, 1), core)
    add((0.3, 0.03, 3), both, (0,), core)
    add((0.1,), others, (0,), core)
    add((0.1,), both, (0,), core, wavelet="identity")
    add((0.1, 1), both, (2,), core)
    add((0.3, 0.03, 3), both, (1,), core)
    add((0.1, 1), both, (0,), photos[1:])
    add((0.1,), others, (1,), core)
    add((0.1, 1), both, (3, 4), core)
    add((0.3, 0.03, 3), both, (2, 3, 4), core)
    return list(dict.fromkeys(runs))
