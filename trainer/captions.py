"""A picture's caption, from its file or its class tokens to the text that is encoded."""

from __future__ import annotations

TRIGGERS = ("{trigger}", "[trigger]")


def has_trigger(text: str) -> bool:
    """Returns whether the text asks for the job's trigger phrase."""
    return any(mark in text for mark in TRIGGERS)


def fill_trigger(text: str, trigger: str) -> str:
    """Returns the text with `{trigger}` and `[trigger]` replaced by the trigger phrase."""
    for mark in TRIGGERS:
        text = text.replace(mark, trigger)
    return text


def compose(text: str, prefix: str, suffix: str, trigger: str) -> str:
    """Returns the final caption: prefix, text and suffix as they are, line breaks and runs of blanks made one blank."""
    return " ".join(fill_trigger(f"{prefix}{text}{suffix}", trigger).split())
