"""LoKr: a Kronecker product of two matrices, the larger one of low rank. Its file is LyCORIS's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..job.networks import Lokr
from ..system.errors import UserError
from .lycoris import ALPHA, LycorisMethod
from .peftmethod import kaiming, nothing

if TYPE_CHECKING:
    import torch

    from .injected import Site
    from .tuning import Host

PARTS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")


class LokrMethod(LycorisMethod):
    """HF PEFT's LoKr."""

    NAME = "lokr"
    TITLE = "LoKr"
    TRAINED = tuple(f".{part}" for part in PARTS)
    CONFIG, MODEL = "LoKrConfig", "LoKrModel"
    PARTS: ClassVar[Mapping[str, str]] = {part: part for part in PARTS}
    network: Lokr

    def words(self) -> str:
        """Returns rank, alpha and factor."""
        network = self.network
        return f"LoKr, rank {network.network_dim}, alpha {network.network_alpha:g}, factor {network.factor}"

    def count(self, rows: int, columns: int) -> int:
        """Returns the size of both matrices, each whole or as a product."""
        rank, (few_rows, many_rows) = self.network.network_dim, split(rows, self.network.factor)
        few_columns, many_columns = split(columns, self.network.factor)
        small, large = few_rows * few_columns, many_rows * many_columns
        if self.network.decompose_both and rank < max(few_rows, few_columns) / 2:
            small = rank * (few_rows + few_columns)
        if rank < max(many_rows, many_columns) / 2:
            large = rank * (many_rows + many_columns)
        return small + large

    def settings(self, host: Host) -> dict[str, Any]:
        """Returns rank, alpha, and how sides are cut."""
        network = self.network
        return {
            "r": network.network_dim,
            "alpha": network.network_alpha,
            "decompose_factor": network.factor,
            "decompose_both": network.decompose_both,
        }

    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns everything drawn but the first factor, which is zero: the update is zero."""
        return nothing(shape) if part in ("lokr_w1", "lokr_w1_a") else kaiming(shape, draw)

    def shipped(self, site: Site) -> dict[str, torch.Tensor]:
        """Returns the matrices with alpha, of which LyCORIS's loaders make the factor alpha / rank.

        Where both matrices are whole there is no rank, and they take no factor: it goes into the first one.
        """
        import torch

        held = super().shipped(site)
        if "lokr_w1" in held and "lokr_w2" in held:
            return {**held, "lokr_w1": held["lokr_w1"] * self.factor}
        return {**held, ALPHA: torch.tensor(float(self.network.network_alpha))}

    def received(self, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the parts, the factor taken out of the first matrix again."""
        given = super().received(held)
        if ALPHA not in held:
            given["lokr_w1"] = given["lokr_w1"].float() / self.factor
        return given

    @property
    def factor(self) -> float:
        """What the update is multiplied by."""
        return self.network.network_alpha / self.network.network_dim

    def of_file(self, layers: Mapping[str, Mapping[str, torch.Tensor]]) -> LokrMethod:
        """Returns LoKr at the file's rank and alpha.

        Raises:
            UserError: it is no LoKr, or holds several sizes. How sides were cut is the job's `factor` to say.
        """
        if lacking := [name for name, held in layers.items() if not held.keys() & set(PARTS)]:
            raise UserError(f"[network] network_weights: expected a LoKr, got layer {lacking[0]} without its parts.")
        sizes = {
            (len(held[part]), float(held[ALPHA])) for held in layers.values() for part in PARTS[2::3] if part in held
        }
        # all matrices whole: any rank from half their longest side on says so, and the factor is theirs already
        longest = max(max(held["lokr_w2"].shape) for held in layers.values()) if not sizes else 0
        return self.sized(sizes or {(longest, float(longest))})

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns the Kronecker product, by alpha / rank where one of its matrices is a product itself."""
        import torch

        wide = {name: tensor.float() for name, tensor in held.items()}
        rank = next((len(wide[part]) for part in ("lokr_w2_b", "lokr_w1_b") if part in wide), None)
        first = wide["lokr_w1"] if "lokr_w1" in wide else wide["lokr_w1_a"] @ wide["lokr_w1_b"]
        second = wide["lokr_w2"].flatten(1) if "lokr_w2" in wide else wide["lokr_w2_a"] @ wide["lokr_w2_b"]
        factor = float(held[ALPHA]) / rank if rank and ALPHA in held else 1.0
        return {"weight": (torch.kron(first, second) * factor).reshape(tuple(shape))}


def split(side: int, factor: int) -> tuple[int, int]:
    """Returns a side as a product of two numbers, the smaller one first.

    They are as near to each other as its divisors allow, the smaller at most `factor` unless that is -1; a factor that
    divides the side is taken as it is, whichever is larger then.
    """
    if factor > 0 and side % factor == 0:
        return factor, side // factor
    most = side if factor == -1 else factor
    small = max(number for number in range(1, int(side**0.5) + 1) if side % number == 0 and number <= max(1, most))
    return small, side // small
