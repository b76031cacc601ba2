"""WaveFT's axes of the script "X/Y/Z plot": strength, multipliers, and which layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from . import tags
from .core import compiled

MARK = "[WaveFT] "


def add(scripts_data: Iterable[Any]) -> bool:
    """Adds our axes to the UI's script, in place of those that were there before; False where it has none.

    Args:
        scripts_data: the UI's list of scripts, each with its module.
    """
    modules = [data.module for data in scripts_data if hasattr(data.module, "axis_options")]
    for module in modules:
        others = [option for option in module.axis_options if not str(option.label).startswith(MARK)]
        module.axis_options[:] = [*others, *_options(module.AxisOption)]
    return bool(modules)


def _options(option: Any) -> list[Any]:
    return [
        option(f"{MARK}Strength", float, _strength),
        option(f"{MARK}Multipliers (dd=0 attn2=0.5)", str, _factors, confirm=_check_factors),
        option(f"{MARK}Only layers", str, _only, confirm=_check_only),
    ]


def _strength(processing: Any, value: float, _values: Sequence[float]) -> None:
    processing.waveft_strength = float(value)


def _factors(processing: Any, value: str, _values: Sequence[str]) -> None:
    _add(processing, tags.parsed(value))


def _only(processing: Any, value: str, _values: Sequence[str]) -> None:
    _add(processing, {tags.ONLY: value.strip()})


def _add(processing: Any, given: dict[str, str]) -> None:
    # a new dict: a cell's copy of the processing shares the old one with the other cells
    processing.waveft_factors = {**getattr(processing, "waveft_factors", {}), **given}


def _check_factors(_processing: Any, values: Sequence[str]) -> None:
    for value in values:
        tags.multipliers("X/Y/Z plot", tags.parsed(value))


def _check_only(_processing: Any, values: Sequence[str]) -> None:
    for value in values:
        compiled(value.strip(), "X/Y/Z plot, only layers")
