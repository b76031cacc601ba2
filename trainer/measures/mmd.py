"""The maximum mean discrepancy of two sets of embeddings: CMMD where they are CLIP's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .similarity import unit

SIGMA, SCALE = 10.0, 1000.0  # of CMMD (Jayasumana et al. 2024)
BLOCK = 4096  # rows at a time: the kernel of 30,000 x 30,000 pictures would take 7 GB

Estimator = Literal["biased", "unbiased"]


def mmd(
    first: Tensor,
    second: Tensor,
    sigma: float = SIGMA,
    scale: float = SCALE,
    estimator: Estimator = "biased",
    normalise: bool = True,
) -> float:
    """Returns scale * MMD^2 of two sets with the kernel exp(-|x - y|^2 / (2 sigma^2)); 0 for equal sets, biased.

    Args:
        first: [n, d].
        second: [m, d].
        sigma: the kernel's width.
        scale: what the square is multiplied by, so that it reads well.
        estimator: "biased" = with the pairs of a row and itself, as CMMD has it; "unbiased" = without them, which may
            be negative.
        normalise: bring every row to length 1 first, as CMMD does.

    Raises:
        ValueError: too few rows for the estimator.
    """
    least = 1 if estimator == "biased" else 2
    if min(len(first), len(second)) < least:
        raise ValueError(f"embeddings: expected at least {least} on each side, got {len(first)} and {len(second)}.")
    x, y = (unit(rows) if normalise else rows.double() for rows in (first, second))
    within = [_within(rows, sigma, estimator) for rows in (x, y)]
    across = _kernel_sum(x, y, sigma) / (len(x) * len(y))
    return scale * (within[0] + within[1] - 2 * across)


def _within(rows: Tensor, sigma: float, estimator: Estimator) -> float:
    total, count = _kernel_sum(rows, rows, sigma), len(rows)
    if estimator == "unbiased":
        return (total - count) / (count * (count - 1))  # each row's kernel with itself is 1
    return total / count**2


def _kernel_sum(x: Tensor, y: Tensor, sigma: float) -> float:
    """Returns the sum of the kernel over all pairs of rows."""
    total = 0.0
    for rows in x.split(BLOCK):
        squares = rows.square().sum(1)[:, None] + y.square().sum(1) - 2 * rows @ y.T
        total += float(torch.exp(squares.clamp(min=0) / (-2 * sigma**2)).sum())
    return total
