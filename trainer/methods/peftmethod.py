"""What the methods of HF PEFT have in common: a layer of PEFT's stands before each layer that trains."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..base.layershapes import Layer
from ..job.schema import Job
from . import package
from .method import Method, dense_bytes

if TYPE_CHECKING:
    import torch

    from .injected import Injected, Site
    from .tuning import Host, Tuning, WarmUp


class PeftMethod(Method):
    """A method of HF PEFT's.

    Attributes:
        CONFIG: PEFT's class of its settings.
        MODEL: PEFT's class that puts its layers into a model.
        PARTS: what PEFT's layer calls its trained tensors, with what ends their names in the file.
        DENSE: whether it makes each layer's update whole in every pass.
        CONVOLUTIONS: whether it knows them.
    """

    PACKAGES = (package.PEFT,)
    TAPPED = 12.5
    CONFIG: ClassVar[str]
    MODEL: ClassVar[str]
    PARTS: ClassVar[Mapping[str, str]]
    DENSE: ClassVar[bool] = False
    CONVOLUTIONS: ClassVar[bool] = True

    @abstractmethod
    def settings(self, host: Host) -> dict[str, Any]:
        """Returns the arguments of PEFT's configuration, beside the layers."""

    @abstractmethod
    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
        """Returns the first values of a part, float32 on the CPU: PEFT's own, drawn by `draw`."""

    def counts(self, layers: Sequence[Layer]) -> list[int]:
        """Returns how many numbers each layer's parts hold."""
        return [self.count(layer.rows, layer.columns) for layer in layers]

    @abstractmethod
    def count(self, rows: int, columns: int) -> int:
        """Returns how many numbers train for a weight of so many rows and columns."""

    def faults(self, job: Job) -> list[str]:
        """Returns that the package lacks, or that the base's weights are stored in a way that the method cannot use."""
        found = [text] if (text := package.fault(self.NAME)) else []
        if self.DENSE and job.model.base_dtype == "nf4":
            found.append(
                f'[model] base_dtype: "nf4" stores weights in another shape, which {self.NAME} reads. Write "fp8".'
            )
        return found

    def held_bytes(self, layers: Sequence[Layer], counts: Sequence[int], checkpointing: bool, compute: int) -> float:
        """Returns what whole updates take, of a method that makes them."""
        return dense_bytes(layers, checkpointing, compute) if self.DENSE else 0.0

    def attach(self, host: Host, saved: Mapping[str, Any] | None = None, warm_up: WarmUp | None = None) -> Tuning:
        """Puts PEFT's layers before those that train."""
        from .injected import attach

        return attach(self, host)

    @abstractmethod
    def kohya(self) -> dict[str, str]:
        """Returns what kohya's tools call the kind of network and its size: `network_module`, `network_dim`, ..."""

    def begin(self, model: Any) -> None:
        """Is called once PEFT's layers are in a component: the place for what they share."""

    def tuning(self, models: Sequence[Any], sites: Sequence[Site]) -> Injected:
        """Returns what trains in the layers that were put in."""
        from .injected import Injected

        return Injected(self, models, sites)

    def shipped(self, site: Site) -> dict[str, torch.Tensor]:
        """Returns a layer's tensors for the file, by the endings of their names."""
        return {self.PARTS[part]: held.detach().clone() for part, held in site.parts.items()}

    def shared(self, model: Any) -> dict[str, torch.Tensor]:
        """Returns a component's tensors for the file that are no layer's own."""
        return {}

    def received(self, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the parts' values out of a layer's tensors in a file: what `shipped` gave, turned back."""
        return {part: held[ending] for part, ending in self.PARTS.items() if ending in held}

    def of_file(self, layers: Mapping[str, Mapping[str, torch.Tensor]]) -> PeftMethod:
        """Returns this method with the size that a file's layers have.

        Raises:
            UserError: the file's layers are of several sizes.
        """
        raise NotImplementedError(f"{self.NAME} has no key network_weights")


def kaiming(shape: Sequence[int], draw: torch.Generator) -> torch.Tensor:
    """Returns values as PyTorch's linear layers begin, which is what PEFT begins most factors with."""
    import torch

    return torch.nn.init.kaiming_uniform_(torch.empty(tuple(shape)), a=math.sqrt(5), generator=draw)


def nothing(shape: Sequence[int]) -> torch.Tensor:
    """Returns zeros."""
    import torch

    return torch.zeros(tuple(shape))
