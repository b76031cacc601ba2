"""The face of a method, all that the trainer knows of one: what it costs and writes before torch, then what trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.layershapes import Layer
from ..job.networks import Network
from ..job.schema import Job
from ..system.console import counted
from .usage import Usage

if TYPE_CHECKING:
    import torch

    from .tuning import Host, Tuning, WarmUp

HEADER = 135  # bytes of a tensor's entry in a safetensors header: name, shape, offsets
BLOCK = 8  # layers of one transformer block, whose dense updates are there at once where blocks are computed again
TRANSIENT = 12  # bytes by entry of a dense update while it is made and its gradient is taken


class Method(ABC):
    """A method with the settings of a job.

    Attributes:
        NAME: as jobs and files write it.
        TITLE: as people write it.
        UNIT: what its trained numbers are called.
        PACKAGES: further ones that its numbers depend on.
        TRAINED: what ends the names of a file's tensors that hold trained numbers; the first is in every layer.
        TENSORS: of a layer in the file.
        PAPER: where it is described.
        USAGE: where its file loads.
        ARCHITECTURE: what tools call such a file, behind the base's name.
        TAPPED: bytes by token and width that it keeps of each transformer block for its own gradients, as counted.
        BESIDE: bytes by token and width, in and out, that it moves in a pass through a layer whose weight is in eight
            or four bits, and kernels that it starts there, as counted.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    UNIT: ClassVar[str] = "parameters"
    PACKAGES: ClassVar[tuple[str, ...]] = ()
    TRAINED: ClassVar[tuple[str, ...]]
    TENSORS: ClassVar[int] = 3
    PAPER: ClassVar[str]
    USAGE: ClassVar[Usage]
    ARCHITECTURE: ClassVar[str] = "lora"
    TAPPED: ClassVar[float] = 0.0
    BESIDE: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def __init__(self, network: Network) -> None:
        self.network = network

    # what can be said before torch is imported

    @abstractmethod
    def words(self) -> str:
        """Returns the settings in a few words."""

    def basis_words(self) -> str:
        """Returns the settings without what the number of trained numbers says already."""
        return self.words()

    def size_words(self, counts: Sequence[int]) -> str:
        """Returns how many numbers train, `counts` of them in each layer."""
        return f"{counted(len(counts), 'layer')}, {sum(counts):,} {self.UNIT} in all"

    @abstractmethod
    def counts(self, layers: Sequence[Layer]) -> list[int]:
        """Returns how many numbers train in each layer."""

    def file_bytes(self, layers: Sequence[Layer], counts: Sequence[int], value: int) -> int:
        """Returns the size of the file without its metadata, at `value` bytes a number."""
        return sum(value * count + self.TENSORS * HEADER for count in counts)

    def held_bytes(self, layers: Sequence[Layer], counts: Sequence[int], checkpointing: bool, compute: int) -> float:
        """Returns what training takes on the device beside the numbers, their gradients and the optimizer's state.

        Args:
            layers: of the base.
            counts: numbers of each that train.
            checkpointing: whether blocks are computed again in the backward pass.
            compute: bytes of a number that the base computes in.
        """
        return 0.0

    def faults(self, job: Job) -> list[str]:
        """Returns what keeps a job from being trained by this method."""
        return []

    def notices(self, job: Job) -> list[str]:
        """Returns what is no fault but may surprise."""
        return []

    # what needs torch

    @abstractmethod
    def attach(self, host: Host, saved: Mapping[str, Any] | None = None, warm_up: WarmUp | None = None) -> Tuning:
        """Puts what trains into the models, which compute with it from then on.

        Args:
            host: the models, and what the first values depend on.
            saved: what `Tuning.memory` gave, of a run that goes on.
            warm_up: gradients of the untrained base, for a method that looks at them first; None = it does without,
                and what it returns is good for finding out whether it fits.

        Raises:
            UserError: the job's [network] and the base do not go together, or a package is missing.
            WaveFTError: the same, from the core.
        """

    @staticmethod
    @abstractmethod
    def delta(held: Mapping[str, torch.Tensor], shape: Sequence[int]) -> dict[str, torch.Tensor]:
        """Returns what a layer's tensors in a file add: {"weight": float32 of `shape`}, or {"bias": [m] float32}.

        Args:
            held: the layer's tensors by the endings of their names.
            shape: of the layer's weight.
        """


def dense_bytes(layers: Sequence[Layer], checkpointing: bool, compute: int) -> float:
    """Returns what a method takes that makes each layer's update whole: one of every layer, or of a block's."""
    sizes = sorted(layer.rows * layer.columns for layer in layers)
    kept = sizes[-BLOCK:] if checkpointing else sizes
    return float(compute * sum(kept) + TRANSIENT * max(sizes, default=0))
