"""The gradient of the loss with respect to a layer's coefficients, from the layer's input and its output's gradient.

    dL/dC = factor * D_m (dL/dW) D_n^T,   dL/dW = sum over tokens t of dy_t x_t^T

Two ways to the same numbers: `sampled` transforms dy and x and takes p dot products over tokens; `dense` makes dL/dW
with one GEMM and gathers each atom's k*k entries.  Neither makes a tensor of the weight's size that outlives its layer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .atoms import axis, coeffs_shape, matrix_shape
from .plan import arithmetic_dtype

TOKENS_PER_CHUNK = 256  # two transposed slices of this many tokens stay in a core's cache at SDXL's widths

GATHERED_AT_ONCE = 2**16  # entries of dL/dW: 0.8 MB of places and values, well below a weight

# Nanoseconds on one CPU core, read off SDXL's shapes (python -m benchmarks.gradient): a filter tap applied to one token
# of one channel, a term of a dot product, a multiply-add of the GEMM. Only their ratios matter.
_TAP_NS, _TERM_NS, _GEMM_NS = 0.63, 0.2, 0.031


@dataclass
class Sampler:
    """What one layer's gradient needs to know.

    Attributes:
        wavelet, mode, shape: the basis.
        rows, columns: [p] int64, each coefficient's place in C.
        factor: scaling * strength.
    """

    wavelet: str
    mode: str
    shape: tuple[int, int]
    rows: Tensor
    columns: Tensor
    factor: float
    _starts: Tensor | None = None

    @classmethod
    def of(cls, wavelet: str, mode: str, shape: tuple[int, ...], indices: Tensor, factor: float) -> Sampler:
        """Returns the sampler of a layer whose coefficients lie at `indices`, [p] int32 flat in C."""
        across = coeffs_shape(wavelet, mode, shape)[1]
        wide = indices.to(torch.int64)
        return cls(wavelet, mode, matrix_shape(shape), wide // across, wide % across, factor)

    def __call__(self, x: Tensor, grad: Tensor) -> Tensor:
        """Returns dL/dvalues, [p] in float32 (float64 where the input is).

        Args:
            x: [..., n], the layer's input.
            grad: [..., m], the gradient of its output.
        """
        m, n = self.shape
        x, grad = x.detach().reshape(-1, n), grad.detach().reshape(-1, m)  # [T, n], [T, m]
        way = self.sampled if x.device.type == "cpu" and self.sampling_pays() else self.dense
        with torch.autocast(x.device.type, enabled=False):  # a backward pass run within it would round to 16 bits
            return way(x, grad).mul_(self.factor)

    def sampling_pays(self) -> bool:
        """Returns whether the sampled way is the cheaper one on a CPU, per token."""
        m, n = self.shape
        taps = int(axis(self.wavelet, self.mode, n).positions.shape[1])
        return (m + n) * taps * _TAP_NS + self.rows.numel() * _TERM_NS < m * n * _GEMM_NS

    def sampled(self, x: Tensor, grad: Tensor) -> Tensor:
        """Returns sum_t (D_m dy_t)_i (D_n x_t)_j at the p positions, [p]; x: [T, n], grad: [T, m]."""
        m, n = self.shape
        wide = arithmetic_dtype(x.dtype)
        total = self._pattern(x.device, wide)  # sampled_addmm adds to it and returns a new one
        for start in range(0, x.shape[0], TOKENS_PER_CHUNK):
            chunk = slice(start, start + TOKENS_PER_CHUNK)
            left = axis(self.wavelet, self.mode, m).analyze(grad[chunk].to(wide))  # [M, T]
            right = axis(self.wavelet, self.mode, n).analyze(x[chunk].to(wide))  # [N, T]
            total = torch.sparse.sampled_addmm(total, left, right.t())
        return total.values()

    def dense(self, x: Tensor, grad: Tensor) -> Tensor:
        """Returns the same from dL/dW = dy^T x, [m, n], which lives for this call alone."""
        wide = arithmetic_dtype(x.dtype)
        if grad.dtype != x.dtype:
            grad, x = grad.to(wide), x.to(wide)
        if x.dtype != wide and x.device.type == "cuda":
            weight_grad = torch.mm(grad.t(), x, out_dtype=wide)  # 16-bit inputs, accumulated and kept in float32
        else:
            weight_grad = grad.to(wide).t() @ x.to(wide)
        n = self.shape[1]
        rows, columns = self._places(x.device)
        row_places, row_taps = _table(self.wavelet, self.mode, self.shape[0], x.device, wide)
        column_places, column_taps = _table(self.wavelet, self.mode, n, x.device, wide)
        span = max(1, GATHERED_AT_ONCE // (row_taps.shape[1] * column_taps.shape[1]))
        parts = []
        for i, j in zip(torch.split(rows, span), torch.split(columns, span), strict=True):
            entries = row_places[i][:, :, None] * n + column_places[j][:, None, :]  # [span, k, k]
            across = torch.einsum("pab,pb->pa", weight_grad.view(-1)[entries], column_taps[j])
            parts.append((across * row_taps[i]).sum(dim=1))
        return torch.cat(parts)

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the rows and columns on `device`, moved there once."""
        if self.rows.device != device:
            self.rows, self.columns = self.rows.to(device), self.columns.to(device)
        return self.rows, self.columns

    def _pattern(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Returns zeros [M, N] in CSR form with the p positions stored."""
        rows, columns = self._places(device)
        across, along = coeffs_shape(self.wavelet, self.mode, self.shape)
        if self._starts is None or self._starts.device != device:
            self._starts = torch.searchsorted(rows, torch.arange(across + 1, device=device))
        zeros = torch.zeros(columns.numel(), dtype=dtype, device=device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(self._starts, columns, zeros, (across, along), check_invariants=False)


@lru_cache(maxsize=64)
def _table(wavelet: str, mode: str, size: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns an axis's positions (cropped ones at 0, their taps being 0) and its taps, on `device`."""
    side = axis(wavelet, mode, size)
    return torch.from_numpy(side.positions.clip(min=0)).to(device), torch.from_numpy(side.taps).to(device, dtype)


class Tap(torch.autograd.Function):
    """Hands the layer's output on unchanged, and gives the coefficients their gradient on the way back."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, output: Tensor, x: Tensor, values: Tensor, sampler: Sampler
    ) -> Tensor:
        """Returns `output`, the same memory; saves the layer's input `x`."""
        ctx.save_for_backward(x)
        ctx.sampler, ctx.dtype = sampler, values.dtype  # type: ignore[attr-defined]
        return output.detach()  # not a view for autograd: the model may go on to change it in place

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        """Returns the output's gradient unchanged and the values' own."""
        (x,) = ctx.saved_tensors
        return grad, None, ctx.sampler(x, grad).to(ctx.dtype), None
