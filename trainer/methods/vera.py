"""VeRA: trained vectors around two random matrices that all layers share. Its file is this trainer's, and PEFT's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.layershapes import Layer
from ..job.networks import Vera
from .method import HEADER
from .peftmethod import PeftMethod, nothing
from .usage import FOLDER

if TYPE_CHECKING:
    import torch

    from .injected import Injected, Site
    from .tuning import Host

ROWS, RANKS = "vera_lambda_b", "vera_lambda_d"  # the vectors over the weight's rows and over the ranks
FIRST, SECOND = "vera_A", "vera_B"  # the shared matrices, [r, n] and [m, r]


class VeraMethod(PeftMethod):
    """HF PEFT's VeRA."""

    NAME = "vera"
    TITLE = "VeRA"
    PAPER = "https://arxiv.org/abs/2310.11454"
    USAGE = FOLDER
    ARCHITECTURE = "vera"
    TRAINED = (f".{ROWS}", f".{RANKS}")
    CONFIG, MODEL = "VeraConfig", "VeraModel"
    PARTS: ClassVar[Mapping[str, str]] = {ROWS: ROWS, RANKS: RANKS}
    CONVOLUTIONS = False
    TENSORS = 2
    network: Vera

    def words(self) -> str:
        """Returns the rank."""
        return f"VeRA, rank {self.network.network_dim}, d_initial {self.network.d_initial:g}"

    def count(self, rows: int, columns: int) -> int:
        """Returns the size of both vectors."""
        return self.network.network_dim + rows

    def shared_numbers(self, layers: Sequence[Layer]) -> int:
        """Returns the size of the shared matrices: of the longest sides that there are."""
        longest = max((layer.rows for layer in layers), default=0) + max((layer.columns for layer in layers), default=0)
        return self.network.network_dim * longest

    def file_bytes(self, layers: Sequence[Layer], counts: Sequence[int], value: int) -> int:
        """Returns the size of the vectors and of the shared matrices."""
        return super().file_bytes(layers, counts, value) + value * self.shared_numbers(layers) + 2 * HEADER

    def held_bytes(self, layers: Sequence[Layer], counts: Sequence[int], checkpointing: bool, compute: int) -> float:
        """Returns what the shared matrices take, in float32."""
        return 4.0 * self.shared_numbers(layers)

    def kohya(self) -> dict[str, str]:
        """Returns the rank."""
        return {"network_module": "peft.vera", "network_dim": str(self.network.network_dim)}

    def settings(self, host: Host) -> dict[str, Any]:
        """Returns rank and seed; the shared matrices go into PEFT's folder."""
        return {
            "r": self.network.network_dim,
            "d_initial": self.network.d_initial,
            "projection_prng_key": self.network.projection_prng_key,
            "save_projection": True,
            "vera_dropout": 0.0,
        }

    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns the vector over the ranks at its first value, that over the rows zero: the update is zero."""
        return nothing(shape) if part == ROWS else nothing(shape) + self.network.d_initial

    def begin(self, model: Any) -> None:
        """Draws the shared matrices again in float32: PEFT has rounded them to the base's dtype."""
        import torch

        draw = torch.Generator("cpu").manual_seed(self.network.projection_prng_key)
        for name in (FIRST, SECOND):
            held = getattr(model, name)
            for key in list(held):
                drawn = torch.nn.init.kaiming_uniform_(torch.empty(held[key].shape), generator=draw)
                held[key] = drawn.to(held[key].device)

    def shared(self, model: Any) -> dict[str, torch.Tensor]:
        """Returns both shared matrices."""
        return {name: next(iter(getattr(model, name).values())).detach().clone() for name in (FIRST, SECOND)}

    def tuning(self, models: Sequence[Any], sites: Sequence[Site]) -> Injected:
        """Returns what trains, with PEFT's folders."""
        from .folders import Foldered

        return Foldered(self, models, sites)

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns diag(b) B diag(d) A, of A and B as much as the weight is large."""
        rows, columns = shape
        second, first = held[SECOND].float()[:rows], held[FIRST].float()[:, :columns]
        return {"weight": (held[ROWS].float()[:, None] * second) @ (held[RANKS].float()[:, None] * first)}
