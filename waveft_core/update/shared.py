"""What the layers that see one input have in common: its cast, and its transform while the backward pass needs it."""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

MOST_SHARED = 2**23  # numbers of a transform that is kept for the next layer of the same input: 33 MB


class Shared:
    """What the layers that see one input have in common: its cast, and its transform while the backward pass needs it.

    The three projections of an attention see one tensor. It is found again by being the very object that the layer
    before was called with, unchanged since.

    Attributes:
        layers: how many have seen the input and not yet had their gradient.
    """

    def __init__(self, x: Tensor) -> None:
        self.layers = 0
        casts: dict[torch.dtype, Tensor] = {}
        self._casts = casts
        self._x, self._version = weakref.ref(x, lambda _: casts.clear()), x._version
        self._of: tuple[object, ...] = ()
        self._columns: list[Tensor] = []

    def is_of(self, x: Tensor) -> bool:
        """Returns whether this is of the tensor `x` as it is."""
        return self._x() is x and x._version == self._version

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns `x`, which this is of, detached and in `dtype`."""
        if dtype not in self._casts:
            self._casts[dtype] = x.detach().to(dtype)
        return self._casts[dtype]

    def columns(self, x: Tensor, basis: tuple[str, str]) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Returns the transform of `x` [T, n] by chunks, if it is at hand, and a list to fill if others will ask.

        Args:
            x: as one of the layers saved it.
            basis: its wavelet and mode.
        """
        of = (x.data_ptr(), x._version, x.shape, x.stride(), x.dtype, basis)
        if self._of and self._of[1:] == of:
            return self._columns, None
        if self.layers < 2 or x.numel() > MOST_SHARED:
            return None, None
        self._of, self._columns = (x, *of), []  # x is kept with it: nothing else comes to lie at its address
        return None, self._columns

    def done(self) -> None:
        """Takes note that one of the layers has its gradient; the last one lets go of the transform."""
        self.layers -= 1
        if self.layers < 1:
            self._of, self._columns = (), []


class _Seen(threading.local):
    """The input that this thread's layers saw last, until it dies."""

    shared: Shared | None = None


_SEEN = _Seen()


def shared_of(x: Tensor) -> Shared:
    """Returns what the layers that see `x` have in common."""
    found = _SEEN.shared
    if found is None or not found.is_of(x):
        found = _SEEN.shared = Shared(x)
    return found
