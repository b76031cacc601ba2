"""What the trainer says when it cannot go on: a list of faults, or the reason why a run stopped."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable, Sequence

from .plaintext import shown

RELATIVE = "Relative paths are relative to the folder of the job file."  # said where nothing is at a path


class UserError(ValueError):
    """A job that cannot be run, with everything that is wrong with it.

    Attributes:
        problems: one text for each fault, "what, which one: expected X, got Y. Remedy."
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        # names, captions and headers are quoted in them: none may write to the terminal what it likes
        self.problems = list(map(shown, [problems] if isinstance(problems, str) else problems))
        super().__init__("\n".join(self.problems))


class TrainingStopped(RuntimeError):
    """A run that began and had to stop; what it had written stays."""

    def __init__(self, text: str) -> None:
        super().__init__(shown(text))


def not_finite(step: int, loss: float, norm: float, pictures: Sequence[str]) -> str:
    """Returns what is said when a step's numbers break down, with the pictures that it saw."""
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
    return (
        f"step {step}: expected a finite loss and gradient, got {what}, with {', '.join(dict.fromkeys(pictures))}. "
        "The step was not taken. Lower learning_rate or scaling, or use mixed_precision bf16 or no."
    )


def reason(error: BaseException) -> str:
    """Returns the first line of an error's text, or its kind where it has none; a bare key or number with its kind."""
    text = next(iter(str(error).splitlines()), "")
    kind = type(error).__name__
    return kind if not text else f"{kind}: {text}" if isinstance(error, LookupError | ArithmeticError) else text


def traceback_of(error: BaseException) -> str:
    """Returns the traceback of an error that nobody expects, "" of one that its text tells whole.

    What machines, their libraries, disks and jobs raise is told in words. Anything else is a bug, of ours or of a class
    that a job names, and is shown in full.
    """
    first: BaseException = error
    while isinstance(first, TrainingStopped) and first.__cause__ is not None:
        first = first.__cause__
    told = (UserError, TrainingStopped, RuntimeError, OSError, MemoryError)
    # the core's own refusals too, whose class cannot be imported without torch
    if isinstance(first, told) or type(first).__module__.startswith("waveft_core"):
        return ""
    return "".join(traceback.format_exception(error))
