"""The products that LoRA and its kin store in place of dW.

LoRA   dW = alpha / r * up down             Hu et al., 2021 (with `mid`, LyCORIS's Tucker form of a convolution)
LoHa   dW = alpha / r * (a1 b1) * (a2 b2)   Hyeon-Woo et al., 2022; entry by entry
LoKr   dW = alpha / r * kron(w1, w2)        Yeh et al., 2024; alpha / r only where a factor is itself a product
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Read = Callable[[str], Tensor]

_HADA = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}


def product(read: Read, given: frozenset[str]) -> tuple[Tensor, int]:
    """Returns one layer's product without alpha / r, and r; r is 0 where nothing is to be scaled.

    Args:
        read: gives a part's tensor, in the dtype of the arithmetic.
        given: the parts that there are.

    Raises:
        RuntimeError: parts that belong to no kind, or shapes that do not fit.
    """
    if given == {"diff"}:
        return read("diff"), 0
    if given in ({"down", "up"}, {"down", "up", "mid"}):
        return _lora(read, "mid" in given)
    if given in (_HADA, _HADA | {"hada_t1", "hada_t2"}):
        return _loha(read, "hada_t1" in given)
    if _whole_lokr(given):
        return _lokr(read, given)
    raise RuntimeError("they are not those of one kind")


def _lora(read: Read, tucker: bool) -> tuple[Tensor, int]:
    up, down = read("up"), read("down")
    rank = down.shape[0]
    if tucker:  # a 3 x 3 kernel of the rank alone, between two 1 x 1 ones
        return torch.einsum("nmkl,in,mj->ijkl", read("mid"), up.flatten(1), down.flatten(1)), rank
    return (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:]), rank


def _loha(read: Read, tucker: bool) -> tuple[Tensor, int]:
    factors = []
    for side in ("1", "2"):
        left, right = read(f"hada_w{side}_a"), read(f"hada_w{side}_b")
        factors.append(_tucker(read(f"hada_t{side}"), left, right) if tucker else left @ right)
        rank = right.shape[0]
    return factors[0].mul_(factors[1]), rank


def _whole_lokr(given: frozenset[str]) -> bool:
    """Returns whether each of the two factors is there, once: whole, or as a product."""
    first, second = (
        {part.removeprefix(f"lokr_w{side}") for part in given if part.startswith(f"lokr_w{side}")} for side in "12"
    )
    rest = given - {f"lokr_w{side}{part}" for side in "12" for part in ("", "_a", "_b")}
    return (
        first in ({""}, {"_a", "_b"})
        and second in ({""}, {"_a", "_b"})
        and rest <= ({"lokr_t2"} if "_a" in second else set())
    )


def _lokr(read: Read, given: frozenset[str]) -> tuple[Tensor, int]:
    rank = 0
    if "lokr_w1" in given:
        first = read("lokr_w1")
    else:
        right = read("lokr_w1_b")
        first, rank = read("lokr_w1_a") @ right, right.shape[0]
    if "lokr_w2" in given:
        second = read("lokr_w2")
    else:
        left, right = read("lokr_w2_a"), read("lokr_w2_b")
        second = _tucker(read("lokr_t2"), left, right) if "lokr_t2" in given else left @ right.flatten(1)
        if right.dim() == 4 and "lokr_t2" not in given:
            second = second.reshape(left.shape[0], *right.shape[1:])
        rank = right.shape[0]
    if second.dim() == 4:
        first = first.reshape(*first.shape, 1, 1)
    return torch.kron(first, second.contiguous()), rank


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns LyCORIS's kernel of a core [r, r, kh, kw] and two sides, [r, out] and [r, in]."""
    return torch.einsum("ijkl,jr,ip->prkl", core, right, left)
