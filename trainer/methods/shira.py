"""SHiRA: entries of the update itself at drawn positions, WaveFT without its transform; its file is WaveFT's too."""

from __future__ import annotations

from .sparse import SparseMethod


class ShiraMethod(SparseMethod):
    """Sparse entries of the weight."""

    NAME = "shira"
    TITLE = "SHiRA"
    PAPER = "https://arxiv.org/abs/2406.13175"
