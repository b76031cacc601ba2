"""What WaveFT and SHiRA have in common: some entries of a plane train, and the core does all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.layershapes import Layer
from ..job.network import Shira, Sparse, Waveft
from ..system.console import counted
from ..system.patterns import pattern
from .method import HEADER, Method
from .usage import OURS

if TYPE_CHECKING:
    from .tuning import Host, Tuning, WarmUp

TOUCHED = 40  # bytes for each coefficient: the places and original values of the entries that it reaches, for db1
PLACE = 4  # bytes of a coefficient's position in the file


class SparseMethod(Method):
    """A method of the core's."""

    UNIT = "coefficients"
    TRAINED = (".waveft_values",)
    USAGE = OURS
    ARCHITECTURE = "waveft"
    TAPPED = 4.0  # both attentions' inputs in 16 bits
    BESIDE = 53.0, 16.0  # transforms in float32, of what a layer sees and gives
    network: Sparse
    OWN: ClassVar[tuple[str, ...]] = ()  # what is said of it beside p and scaling

    def words(self) -> str:
        """Returns p and scaling."""
        return f"{counted(self.network.coefficients, 'coefficient')} a layer, {self.basis_words()}"

    def basis_words(self) -> str:
        """Returns scaling and what else there is beside p."""
        own = "".join(f"{getattr(self.network, key)}, " for key in self.OWN)
        return f"{own}scaling {self.network.scaling:g}"

    def size_words(self, counts: Sequence[int]) -> str:
        """Returns p, and the coefficients in all."""
        each = counted(counts[0], "coefficient")
        if len(set(counts)) > 1:
            each = f"{min(counts)} to {max(counts)} coefficients"
        return f"{counted(len(counts), 'layer')} of {each}: {sum(counts):,} in all"

    def counts(self, layers: Sequence[Layer]) -> list[int]:
        """Returns each layer's p: its pattern's, or the job's own, spread as m + n where it says so."""
        mean = sum(layer.rows + layer.columns for layer in layers) / max(1, len(layers))
        return [self._count(layer, mean) for layer in layers]

    def _count(self, layer: Layer, mean: float) -> int:
        network = self.network
        for expression, coefficients in network.coefficients_pattern.items():
            if pattern(expression).search(layer.path):
                return coefficients
        if network.allocation == "proportional":
            return max(1, round(network.coefficients * (layer.rows + layer.columns) / mean))
        return network.coefficients

    def file_bytes(self, layers: Sequence[Layer], counts: Sequence[int], value: int) -> int:
        """Returns the size of values and positions."""
        return sum((value + PLACE) * count + self.TENSORS * HEADER for count in counts)

    def held_bytes(self, layers: Sequence[Layer], counts: Sequence[int], checkpointing: bool, compute: int) -> float:
        """Returns what the entries that the coefficients reach take."""
        return float(TOUCHED * sum(counts))

    def attach(self, host: Host, saved: Mapping[str, Any] | None = None, warm_up: WarmUp | None = None) -> Tuning:
        """Puts the coefficients into the models' weights: from zero, or from the file that the job names."""
        from .coefficients import attach

        assert isinstance(self.network, Waveft | Shira)
        return attach(self.network, self.counts, host, saved or {}, warm_up)

    @staticmethod
    def delta(held: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
        """Is the core's own business: see `waveft_core.Adapter.delta`."""
        raise NotImplementedError("WaveFT files are the core's: waveft_core.load(path).delta(layer)")
