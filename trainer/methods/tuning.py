"""What trains in the models, whatever the method: its numbers, their state in and out, and what a file will hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class Host:
    """What a method is put into.

    Attributes:
        components: the models that are adapted, "unet" and, where they train too, "te1" and "te2".
        beside: whether an update should run beside the weights, which are too coarse to hold it.
        seed: of the run, for first values that are drawn.
        steps: optimizer steps of the run, for a method that follows a schedule.
    """

    components: Mapping[str, nn.Module]
    beside: bool
    seed: int
    steps: int


class WarmUp(Protocol):
    """Gradients of the untrained base."""

    def backward(self, batches: int) -> None:
        """Runs `loss.backward()` for this process's share of so many batches."""

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor over the processes in place; returns it."""


class Product(ABC):
    """What a file will hold, copied: training may go on meanwhile.

    Attributes:
        layers: how many it has.
        kohya: what kohya's tools call the kind of network and its size: `network_module`, `network_dim`, ...
        told: what it is, in the place where they have a network's own arguments.
    """

    layers: int
    kohya: dict[str, str]
    told: dict[str, str]

    @abstractmethod
    def save(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str] | None = None) -> None:
        """Writes the file, whole or not at all, the same product always as the same bytes.

        Args:
            path: what is there is replaced.
            dtype: of the trained numbers: float32, float16 or bfloat16.
            metadata: strings for the file's header.

        Raises:
            WaveFTError: numbers that `dtype` cannot hold.
            OSError: it cannot be written.
        """

    @abstractmethod
    def is_in(self, path: Path, dtype: torch.dtype) -> bool:
        """Returns whether the file, read back, holds what was written."""

    @abstractmethod
    def save_diff(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        """Writes the same as whole differences of weights, `<layer>.diff`, which every UI loads."""

    def save_folders(self, path: Path) -> list[Path]:
        """Writes the folders that HF PEFT loads, of a method whose files no UI does; returns their files."""
        return []


class Tuning(ABC):
    """What trains in the models, until `detach`.

    Attributes:
        layers: the layers' names in the file, each with its numbers, in one order for good.
        paths: the layers' names, each with its path as patterns see it.
    """

    layers: dict[str, list[nn.Parameter]]
    paths: dict[str, str]

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def numel(self) -> int:
        """How many numbers train."""
        return sum(parameter.numel() for parameter in self.parameters())

    def parameters(self) -> list[nn.Parameter]:
        """Returns the numbers, float32, in the order of `layers`."""
        return [parameter for held in self.layers.values() for parameter in held]

    @abstractmethod
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the numbers by name, detached and sharing memory with the parameters."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the numbers from `state`; WaveFTError where it has others than these."""

    def memory(self) -> dict[str, Any]:
        """Returns what a run that goes on needs beside the numbers: tensors and plain values."""
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to remember
        """Takes what `memory` gave, unless `attach` did."""

    @contextmanager
    def swapped(self, values: Sequence[torch.Tensor]) -> Iterator[None]:
        """Inside, the numbers are `values`, in the order of `parameters`; afterwards their own again."""
        own = [parameter.detach().clone() for parameter in self.parameters()]
        try:
            self._fill(values)
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters(), values, strict=True):
            parameter.copy_(value)

    @abstractmethod
    def disabled(self) -> AbstractContextManager[None]:
        """Returns a context in which the models compute as if nothing had been attached."""

    @abstractmethod
    def detach(self) -> None:
        """Takes everything out: the models are as they were, bit for bit."""

    def penalty(self) -> torch.Tensor | None:
        """Returns what is added to an optimizer step's loss beside the pictures' own, [] float32, or None."""
        return None

    def stepped(self, step: int) -> None:  # noqa: B027 - most have nothing to do
        """Is told that the optimizer has done its step of that number, counted from 1; gradients are still there."""

    @abstractmethod
    def product(self) -> Product:
        """Returns what a file will hold, as the numbers are now."""
