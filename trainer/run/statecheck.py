"""Whether a state's content is what a run keeps, and one of this run: a file from elsewhere may hold anything.

Torch is imported where tensors are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..system.console import counted

DEEPEST = 12  # tables in tables: an optimizer's state has four


def fault(value: Any, size: int, place: str = "", depth: int = 0) -> str:
    """Returns what in a state no run could have kept, with its place, or "".

    Args:
        value: of the state, or of a part of it.
        size: bytes of its file, which no tensor in it can exceed.
        place: of the part, for the message.
        depth: tables around it.
    """
    import torch

    if isinstance(value, torch.Tensor):
        return tensor_fault(value, size, place)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place}: expected a finite number, got {value}"
    if isinstance(value, str | int | float | None):  # bool is an int
        return ""
    if not isinstance(value, dict | list | tuple):
        return f"{place}: expected tensors and plain values, got {type(value).__name__}"
    if depth > DEEPEST:
        return f"{place}: expected at most {DEEPEST} tables in one another, got more"
    return next(filter(None, (fault(item, size, f"{place}/{key}", depth + 1) for key, item in items(value))), "")


def items(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the keys and values of a table, or the places and entries of a list."""
    yield from value.items() if isinstance(value, dict) else enumerate(value)


def tensor_fault(tensor: Any, size: int, place: str) -> str:
    """Returns why a tensor is none that was kept, or ""."""
    import torch

    dense = tensor.layout == torch.strided and not tensor.is_quantized and tensor.is_contiguous()
    if not dense or tensor.numel() * tensor.element_size() > size:
        return f"{place}: expected a tensor as it lies in memory, got one of {list(tensor.shape)} that its file lacks"
    if tensor.is_floating_point() and not tensor.float().isfinite().all():
        return f"{place}: expected finite numbers, got NaN or infinity"
    return ""


def other(saved: Any, now: Any, place: str = "") -> str:
    """Returns where a part of a state has another form than what this run would keep, with its place, or "".

    Args:
        saved: of the state.
        now: the same part of the run as it begins or, for an optimizer, after a step.
        place: of the part, for the message.
    """
    import torch

    if isinstance(now, torch.Tensor):
        same = isinstance(saved, torch.Tensor) and saved.shape == now.shape and saved.dtype == now.dtype
        return "" if same else f"{place}: expected {described(now)}, got {described(saved)}"
    if isinstance(now, Mapping):
        if not isinstance(saved, Mapping) or saved.keys() != now.keys():
            return f"{place}: expected {listed(now)}, got {listed(saved)}"
        return next(filter(None, (other(saved[key], now[key], f"{place}/{key}") for key in now)), "")
    if isinstance(now, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(now):
            return f"{place}: expected {described(now)}, got {described(saved)}"
        pairs = enumerate(zip(saved, now, strict=True))
        return next(filter(None, (other(one, its, f"{place}/{number}") for number, (one, its) in pairs)), "")
    numbers = isinstance(now, int | float) and isinstance(saved, int | float)
    # what is None before the first step may be anything plain after it
    if numbers or now is None or type(saved) is type(now):
        return ""
    return f"{place}: expected {described(now)}, got {described(saved)}"


def described(value: Any) -> str:
    """Returns what a value is, in a few words."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return counted(len(value), "entry") if isinstance(value, dict | list | tuple) else repr(value)[:40]


def listed(table: Any) -> str:
    """Returns the first keys of a table."""
    return ", ".join(str(key) for key in list(table)[:4]) or "none" if isinstance(table, Mapping) else described(table)
