"""LoHa: the product, entry by entry, of two low-rank matrices. Its file is LyCORIS's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..job.networks import Loha
from ..system.errors import UserError
from .lycoris import ALPHA, LycorisMethod
from .peftmethod import kaiming, nothing

if TYPE_CHECKING:
    import torch

    from .injected import Site
    from .tuning import Host

PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


class LohaMethod(LycorisMethod):
    """HF PEFT's LoHa."""

    NAME = "loha"
    TITLE = "LoHa"
    TRAINED = tuple(f".{part}" for part in PARTS)
    CONFIG, MODEL = "LoHaConfig", "LoHaModel"
    PARTS: ClassVar[Mapping[str, str]] = {part: part for part in PARTS}
    TENSORS = 5
    network: Loha

    def words(self) -> str:
        """Returns rank and alpha."""
        return f"LoHa, rank {self.network.network_dim}, alpha {self.network.network_alpha:g}"

    def count(self, rows: int, columns: int) -> int:
        """Returns the size of all four matrices."""
        return 2 * self.network.network_dim * (rows + columns)

    def settings(self, host: Host) -> dict[str, Any]:
        """Returns rank and alpha."""
        return {"r": self.network.network_dim, "alpha": self.network.network_alpha}

    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns three matrices drawn, the last zero: the update is zero."""
        return nothing(shape) if part == PARTS[-1] else kaiming(shape, draw)

    def shipped(self, site: Site) -> dict[str, torch.Tensor]:
        """Returns the four matrices and alpha, of which LyCORIS's loaders make the factor alpha / rank."""
        import torch

        return {**super().shipped(site), ALPHA: torch.tensor(float(self.network.network_alpha))}

    def of_file(self, layers: Mapping[str, Mapping[str, torch.Tensor]]) -> LohaMethod:
        """Returns LoHa at the file's rank and alpha; UserError where it holds several, or is no LoHa."""
        if lacking := [name for name, held in layers.items() if not {*PARTS, ALPHA} <= held.keys()]:
            raise UserError(f"[network] network_weights: expected a LoHa, got layer {lacking[0]} without its parts.")
        sizes = {(held[PARTS[1]].shape[0], float(held[ALPHA])) for held in layers.values()}
        return self.sized(sizes)

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns alpha / rank times (w1_a @ w1_b) * (w2_a @ w2_b)."""
        first, second, third, fourth = (held[part].float() for part in PARTS)
        made = (first @ second) * (third @ fourth) * (float(held[ALPHA]) / len(second))
        return {"weight": made.reshape(tuple(shape))}
