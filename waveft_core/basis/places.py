"""Which entries of a weight are touched, kept small, and their bits, read and written however the weight lies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # whole numbers: not every float has kernels


@dataclass(frozen=True)
class Places:
    """Some entries of a weight, each once, in an order of their own: blocks by their first entry, then the rest.

    Attributes:
        starts: [B] int32, the first entry of each block, flat in the weight.
        corners: where a block's entries lie from its first, in order.
        rest: [R] int32, entries of blocks that lie across an edge.
        paired: every block is two pairs of neighbours, each on an even entry, and there is no rest: read as pairs,
            memory is asked half as often.
    """

    starts: Tensor
    corners: tuple[int, ...]
    rest: Tensor
    paired: bool = False

    @classmethod
    def of(cls, entries: Tensor) -> Places:
        """Returns the places of `entries`, [E] int32, as they are."""
        return cls(entries, (0,), entries[:0])

    def __len__(self) -> int:
        return len(self.starts) * len(self.corners) + len(self.rest)

    @property
    def device(self) -> torch.device:
        """Where they are kept."""
        return self.starts.device

    @property
    def nbytes(self) -> int:
        """What they take."""
        return self.starts.nbytes + self.rest.nbytes

    def to(self, device: torch.device) -> Places:
        """Returns them on `device`."""
        if self.starts.device == device:
            return self
        return Places(self.starts.to(device), self.corners, self.rest.to(device), self.paired)

    def entries(self) -> Tensor:
        """Returns each entry, flat in the weight: [E] int32."""
        if self.corners == (0,):
            found = self.starts
        else:
            found = torch.stack([self.starts + corner for corner in self.corners], 1).view(-1)
        return torch.cat([found, self.rest]) if len(self.rest) else found

    def read(self, weight: Tensor) -> Tensor:
        """Returns what stands there, [E] in the weight's dtype."""
        memory, offsets = self._seen(weight)
        return memory.index_select(0, offsets).view(weight.dtype)

    def write(self, weight: Tensor, content: Tensor) -> None:
        """Writes `content`, [E] in the weight's dtype, in place; autograd sees it."""
        memory, offsets = self._seen(weight)
        _put(memory, offsets, content)

    def exchange(self, weight: Tensor, expected: Tensor, content: Tensor) -> bool:
        """Writes `content` where all of `expected` stands, bit for bit; else returns False and writes nothing.

        Both are [E] in the weight's dtype. To look costs next to nothing: what is to be written has to come from
        memory either way, and comes sooner where it is read. On a GPU it waits for the device.
        """
        memory, offsets = self._seen(weight)
        if not same_bits(memory.index_select(0, offsets).view(weight.dtype), expected):
            return False
        _put(memory, offsets, content)
        return True

    def _seen(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weight's bits as they lie in memory, one axis, and where the entries are in it."""
        flat, size = weight.detach(), weight.element_size()
        if not weight.is_contiguous():
            span = 1 + sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
            return flat.as_strided((span,), (1,)).view(BITS[size]), self._strided(weight)
        flat = flat.view(-1)
        if (
            self.paired
            and 2 * size in BITS
            and weight.storage_offset() % 2 == 0
            and weight.data_ptr() % (2 * size) == 0
        ):
            above = self.starts >> 1
            return flat.view(BITS[2 * size]), torch.stack((above, above + self.corners[2] // 2), 1).view(-1)
        return flat.view(BITS[size]), self.entries()

    def _strided(self, weight: Tensor) -> Tensor:
        """Returns where the entries lie in the memory of a weight that is not contiguous: [E] int64."""
        rest = self.entries().long()
        offsets = torch.zeros_like(rest)
        for size, stride in zip(reversed(weight.shape), reversed(weight.stride()), strict=True):
            offsets += rest % size * stride
            rest = rest // size
        return offsets


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Returns whether two tensors of one dtype hold the same bits: -0.0 is not 0.0, and a NaN is itself."""
    return torch.equal(a.view(BITS[a.element_size()]), b.view(BITS[b.element_size()]))


def _put(memory: Tensor, offsets: Tensor, content: Tensor) -> None:
    if content.storage_offset() % 2 and memory.element_size() > content.element_size():
        content = content.clone()
    memory.scatter_(0, offsets.long(), content.view(memory.dtype))  # not put_: it has no deterministic form
