"""What travels on the pack's own wires. ComfyUI keeps these objects between runs, so all of them are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .api import io
from .core import Adapter, WaveFTError

WAVEFT = io.Custom("WAVEFT")  # a Carried
WAVEFT_FILTER = io.Custom("WAVEFT_FILTER")  # a filters.Filter
WAVEFT_STACK = io.Custom("WAVEFT_STACK")  # a tuple of Row


@dataclass(frozen=True)
class Carried:
    """An adapter on its way through a graph.

    Attributes:
        title: what messages and reports call it: its file's name, or what was done.
        origin: where it came from, as JSON: `{"file", "sha256"}`, or what a node made of others (recipe.py).
    """

    adapter: Adapter
    title: str
    origin: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One row of a stack."""

    carried: Carried
    strength: float


def present(id: str, value: Any) -> None:
    """Refuses an input that is there and empty: what a switch or a bypassed node hands on.

    Raises:
        WaveFTError: it is None.
    """
    if value is None:
        raise WaveFTError(
            f"{id}: expected something connected, got nothing from the node before it. Is that one bypassed or muted?"
        )
