"""A weight in memory: which ones can hold an update, where they lie, and whether they are as they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import WaveFTError

WEIGHT_DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)


def check_weight(weight: Tensor, layer: str) -> None:
    """Refuses a weight that cannot hold an update.

    Raises:
        WaveFTError: a meta tensor, a dtype without the arithmetic, or a weight whose entries share memory.
    """
    if weight.is_meta:
        raise WaveFTError(f'layer "{layer}": expected a weight with data, got a meta tensor. Load the model first.')
    if not can_hold(weight):
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHT_DTYPES)
        got = type(weight).__name__ if weight.dtype in WEIGHT_DTYPES else str(weight.dtype).removeprefix("torch.")
        raise WaveFTError(
            f'layer "{layer}": expected a weight of {expected}, got {got}. '
            "Load the model without quantisation, or attach the adapter: it then runs beside the weight."
        )
    if weight.is_inference() and not torch.is_inference_mode_enabled():
        raise WaveFTError(
            f'layer "{layer}": expected a weight that can be written, got one made under torch.inference_mode. '
            "Load the model outside it, or merge inside it."
        )
    if not weight.is_contiguous() and _overlaps(weight):
        raise WaveFTError(
            f'layer "{layer}": expected a weight whose entries have memory of their own, got strides '
            f"{weight.stride()} over {list(weight.shape)}. Call .contiguous()."
        )


def can_hold(weight: Tensor) -> bool:
    """Returns whether a weight is stored as plain numbers; quantised ones are not, and run beside (`beside.py`)."""
    return weight.dtype in WEIGHT_DTYPES and type(weight) in (Tensor, torch.nn.Parameter)


def where(weight: Tensor) -> tuple[Any, ...]:
    """Returns where and how a weight lies in memory: a fused one and its first slice share the address alone."""
    return weight.data_ptr(), weight.dtype, weight.shape, weight.stride()


def fingerprint(weight: Tensor) -> tuple[Any, ...]:
    """Returns what changes when a weight is moved, cast or, as far as PyTorch knows, written to."""
    version = -1 if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.dtype, weight.device, weight.stride()


def lay_together(weights: Iterable[Tensor]) -> None:
    """Moves weights into one piece of memory for each device and dtype, so that one kernel can write all of them.

    They stay the tensors that they are, with their contents and flags. Call it before anything is attached: a ledger
    follows a weight that was moved, at the price of a look at it. While it runs, their memory is there twice; aliases
    that somebody else holds, such as an earlier `state_dict()`, stay with the old one.

    Args:
        weights: those that are not contiguous, or not stored as plain numbers, are left where they are.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for weight in {id(weight): weight for weight in weights}.values():
        if can_hold(weight) and weight.is_contiguous() and not weight.is_inference():
            groups.setdefault((weight.device, weight.dtype), []).append(weight)
    for (device, dtype), held in groups.items():
        together = torch.empty(sum(weight.numel() for weight in held), dtype=dtype, device=device)
        for weight, part in zip(held, torch.split(together, [weight.numel() for weight in held]), strict=True):
            weight.data = part.view_as(weight).copy_(weight.data)  # frees its own memory before the next one's turn


def shared_memory(tensors: Sequence[Tensor]) -> Tensor | None:
    """Returns the one piece of memory that several contiguous tensors lie in, flat and in their dtype, if they do."""
    first = tensors[0]
    if len(tensors) == 1 or any(
        other.untyped_storage()._cdata != first.untyped_storage()._cdata
        or other.dtype != first.dtype
        or not other.is_contiguous()
        for other in tensors
    ):
        return None
    end = max(tensor.storage_offset() + tensor.numel() for tensor in tensors)
    return first.detach().as_strided((end,), (1,), 0)


def end_to_end(tensors: Sequence[Tensor]) -> Tensor:
    """Returns tensors [p] one behind the other, detached: a view where they lie so, else a copy."""
    memory, place = shared_memory(tensors), tensors[0].storage_offset()
    for tensor in tensors if memory is not None else ():
        if tensor.storage_offset() != place:
            memory = None
            break
        place += tensor.numel()
    if memory is None:
        return torch.cat([tensor.detach() for tensor in tensors])
    return memory[tensors[0].storage_offset() :]


def _overlaps(weight: Tensor) -> bool:
    """Returns whether two entries may share memory."""
    reach = 0
    for stride, size in sorted(zip(weight.stride(), weight.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False
