"""What the user is told: a line on the console, and one below the picture."""

from __future__ import annotations

from typing import Any

_SAID: set[str] = set()


def say(text: str) -> None:
    """Prints a line on the console, marked as ours."""
    print(f"[WaveFT] {text}", flush=True)


def say_once(text: str) -> None:
    """Prints a line that would otherwise come with every picture."""
    if text not in _SAID:
        _SAID.add(text)
        say(text)


def tell(processing: Any, text: str) -> None:
    """Prints a line, and shows it below the picture and in the API's `info`, where the picture is known.

    Args:
        processing: the UI's own object of the generation, or None.
    """
    say(text)
    comment = getattr(processing, "comment", None)
    if comment is not None:
        comment(f"WaveFT: {text}")
