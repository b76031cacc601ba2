"""What the trainer says when it cannot go on: a list of faults, or the reason why a run stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """A job that cannot be run, with everything that is wrong with it.

    Attributes:
        problems: one text for each fault, "what, which one: expected X, got Y. Remedy."
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class TrainingStopped(RuntimeError):
    """A run that began and had to stop; what it had written stays."""


def not_finite(step: int, loss: float, norm: float, pictures: Sequence[str]) -> str:
    """Returns what is said when a step's numbers break down, with the pictures that it saw."""
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
    return (
        f"step {step}: expected a finite loss and gradient, got {what}, with {', '.join(dict.fromkeys(pictures))}. "
        "The step was not taken. Lower learning_rate or scaling, or use mixed_precision bf16 or no."
    )


def reason(error: Exception) -> str:
    """Returns the first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
