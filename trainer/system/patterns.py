"""A job's regular expressions: jobs are shared, so they are searched for by the core's engine, in bounded time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from waveft_core.pattern import Pattern


def pattern(expression: str) -> Pattern:
    """Returns a regular expression, compiled once.

    Raises:
        WaveFTError, a ValueError: it is none, or one that cannot be searched for in bounded time.
    """
    from waveft_core.pattern import compile_pattern  # imports torch, which jobs without patterns are checked without

    return compile_pattern(expression, "expression")
