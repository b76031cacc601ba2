"""What travels on the pack's own wires. ComfyUI keeps these objects between runs, so all of them are immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .api import io
from .core import Adapter

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
