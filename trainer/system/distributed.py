"""The processes of a run: alone, or several that `accelerate launch` or `torchrun` started on one or more machines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

T = TypeVar("T")
PATIENCE = timedelta(hours=3)  # while the first process draws samples or generates class pictures, the others wait


@dataclass(frozen=True)
class World:
    """This process's place among all.

    Attributes:
        rank: 0 to size - 1; 0 is the main process, which writes and prints.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums a tensor over the processes in place; returns it."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def gather(self, items: list[T]) -> list[T]:
        """Returns every process's items, in the order of the processes."""
        if self.size == 1:
            return items
        shares: list[list[T]] = [[] for _ in range(self.size)]
        torch.distributed.all_gather_object(shares, items)
        return [item for share in shares for item in share]

    def wait(self) -> None:
        """Returns when every process has come here."""
        if self.size > 1:
            torch.distributed.barrier()

    def alone(self) -> World:
        """Returns this process's place once it has failed: it ends without the others, and so they are ended too."""
        return World(self.rank, 1)

    def leave(self) -> None:
        """Parts from the other processes, when all have come here."""
        if self.size > 1:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


def rank() -> int:
    """Returns this process's rank as its launcher said it, before the processes have met."""
    return int(os.environ.get("RANK", "0"))


def join(device: torch.device) -> World:
    """Returns this process's place, connected to the others where there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    from accelerate.state import PartialState

    state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
    return World(state.process_index, state.num_processes)
