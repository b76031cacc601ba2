"""BitFit: the biases of layers, and nothing else. Its file holds differences of biases, which ComfyUI loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..base.layershapes import Layer
from ..job.networks import Bitfit
from .method import Method
from .usage import DIFFERENCES

if TYPE_CHECKING:
    import torch

    from .tuning import Host, Tuning, WarmUp

DIFFERENCE = "diff_b"


class BitfitMethod(Method):
    """Biases, trained beside the base's own so that they are float32 whatever those are."""

    NAME = "bitfit"
    TITLE = "BitFit"
    PAPER = "https://arxiv.org/abs/2106.10199"
    USAGE = DIFFERENCES
    TRAINED = (f".{DIFFERENCE}",)
    TENSORS = 1
    network: Bitfit

    def words(self) -> str:
        """Returns what trains."""
        return "BitFit, the biases of the layers"

    def counts(self, layers: Sequence[Layer]) -> list[int]:
        """Returns how many biases each layer has that has any."""
        return [layer.rows for layer in layers if layer.biased]

    def attach(self, host: Host, saved: Mapping[str, Any] | None = None, warm_up: WarmUp | None = None) -> Tuning:
        """Adds a difference to the outputs of every layer that has a bias."""
        from .biases import attach

        return attach(type(self), self.network, host)

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns the difference of the bias."""
        return {"bias": held[DIFFERENCE].float()}
