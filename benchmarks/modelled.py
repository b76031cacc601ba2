"""Stand-ins for what tensors without memory cannot run, with the calls and the memory of what they stand for.

The bases in fewer bits, since neither diffusers' casting hooks nor bitsandbytes run on fakes: `Float8` casts its weight
for every matmul, as the hooks do, and `Float4` unpacks it, as bitsandbytes does.  And `Plane`, the sparse product of an
update that runs beside its weight.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

COMPUTE = torch.bfloat16


class Float8(nn.Linear):
    """A frozen linear layer stored in float8_e4m3fn and cast for each matmul, which keeps what was cast."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns x W^T + b, [..., m]."""
        return nn.functional.linear(x, self.weight.to(COMPUTE), self.bias)


class Float4(nn.Linear):
    """A frozen linear layer of four bits a weight, unpacked for each matmul, forward and back.

    Attributes:
        weight, scales: [m * n / 2, 1] and [m * n / 64] uint8: bitsandbytes' nf4 with its scales quantised again.
    """

    def pack(self) -> None:
        """Puts the packed tensors in the place of the weight."""
        count = self.in_features * self.out_features
        self.weight = nn.Parameter(torch.empty(count // 2, 1, dtype=torch.uint8), requires_grad=False)
        self.scales = nn.Buffer(torch.empty(math.ceil(count / 64), dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """Returns x W^T + b, [..., m]."""
        found: Tensor = _Unpacked.apply(x, self.weight, self.scales, self.bias, self.out_features)
        return found


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, count: int) -> Tensor:
        ctx.save_for_backward(packed, scales)
        ctx.shape = count, x.shape[-1]
        return nn.functional.linear(x, _unpacked(packed, scales, ctx.shape), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        packed, scales = ctx.saved_tensors
        return grads[0] @ _unpacked(packed, scales, ctx.shape), None, None, None, None


@torch.library.custom_op("waveft_benchmarks::unpack", mutates_args=())
def _unpack(packed: Tensor, scales: Tensor, m: int, n: int) -> Tensor:
    raise NotImplementedError("runs on fakes alone")


@_unpack.register_fake
def _(packed: Tensor, scales: Tensor, m: int, n: int) -> Tensor:
    return packed.new_empty(m, n, dtype=COMPUTE)


def _unpacked(packed: Tensor, scales: Tensor, shape: tuple[int, int]) -> Tensor:
    wide = scales.to(torch.float32)  # the scales' own scales: one kernel, as bitsandbytes has it
    return _unpack(packed, wide, *shape)


@torch.library.custom_op("waveft_benchmarks::sparse_product", mutates_args=())
def _sparse_product(starts: Tensor, columns: Tensor, values: Tensor, dense: Tensor, rows: int) -> Tensor:
    raise NotImplementedError("runs on fakes alone")


@_sparse_product.register_fake
def _(starts: Tensor, columns: Tensor, values: Tensor, dense: Tensor, rows: int) -> Tensor:
    return dense.new_empty(rows, dense.shape[1])


@dataclasses.dataclass
class Plane:
    """C in CSR form, as `Sampler.plane` gives it; fakes refuse that layout."""

    values: Tensor
    shape: tuple[int, int]

    def t(self) -> Plane:
        """Returns it transposed."""
        return Plane(self.values, self.shape[::-1])

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Returns the product with `dense`, one kernel."""
        count = self.values.numel()
        starts = dense.new_empty(self.shape[0] + 1, dtype=torch.int32)
        columns = dense.new_empty(count, dtype=torch.int32)
        found: Tensor = _sparse_product(starts, columns, self.values, dense, self.shape[0])
        return found
