"""WaveFT: wavelet coefficients of the update at drawn positions."""

from __future__ import annotations

from .sparse import SparseMethod


class WaveftMethod(SparseMethod):
    """This project's method."""

    NAME = "waveft"
    TITLE = "WaveFT"
    PAPER = "https://arxiv.org/abs/2505.12532"
    OWN = ("wavelet",)
