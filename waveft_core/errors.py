"""The one exception of waveft_core, and how its messages list names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


class WaveFTError(ValueError):
    """A refusal: what, which one, what was expected, what it got, and the remedy."""


class Refusal:
    """Makes the errors that speak of one adapter: its file, the layer, what was expected, what it got, the remedy.

    Attributes:
        prefix: the words that name the adapter.
    """

    def __init__(self, source: object = "") -> None:
        self.prefix = f'adapter "{source}", ' if str(source) else "adapter, "

    def __call__(self, layer: str | None, what: str, expected: object, got: object, remedy: str) -> WaveFTError:
        """Returns the error; `layer` is None for what concerns the whole file."""
        place = f'layer "{layer}", ' if layer is not None else ""
        return WaveFTError(f"{self.prefix}{place}{what}: expected {expected}, got {got}. {remedy}")


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Returns up to `limit` names in order, quoted, and how many more there are."""
    names = list(names)
    shown = ", ".join(f'"{name}"' for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def nearest(wanted: str, names: Iterable[str], limit: int = 5) -> list[str]:
    """Returns the `limit` names most like `wanted`, best first; a name's own tail counts as the whole."""

    def likeness(name: str) -> float:
        tail = ".".join(name.split(".")[-(wanted.count(".") + 1) :])
        return max(SequenceMatcher(None, wanted, candidate).ratio() for candidate in (name, tail))

    return sorted(dict.fromkeys(names), key=likeness, reverse=True)[:limit]
