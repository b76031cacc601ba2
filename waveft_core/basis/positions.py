"""Which positions of C hold coefficients, kept as a sparse matrix has them: two bytes for each where they fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """p positions of C [M, N], ascending.

    Attributes:
        edges: [M + 1] int16 or int32, where each row's begin among them.
        columns: [p] int16 or int32.
        along: N.
    """

    edges: Tensor
    columns: Tensor
    along: int

    @classmethod
    def of(cls, indices: Tensor, across: int, along: int) -> Positions:
        """Returns the positions at `indices`, [p] int32 flat in C, ascending, on their device."""
        flat = indices.cpu().numpy()
        rows = flat // along
        edges = np.zeros(across + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=across), out=edges[1:])
        found = cls(_narrow(edges, len(flat)), _narrow(flat - rows * along, along), along)
        return found.to(indices.device)

    def __len__(self) -> int:
        return len(self.columns)

    def to(self, device: torch.device) -> Positions:
        """Returns them on `device`."""
        if self.columns.device == device:
            return self
        return replace(self, edges=self.edges.to(device), columns=self.columns.to(device))

    def indices(self) -> Tensor:
        """Returns them flat in C: [p] int32."""
        edges = self.edges.int()
        rows = torch.arange(len(edges) - 1, dtype=torch.int32, device=edges.device)
        spread = torch.repeat_interleave(rows, edges[1:] - edges[:-1], output_size=len(self.columns))
        return spread.mul_(self.along).add_(self.columns)

    def plane(self, values: Tensor) -> Tensor:
        """Returns C [M, N] in CSR form, `values` [p] at the positions."""
        size = (len(self.edges) - 1, self.along)
        return torch.sparse_csr_tensor(self.edges.int(), self.columns.int(), values, size, check_invariants=False)


def _narrow(numbers: np.ndarray, most: int) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int16 if most < 2**15 else np.int32))
