"""What LoHa and LoKr have in common: their files are LyCORIS's, of one rank and alpha."""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from ..job.networks import Loha, Lokr
from ..system.errors import UserError
from .peftmethod import PeftMethod
from .usage import LYCORIS

ALPHA = "alpha"


class LycorisMethod(PeftMethod):
    """HF PEFT's method whose file is LyCORIS's."""

    PAPER = "https://arxiv.org/abs/2309.14859"
    USAGE = LYCORIS
    DENSE = True
    network: Loha | Lokr

    def kohya(self) -> dict[str, str]:
        """Returns LyCORIS's names of the sizes."""
        sizes = {"network_dim": str(self.network.network_dim), "network_alpha": f"{self.network.network_alpha:g}"}
        return {"network_module": "lycoris.kohya", **sizes}

    def sized(self, sizes: Collection[tuple[int, float]]) -> Self:
        """Returns the method at a file's rank and alpha.

        Args:
            sizes: those of the file's layers.

        Raises:
            UserError: there are several.
        """
        if len(sizes) > 1:
            raise UserError(
                f"[network] network_weights: expected one rank and alpha for all layers, got {sorted(sizes)}."
            )
        ((rank, alpha),) = sizes
        return type(self)(self.network.model_copy(update={"network_dim": rank, "network_alpha": alpha}))
