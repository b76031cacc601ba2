"""FourierFT: entries of the update's Fourier transform. Its file is this trainer's, and PEFT's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.layershapes import Layer
from ..job.networks import Fourierft
from ..job.schema import Job
from .method import HEADER
from .peftmethod import PeftMethod, nothing
from .usage import FOLDER

if TYPE_CHECKING:
    import torch

    from .injected import Injected, Site
    from .tuning import Host

SPECTRUM, INDICES, SCALING = "fourierft_spectrum", "fourierft_indices", "scaling"
PLACE = 4  # bytes of a position
SLOW = 1e-2  # learning rate below which the spectrum hardly moves: its authors take 0.05 to 0.3


class FourierftMethod(PeftMethod):
    """HF PEFT's FourierFT."""

    NAME = "fourierft"
    TITLE = "FourierFT"
    PAPER = "https://arxiv.org/abs/2405.03003"
    USAGE = FOLDER
    ARCHITECTURE = "fourierft"
    TRAINED = (f".{SPECTRUM}",)
    CONFIG, MODEL = "FourierFTConfig", "FourierFTModel"
    PARTS: ClassVar[Mapping[str, str]] = {SPECTRUM: SPECTRUM}
    DENSE, CONVOLUTIONS = True, False
    network: Fourierft

    def words(self) -> str:
        """Returns n and scaling."""
        start = "" if self.network.init_weights else ", from a random update"
        return f"FourierFT, {self.network.n_frequency} frequencies a layer, scaling {self.network.scaling:g}{start}"

    def count(self, rows: int, columns: int) -> int:
        """Returns n."""
        return self.network.n_frequency

    def file_bytes(self, layers: Sequence[Layer], counts: Sequence[int], value: int) -> int:
        """Returns the size of values and positions."""
        return sum((value + PLACE) * count + self.TENSORS * HEADER for count in counts)

    def notices(self, job: Job) -> list[str]:
        """Returns that the learning rate is far below those that move a spectrum, or that the start is noise."""
        found = []
        if job.optimizer.learning_rate < SLOW and not job.optimizer.learning_rate_pattern:
            found.append(
                f"[optimizer] learning_rate {job.optimizer.learning_rate:g} hardly moves fourierft, whose authors take "
                "0.05 to 0.3: the transform divides by the weight's size"
            )
        if not self.network.init_weights:
            found.append("[network] init_weights = false: training begins from a random update of every layer")
        return found

    def kohya(self) -> dict[str, str]:
        """Returns what kind it is."""
        return {"network_module": "peft.fourierft", "network_dim": str(self.network.n_frequency)}

    def settings(self, host: Host) -> dict[str, Any]:
        """Returns n, scaling, and the seed of the positions."""
        return {
            "n_frequency": self.network.n_frequency,
            "scaling": self.network.scaling,
            "random_loc_seed": self.network.random_loc_seed,
            "init_weights": self.network.init_weights,
        }

    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns zeros, or the normal draw that is PEFT's own default."""
        import torch

        return nothing(shape) if self.network.init_weights else torch.randn(tuple(shape), generator=draw)

    def shipped(self, site: Site) -> dict[str, torch.Tensor]:
        """Returns the spectrum with its positions, as PEFT drew them, and its factor."""
        import torch

        rows, columns = site.layer.indices["default"].cpu()
        flat = (rows * site.shape[1] + columns).to(torch.int32)
        return {**super().shipped(site), INDICES: flat, SCALING: torch.tensor(float(self.network.scaling))}

    def tuning(self, models: Sequence[Any], sites: Sequence[Site]) -> Injected:
        """Returns what trains, with PEFT's folders."""
        from .folders import Foldered

        return Foldered(self, models, sites)

    @staticmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns the real part of the inverse transform, times scaling."""
        import torch

        rows, columns = shape
        spectrum = torch.zeros(rows * columns)
        spectrum[held[INDICES].long()] = held[SPECTRUM].float().cpu()
        return {"weight": torch.fft.ifft2(spectrum.view(rows, columns)).real * float(held[SCALING])}
