"""LoRA: a product of two thin matrices. Its file is kohya's, which every UI loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..job.networks import Lora
from ..system.errors import UserError
from .peftmethod import PeftMethod, kaiming, nothing
from .usage import KOHYA

if TYPE_CHECKING:
    import torch

    from .injected import Site
    from .tuning import Host

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


class LoraMethod(PeftMethod):
    """HF PEFT's LoRA."""

    NAME = "lora"
    TITLE = "LoRA"
    PAPER = "https://arxiv.org/abs/2106.09685"
    USAGE = KOHYA
    TRAINED = (f".{DOWN}", f".{UP}")
    CONFIG, MODEL = "LoraConfig", "LoraModel"
    PARTS: ClassVar[Mapping[str, str]] = {"lora_A": DOWN, "lora_B": UP}
    network: Lora

    def words(self) -> str:
        """Returns rank and alpha."""
        return f"LoRA, rank {self.network.network_dim}, alpha {self.network.alpha:g}"

    def count(self, rows: int, columns: int) -> int:
        """Returns the size of both matrices."""
        return self.network.network_dim * (rows + columns)

    def kohya(self) -> dict[str, str]:
        """Returns kohya's names of the sizes."""
        sizes = {"network_dim": str(self.network.network_dim), "network_alpha": f"{self.network.alpha:g}"}
        return {"network_module": "networks.lora", **sizes}

    def settings(self, host: Host) -> dict[str, Any]:
        """Returns rank and alpha."""
        return {"r": self.network.network_dim, "lora_alpha": self.network.alpha, "lora_dropout": 0.0}

    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns the first matrix drawn, the second zero: the update is zero."""
        return kaiming(shape, draw) if part == "lora_A" else nothing(shape)

    def shipped(self, site: Site) -> dict[str, torch.Tensor]:
        """Returns both matrices, and alpha by which kohya's rule makes the factor: alpha / rank."""
        import torch

        return {**super().shipped(site), ALPHA: torch.tensor(float(self.network.alpha))}

    def of_file(self, layers: Mapping[str, Mapping[str, torch.Tensor]]) -> LoraMethod:
        """Returns LoRA at the file's rank and alpha; UserError where it holds several, or is no LoRA."""
        if lacking := [name for name, held in layers.items() if not {DOWN, UP} <= held.keys()]:
            raise UserError(
                f"[network] network_weights: expected a LoRA with {DOWN} and {UP}, got layer {lacking[0]} without."
            )
        ranks = {held[DOWN].shape[0] for held in layers.values()}
        alphas = {float(held[ALPHA]) if ALPHA in held else float(held[DOWN].shape[0]) for held in layers.values()}
        if len(ranks) > 1 or len(alphas) > 1:
            raise UserError(
                "[network] network_weights: expected one rank and one alpha for all layers, got ranks "
                f"{sorted(ranks)} and alphas {sorted(alphas)}. Begin anew, or resize the file with its own tools."
            )
        return LoraMethod(self.network.model_copy(update={"network_dim": ranks.pop(), "network_alpha": alphas.pop()}))

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns alpha / rank times up @ down."""
        down, up = held[DOWN].float().flatten(1), held[UP].float().flatten(1)  # [r, n], [m, r]
        factor = float(held[ALPHA]) / len(down) if ALPHA in held else 1.0
        return {"weight": (up @ down * factor).reshape(tuple(shape))}
